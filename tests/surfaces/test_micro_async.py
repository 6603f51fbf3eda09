"""The asyncio twin: the same promises, awaited."""

import asyncio
import threading

import aiosqlite
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import everfresh
from everfresh.errors import ClosedError, ConfigurationError, RecursiveFillError, StatementError
from everfresh.micro import AsyncQueryCache, FormattingError

COUNT = "SELECT count(*) AS n FROM t WHERE kind = :k"


class AsyncRecorded:
    """Coroutines `one` and `all` that wait for an event, if there is one."""

    def __init__(self):
        self.asked, self.events, self.error = [], {}, None

    async def one(self, sql, params=None):
        self.asked.append(sql)
        n = len(self.asked)
        if sql in self.events:
            await self.events[sql].wait()
        if self.error is not None:
            raise self.error
        return {"sql": sql, "params": params, "n": n}

    async def all(self, sql, params=None):
        return [await self.one(sql, params)]


@pytest.fixture
def db():
    return AsyncRecorded()


@pytest.fixture
def path(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, kind INTEGER)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 1), (2, 1), (3, 2)"))
    engine.dispose()
    return f"{tmp_path}/a.db"


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


def test_the_three_forms(db):
    async def double(rows):
        return len(rows) * 2

    async def main():
        async with AsyncQueryCache(db) as cache:
            for _ in range(2):
                assert await cache(double, "q") == 2
                assert await cache(lambda a, b: (len(a), len(b)), "q", "r") == (1, 1)
                assert (await cache.one("q", {"a": 1}))["params"] == {"a": 1}
                assert await cache.all("q", [1, {"b": 2}], process=len) == 1
            assert len(db.asked) == 5
            assert cache.receipt("one", "q", {"a": 1}).status == "hit"

    asyncio.run(main())


def test_a_thousand_tasks_ask_once_and_delay_nobody(db):
    async def main():
        async with AsyncQueryCache(db) as cache:
            fast = await cache.one("fast")
            db.events["q"] = asyncio.Event()
            tasks = [asyncio.create_task(cache.one("q", {"n": 1})) for _ in range(1000)]
            await turns()
            assert await cache.one("fast") is fast
            db.events["q"].set()
            assert len({answer["n"] for answer in await asyncio.gather(*tasks)}) == 1
            assert db.asked == ["fast", "q"]

    asyncio.run(main())


def test_event_loops_in_several_threads_share_one_answer(db):
    cache = AsyncQueryCache(db)
    reached, opened, answers = threading.Event(), threading.Event(), []

    async def slow(row):
        reached.set()
        await asyncio.to_thread(opened.wait, 10)
        return row["n"]

    async def ask():
        answers.append(await cache.one("q", process=slow))

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert reached.wait(10)
    opened.set()
    for thread in threads:
        thread.join(10)
    assert answers == [1] * 4
    asyncio.run(cache.close())


def test_errors_are_kept_and_each_gets_its_own(db):
    async def main():
        cache = AsyncQueryCache(db)

        async def fail(row):
            raise LookupError("no")

        raised = []
        for _ in range(3):
            with pytest.raises(FormattingError, match="LookupError") as caught:
                await cache.one("q", process=fail)
            raised.append(caught.value)
        assert len({id(error) for error in raised}) == 3
        assert {type(error.__cause__) for error in raised} == {LookupError}
        db.error = OSError("gone")
        for _ in range(3):
            with pytest.raises(OSError, match="gone"):
                await cache.all("r")
        assert db.asked == ["q", "r"]
        await cache.close()

    asyncio.run(main())


def test_a_cancelled_owner_frees_the_entry(db):
    async def main():
        async with AsyncQueryCache(db) as cache:
            db.events["q"] = asyncio.Event()
            owner = asyncio.create_task(cache.one("q"))
            await turns()
            waiter = asyncio.create_task(cache.one("q"))
            await turns()
            owner.cancel()
            with pytest.raises(asyncio.CancelledError):
                await owner
            db.events["q"].set()
            assert (await waiter)["n"] == 2

    asyncio.run(main())


def test_re_entry(db):
    async def main():
        async with AsyncQueryCache(db) as cache:

            async def outer(rows):
                return await cache(len, "inner")

            async def own(rows):
                return await cache(own, "own")

            assert await cache(outer, "outer") == 1
            with pytest.raises(RecursiveFillError):
                await cache(own, "own")

    asyncio.run(main())


def test_closing_and_misuse(db):
    async def main():
        async with AsyncQueryCache(db) as cache:
            await cache.one("q")
        for ask in (cache.one, cache.all, lambda sql: cache(len, sql)):
            with pytest.raises(ClosedError):
                await ask("q")
        assert cache.entries() == []

    asyncio.run(main())
    with pytest.raises(ConfigurationError, match="event loop"):
        AsyncQueryCache(sa.create_engine("sqlite://"))
    with pytest.raises(ConfigurationError, match="not int"):
        AsyncQueryCache(5)


def test_stale_while_revalidate(db):
    now = [0.0]

    async def main():
        options = {"stale_while_revalidate": 10, "clock": lambda: now[0]}
        async with AsyncQueryCache(db, **options) as cache:
            old = await cache.one("q")
            now[0] += 5
            db.events["q"] = asyncio.Event()
            assert [await cache.one("q") for _ in range(5)] == [old] * 5
            await turns()
            assert db.asked == ["q", "q"]
            db.events["q"].set()
            await turns()
            assert (await cache.one("q"))["n"] == 2
            now[0] += 5
            db.events["q"] = asyncio.Event()
            assert (await cache.one("q"))["n"] == 2
            await turns()
            assert len(asyncio.all_tasks()) == 2
        assert len(asyncio.all_tasks()) == 1  # closing cancelled the refresh

    asyncio.run(main())


def test_a_factory_of_connections(path):
    async def main():
        async with AsyncQueryCache(lambda: aiosqlite.connect(path)) as cache:
            assert await cache.one(COUNT, {"k": 1}) == {"n": 2}
            assert await cache.all("SELECT id FROM t WHERE kind = ?", (2,)) == [{"id": 3}]
            assert await cache(len, "SELECT id FROM t") == 3
            with pytest.raises(StatementError, match="no rows"):
                await cache.one("CREATE TABLE x (n)")
            with pytest.raises(StatementError, match="one row"):
                await cache.one("SELECT id FROM t")

    asyncio.run(main())


def test_a_factory_of_postgres_connections(postgres_url):
    import psycopg

    dsn = postgres_url.replace("+psycopg", "")

    async def main():
        async with AsyncQueryCache(lambda: psycopg.AsyncConnection.connect(dsn)) as cache:
            assert await cache.one("SELECT %(a)s::int AS a", {"a": 2}) == {"a": 2}
            assert await cache.one("SELECT '%' AS a") == {"a": "%"}

    asyncio.run(main())


@pytest.fixture(params=["sqlite", "postgresql"])
def async_url(request):
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{request.getfixturevalue('path')}"
    return request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")


def test_an_async_engine(async_url):
    async def main():
        engine = create_async_engine(async_url)
        async with AsyncQueryCache(engine) as cache:
            assert await cache.one("SELECT :a + 1 AS b", {"a": 2}) == {"b": 3}
            assert await cache(lambda rows: rows, "SELECT ' :x %' AS b") == [{"b": " :x %"}]
        await engine.dispose()

    asyncio.run(main())


def test_commits_through_an_async_engine_are_heard(async_url):
    async def main():
        engine = create_async_engine(async_url)
        async with engine.begin() as connection:
            await connection.execute(sa.text("DROP TABLE IF EXISTS t"))
            await connection.execute(
                sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, kind INTEGER)")
            )
        cache = everfresh.open(engine)
        async with AsyncQueryCache(engine, 60, cache=cache) as micro:
            kept = await micro.all(COUNT, {"k": 1})
            assert kept == [{"n": 0}]
            assert await micro.all(COUNT, {"k": 1}) is kept
            async with engine.begin() as connection:
                await connection.execute(sa.text("INSERT INTO t VALUES (1, 1)"))
            assert await micro.all(COUNT, {"k": 1}) == [{"n": 1}]
            assert micro.receipt("all", COUNT, {"k": 1}).proof.startswith("session feed")
        cache.close()
        await engine.dispose()

    asyncio.run(main())


def test_commits_through_a_blocking_engine_are_heard(path):
    async def main():
        with everfresh.open(f"sqlite:///{path}") as cache:
            async with AsyncQueryCache(cache.engine, 60, cache=cache) as micro:
                assert await micro.one(COUNT, {"k": 1}) == {"n": 2}
                with cache.engine.begin() as connection:
                    connection.execute(sa.text("INSERT INTO t VALUES (4, 1)"))
                assert await micro.one(COUNT, {"k": 1}) == {"n": 3}

    asyncio.run(main())
