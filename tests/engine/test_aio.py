"""The asyncio cache: one machine for tasks, threads and event loops."""

import asyncio
import contextvars
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import everfresh
from everfresh.errors import (
    ClosedError,
    ConfigurationError,
    DatabaseNotFoundError,
    MissingExtraError,
    NotKeptError,
    RecursiveFillError,
    StatementError,
)

from .aio import POSTGRES, SQLITE, Gate, run, turns
from .conftest import JUNE, make_flights

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"


@pytest.fixture(scope="module")
def postgres_flights(postgres_url):
    engine = sa.create_engine(postgres_url)
    make_flights(engine)
    yield postgres_url
    engine.dispose()


@pytest.fixture(params=[*SQLITE, *POSTGRES])
def database(request):
    """The URL of a database of flights, for each kind of driver."""
    if request.param in SQLITE:
        return request.getfixturevalue("url").replace("sqlite", request.param, 1)
    url = request.getfixturevalue("postgres_flights")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE flights"))
    make_flights(engine)
    engine.dispose()
    return url.replace("postgresql+psycopg", request.param, 1)


@pytest.fixture(params=SQLITE)
def both(request, url):
    """A SQLite URL for threads, and one for greenlets."""
    return url.replace("sqlite", request.param, 1)


async def write(cache, statement):
    if cache.engine.dialect.is_async:
        async with AsyncEngine(cache.engine).begin() as connection:
            await connection.execute(sa.text(statement))
        return
    with cache.engine.begin() as connection:
        connection.execute(sa.text(statement))


def checked_out(cache):
    own = cache.blocking.reader._pool
    return cache.engine.pool.checkedout() + (0 if own is None else own.checkedout())


# -- asking


def test_every_driver_hits_refreshes_and_explains(database):
    async def main():
        async with everfresh.open_async(database) as cache:
            first = await cache.sql(COUNT, m=6)
            assert (first.scalar(), first.receipt.status) == (4, "fill")
            hit = await cache.sql(COUNT, {"m": 6})
            assert (hit.scalar(), hit.receipt.status) == (4, "hit")
            await write(cache, "DELETE FROM flights WHERE month = 6")
            again = await cache.sql(COUNT, m=6)
            assert (again.scalar(), again.receipt.status) == (0, "refresh")
            assert "flights" in str(cache.why(again))
            assert "asked for" in str(await cache.why_not(COUNT, m=7))
            assert (await cache.audit()).checked == 1
            assert [entry.label for entry in cache.entries()] == [COUNT]
            assert await cache.invalidate("flights") == 1
            assert "AsyncCache" in repr(cache)
            figures = cache.stats()
            assert (figures.fills, figures.refreshes, figures.hits) == (1, 1, 1)
            assert checked_out(cache) == 0

    run(main())


def test_a_hit_needs_no_event_loop(url):
    """No task, no greenlet, no lock: the coroutine ends at its first step."""

    async def main():
        cache = await everfresh.open_async(url)
        await cache.sql(COUNT, m=6)

        @cache.cached
        async def double(n):
            return n * 2

        await double(4)
        return cache, double

    cache, double = run(main())
    with pytest.raises(StopIteration) as hit:
        cache.sql(COUNT, m=6).send(None)
    assert hit.value.value.scalar() == 4
    with pytest.raises(StopIteration) as hit:
        double(4).send(None)
    assert hit.value.value == 8
    run(cache.close())


def test_what_is_not_kept_is_asked_again(both):
    async def main():
        async with everfresh.open_async(both) as cache:
            rows = await cache.sql("SELECT random() AS r")
            assert rows.receipt.status == "bypass"
            assert (await cache.sql("SELECT random() AS r")).scalar() != rows.scalar()
            for wrong in ("DELETE FROM flights", 7, []):
                with pytest.raises(StatementError):
                    await cache.sql(wrong)
            with pytest.raises(StatementError, match="no value was given for m"):
                await cache.sql(COUNT)
            with pytest.raises(sa.exc.OperationalError, match="no such table"):
                await cache.sql("SELECT * FROM nowhere")
            assert cache.stats().entries == 0

    run(main())


def test_ttl_of_a_view(url):
    now = [0.0]

    async def main():
        async with everfresh.open_async(url, clock=lambda: now[0]) as cache:
            short = cache.using(ttl=5)
            await short.sql(COUNT, m=6)
            now[0] = 4.0
            assert (await short.sql(COUNT, {"m": 6})).receipt.status == "hit"
            now[0] = 5.0
            assert (await short.sql(COUNT, m=6)).receipt.status != "hit"
            with pytest.raises(ConfigurationError, match="ttl"):
                cache.using(ttl=0)

    run(main())


# -- once


def test_a_thousand_tasks_at_one_cold_key_ask_once(database):
    async def main():
        async with everfresh.open_async(database) as cache:
            gate = Gate(cache.engine)
            tasks = [asyncio.create_task(cache.sql(COUNT, m=6)) for _ in range(1000)]
            await gate.reached()
            gate.open()
            answers = await asyncio.gather(*tasks)
            assert {rows.scalar() for rows in answers} == {4}
            assert gate.asked == 1
            assert cache.stats().fills == 1

    run(main())


def test_fifty_cold_statements_at_once_analyse_and_ask_once_each(database):
    """The plans are made at once too: over an asyncio driver nobody may block the loop's thread."""

    async def main():
        async with everfresh.open_async(database) as cache:
            gate = Gate(cache.engine, hold=0)
            asked = (f"{COUNT} AND id > {n % 50}" for n in range(500))
            answers = await asyncio.gather(*(cache.sql(text, m=6) for text in asked))
            assert len(answers) == 500
            assert gate.asked == 50

    run(main())


def test_tasks_and_threads_share_one_computation(url):
    async def main():
        async with everfresh.open_async(url) as cache:
            gate = Gate(cache.engine)
            with ThreadPoolExecutor(8) as pool:
                threads = [pool.submit(cache.blocking.sql, COUNT, m=6) for _ in range(8)]
                await gate.reached()
                tasks = [asyncio.create_task(cache.sql(COUNT, m=6)) for _ in range(50)]
                await turns()
                assert not any(task.done() for task in tasks)
                gate.open()
                answers = await asyncio.gather(*tasks, *map(asyncio.wrap_future, threads))
            assert {rows.scalar() for rows in answers} == {4}
            assert gate.asked == 1

    run(main())


def in_loops(count, story):
    """Run a coroutine function in as many event loops, each in a thread of its own."""
    with ThreadPoolExecutor(count) as pool:
        return [f.result(30) for f in [pool.submit(run, story()) for _ in range(count)]]


def test_event_loops_in_several_threads_share_one_computation(both):
    made = None
    if "aiosqlite" in both:
        made = create_async_engine(both, poolclass=sa.pool.NullPool)
    cache = run(opened(made or both))
    gate = Gate(cache.engine)

    async def ask():
        return [(await rows).scalar() for rows in [cache.sql(COUNT, m=6) for _ in range(5)]]

    async def open_when_reached():
        await gate.reached()
        gate.open()
        return await ask()

    with ThreadPoolExecutor(1) as pool:
        opener = pool.submit(run, open_when_reached())
        assert in_loops(4, ask) == [[4] * 5] * 4
        assert opener.result(30) == [4] * 5
    assert gate.asked == 1
    run(cache.close())
    if made is not None:
        run(made.dispose())


async def opened(database, **settings):
    return await everfresh.open_async(database, **settings)


# -- cancellation


def test_a_waiter_that_is_cancelled_harms_nobody(database):
    async def main():
        async with everfresh.open_async(database) as cache:
            gate = Gate(cache.engine)
            owner = asyncio.create_task(cache.sql(COUNT, m=6))
            await gate.reached()
            first, second = (asyncio.create_task(cache.sql(COUNT, m=6)) for _ in range(2))
            await turns()
            first.cancel()
            await turns()
            assert (first.cancelled(), owner.done(), second.done()) == (True, False, False)
            gate.open()
            assert ((await owner).scalar(), (await second).scalar(), gate.asked) == (4, 4, 1)

    run(main())


def test_one_waiter_takes_over_from_a_cancelled_owner(database):
    async def main():
        async with everfresh.open_async(database) as cache:
            gate = Gate(cache.engine)
            owner = asyncio.create_task(cache.sql(COUNT, m=6))
            await gate.reached()
            waiters = [asyncio.create_task(cache.sql(COUNT, m=6)) for _ in range(20)]
            await turns()
            owner.cancel()
            answers = await asyncio.gather(*waiters)
            assert owner.cancelled()
            assert {rows.scalar() for rows in answers} == {4}
            assert gate.asked == 2  # the owner's, and that of exactly one who took over
            gate.open()
        assert checked_out(cache) == 0

    run(main())


def test_all_are_cancelled_and_the_next_one_asks(database):
    async def main():
        async with everfresh.open_async(database) as cache:
            gate = Gate(cache.engine)
            tasks = [asyncio.create_task(cache.sql(COUNT, m=6)) for _ in range(10)]
            await gate.reached()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(error) for error in ended} == {asyncio.CancelledError}
            assert (await cache.sql(COUNT, m=6)).scalar() == 4
            gate.open()
        assert checked_out(cache) == 0

    run(main())


def test_a_timeout_is_a_cancellation(both):
    async def main():
        async with everfresh.open_async(both) as cache:
            gate = Gate(cache.engine)
            limit = asyncio.timeout(None)

            async def strike():
                await gate.reached()
                limit.reschedule(asyncio.get_running_loop().time())

            striking = asyncio.create_task(strike())

            async def ask_in_time():
                async with limit:
                    await cache.sql(COUNT, m=6)

            with pytest.raises(TimeoutError):
                await ask_in_time()
            await striking
            assert gate.asked == 1
            assert (await cache.sql(COUNT, m=6)).receipt.status == "fill"
            gate.open()

    run(main())


def test_an_event_loop_that_is_closed_in_the_middle_frees_its_keys(url):
    engine = create_async_engine(
        url.replace("sqlite", "sqlite+aiosqlite", 1), poolclass=sa.pool.NullPool
    )
    cache = run(opened(engine))
    reached = []

    @cache.cached
    async def compute():
        rows = await cache.sql(COUNT, m=6)
        if not reached:
            reached.append(1)
            await asyncio.Event().wait()
        return rows.scalar()

    loop = asyncio.new_event_loop()
    task = loop.create_task(compute())
    while not reached:
        loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, compute())
        del task, loop
        gc.collect()
        assert waiting.result(30) == 4
    run(cache.close())
    run(engine.dispose())


def test_a_task_group_that_fails_leaves_nothing_behind(both):
    async def main():
        async with everfresh.open_async(both) as cache:
            gate = Gate(cache.engine)

            async def fail():
                await gate.reached()
                raise LookupError("no")

            asked = []

            async def ask_together():
                async with asyncio.TaskGroup() as group:
                    asked.extend(group.create_task(cache.sql(COUNT, m=6)) for _ in range(5))
                    group.create_task(fail())

            with pytest.raises(ExceptionGroup) as raised:
                await ask_together()
            assert [type(error) for error in raised.value.exceptions] == [LookupError]
            assert all(task.cancelled() for task in asked)
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(cache.sql(COUNT, m=6)) for _ in range(5)]
            assert {task.result().scalar() for task in asked} == {4}
            gate.open()

    run(main())


# -- functions


def test_coroutines_depend_on_what_they_read(database):
    calls = []

    async def main():
        async with everfresh.open_async(database) as cache:

            @cache.cached
            async def inner(month):
                calls.append(month)
                return (await cache.sql(COUNT, m=month)).scalar()

            @cache.cached
            async def outer():
                return sum(await asyncio.gather(inner(5), inner(6), inner(6)))

            assert (await outer(), await outer()) == (12, 12)
            assert sorted(calls) == [5, 6]
            await write(cache, "DELETE FROM flights WHERE month = 6")
            assert await outer() == 4
            receipt = outer.receipt()
            assert receipt.status == "refresh"
            assert inner.key(5) in receipt.parents
            assert len(receipt.sources) >= 2
            await outer()
            assert outer.invalidate() == 1

    run(main())


def test_depends_on_is_looked_up_without_blocking(both):
    calls = []

    async def main():
        async with everfresh.open_async(both) as cache:

            @cache.cached(depends_on="flights")
            async def count(n):
                calls.append(n)
                return n

            assert await asyncio.gather(*(count(n % 3) for n in range(30))) == [0, 1, 2] * 10
            await write(cache, "DELETE FROM flights WHERE id = 1")
            await count(1)
            assert sorted(calls) == [0, 1, 1, 2]

            @cache.cached(depends_on="nowhere")
            async def wrong():
                return 1

            with pytest.raises(ConfigurationError, match="no table 'nowhere'"):
                await wrong()

    run(main())


def test_plain_functions_stay_plain(url):
    async def main():
        async with everfresh.open_async(url) as cache:

            @cache.cached
            def count(month):
                return cache.blocking.sql(COUNT, m=month).scalar()

            assert await asyncio.to_thread(count, 6) == 4
            assert count(6) == 4
            assert count.receipt(6).status == "hit"
            await write(cache, "DELETE FROM flights WHERE month = 6")
            assert await asyncio.to_thread(count, 6) == 0

    run(main())


def test_coroutines_that_would_wait_for_each_other_do_not_hang(both):
    async def main():
        async with everfresh.open_async(both) as cache:
            met = asyncio.Barrier(2)
            tries = []

            async def meet():
                tries.append(1)
                if len(tries) <= 2:
                    await met.wait()

            @cache.cached
            async def left():
                await meet()
                return ("left", len(tries) <= 2 and await asyncio.gather(right(), one(6)))

            @cache.cached
            async def right():
                await meet()
                return ("right", len(tries) <= 2 and await asyncio.gather(left(), one(6)))

            async def one(month):
                return (await cache.sql(COUNT, m=month)).scalar()

            answers = await asyncio.gather(left(), right())
            assert [answer[0] for answer in answers] == ["left", "right"]

            @cache.cached
            async def loop():
                return await loop()

            with pytest.raises(RecursiveFillError):
                await loop()

    run(main())


def test_a_blocking_call_in_the_loop_does_not_wait_for_the_tasks_it_stops(url):
    async def main():
        async with everfresh.open_async(url) as cache:
            gate = Gate(cache.engine)
            task = asyncio.create_task(cache.sql(COUNT, m=6))
            await gate.reached()
            rows = cache.blocking.sql(COUNT, m=6)  # waiting for the task would stop it for ever
            assert (rows.scalar(), rows.receipt.status) == (4, "bypass")
            assert "wait for each other" in rows.receipt.reason
            with ThreadPoolExecutor(1) as pool:  # one that waits for it over another thread
                waiting = pool.submit(cache.blocking.sql, COUNT, m=6)
                gate.open()
                assert (await task).scalar() == 4
                assert (await asyncio.wrap_future(waiting)).scalar() == 4
            assert gate.asked == 2

    run(main())


def test_an_error_reaches_everybody_as_an_exception_of_their_own(both):
    async def main():
        async with everfresh.open_async(both) as cache:
            gate = Gate(cache.engine)
            wrong = "SELECT abs(-9223372036854775807 - 1) FROM flights"  # an overflow, when it runs
            await cache.why_not(wrong)  # analysed before, so that nobody comes late for that
            tasks = [asyncio.create_task(cache.sql(wrong)) for _ in range(10)]
            await gate.reached()
            await turns()
            gate.open()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(error) for error in errors} == {sa.exc.OperationalError}
            assert len({id(error) for error in errors}) == 10
            assert gate.asked == 1
            with pytest.raises(sa.exc.OperationalError):
                await cache.sql(wrong)
            assert gate.asked == 2

            @cache.cached
            async def fail():
                raise TimeoutError("of its own")

            with pytest.raises(TimeoutError, match="of its own"):
                await fail()
            with pytest.raises(NotKeptError):
                fail.receipt()

    run(main())


def test_context_variables_reach_the_query(both):
    tenant, seen = contextvars.ContextVar("tenant", default="nobody"), []

    async def main():
        async with everfresh.open_async(both) as cache:

            def note(conn, cursor, statement, *rest):
                if "flights" in statement:
                    seen.append((tenant.get(), threading.current_thread().name))

            sa.event.listen(cache.engine, "before_cursor_execute", note)
            tenant.set("me")
            await cache.sql(COUNT, m=6)

    run(main())
    ((who, thread),) = seen
    assert who == "me"
    assert thread.startswith("everfresh-async") == ("aiosqlite" not in both)


def test_a_change_while_a_query_runs_voids_it(both):
    async def main():
        async with everfresh.open_async(both) as cache:
            gate = Gate(cache.engine)
            early = asyncio.create_task(cache.sql(COUNT, m=6))
            await gate.reached()
            await write(cache, "DELETE FROM flights WHERE month = 6")
            assert (await cache.sql(COUNT, m=6)).scalar() == 0  # shares nothing with the early one
            gate.open()
            assert (await early).receipt.status == "bypass"
            assert (await cache.sql(COUNT, m=6)).scalar() == 0
            assert cache.stats().voided == 1

    run(main())


# -- opening and closing


def test_it_is_awaited_or_entered(url):
    async def main():
        opening = everfresh.open_async(url)
        cache = await opening
        assert isinstance(cache, everfresh.AsyncCache)
        assert await opening is cache
        async with cache:
            await cache.sql(COUNT, m=6)
        with pytest.raises(ClosedError):
            await cache.sql(COUNT, m=6)
        for late in (cache.audit(), cache.invalidate(), cache.why_not(JUNE, m=6)):
            with pytest.raises(ClosedError):
                await late
        await cache.close()
        assert "closed" in repr(cache)

    run(main())


def test_closing_waits_for_what_runs_and_keeps_nothing(url):
    async def main():
        cache = await everfresh.open_async(url)
        gate = Gate(cache.engine)
        running = asyncio.create_task(cache.sql(COUNT, m=6))
        await gate.reached()
        closing = asyncio.create_task(cache.close())
        await turns()
        assert not closing.done()
        gate.open()
        assert (await running).scalar() == 4
        await closing
        assert cache.entries() == []

    run(main())


def test_engines_of_the_users_stay_theirs(both):
    is_async = "aiosqlite" in both
    engine = create_async_engine(both) if is_async else sa.create_engine(both)

    async def main():
        async with everfresh.open_async(engine) as cache:
            assert cache.engine is (engine.sync_engine if is_async else engine)
            await cache.sql(COUNT, m=6)
            await write(cache, "DELETE FROM flights WHERE month = 6")
            assert (await cache.sql(COUNT, m=6)).scalar() == 0
        async with everfresh.open_async(engine) as second:  # it is watched no longer
            assert (await second.sql(COUNT, m=6)).scalar() == 0
        await (engine.dispose() if is_async else asyncio.to_thread(engine.dispose))

    run(main())


def test_a_database_in_memory(both):
    async def main():
        async with everfresh.open_async(both.partition(":")[0] + "://") as cache:
            await write(cache, "CREATE TABLE flights (month INTEGER)")
            await write(cache, "INSERT INTO flights VALUES (6)")
            asked = [cache.sql(COUNT, m=n % 3 + 5) for n in range(30)]
            assert [rows.scalar() for rows in await asyncio.gather(*asked)] == [0, 1, 0] * 10

    run(main())


def test_what_cannot_be_opened_says_what_to_do(url, tmp_path, monkeypatch):
    async def open_it(*args, **settings):
        async with everfresh.open_async(*args, **settings):
            pass

    with pytest.raises(DatabaseNotFoundError, match="no SQLite file"):
        run(open_it(f"sqlite+aiosqlite:///{tmp_path}/none.db"))
    with pytest.raises(ConfigurationError, match="threads"):
        everfresh.open_async(url, threads=0)
    with pytest.raises(TypeError, match="nonsense"):
        everfresh.open_async(url, nonsense=1)
    with pytest.raises(ConfigurationError, match="URL or a SQLAlchemy engine"):
        run(open_it(7))
    for module, name in (("aiosqlite", url), ("asyncpg", "postgresql://host/name")):
        monkeypatch.setitem(sys.modules, module, None)
        scheme, _, rest = name.partition(":")
        with pytest.raises(MissingExtraError, match=rf"pip install 'everfresh\[{module}\]'"):
            run(open_it(f"{scheme}+{module}:{rest}"))
    monkeypatch.undo()
    monkeypatch.setattr("everfresh.engine.opening.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'everfresh\[asyncio\]'"):
        run(open_it(url.replace("sqlite", "sqlite+aiosqlite", 1)))
