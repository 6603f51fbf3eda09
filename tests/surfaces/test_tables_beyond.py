"""What tables do beyond their document: ending, bulk reads, subscriptions, threads."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.errors import AbortedError, ClosedError
from everfresh.tables import (
    AttributeIndexes,
    ByAttributes,
    CachedTable,
    PrimaryKeyIndexes,
    PrimaryKeyRangeIndexes,
    Progress,
    SqlAlchemyAccess,
    SyncCachedTable,
)
from everfresh.tables.local import LocalStorageTable
from everfresh.tables.postgres import PostgresAccess
from surfaces.tables import Gate, Plain, Source, in_loop, make

ROWS = [{"id": n, "v": 0} for n in range(1, 101)]


def by_key():
    return PrimaryKeyIndexes(lambda record: record["id"], "all", "some")


@pytest.fixture
def source():
    return Source(ROWS)


# -- ending


@in_loop
async def test_abort_calls_off_what_is_under_way(source):
    table = make(by_key(), source)
    assert table.abort() is False
    gate = source.gate = Gate()
    loading = asyncio.create_task(table.load("primary_key", 1))
    await gate.reached.wait()
    assert table.abort() is True
    with pytest.raises(AbortedError, match="as before"):
        await loading
    source.gate = None
    await table.load("primary_key", 1, 2)
    gate = source.gate = Gate()
    adjusting = asyncio.create_task(table.adjust("primary_key", 3))
    await gate.reached.wait()
    assert table.abort() is True
    with pytest.raises(AbortedError):
        await adjusting
    source.gate = None
    asked = len(source.asked)
    assert len(await table.get_records_list("primary_key", 1, 2)) == 2
    assert len(source.asked) == asked


@in_loop
async def test_close_ends_everything(source):
    table = make(by_key(), source)
    waiting = asyncio.create_task(table.loaded())
    reading = asyncio.create_task(table.get_records_list("primary_key", 1))
    await asyncio.sleep(0)
    gate = source.gate = Gate()
    loading = asyncio.create_task(table.load("primary_key", 1))
    await gate.reached.wait()
    await table.close()
    await table.close()
    for task in (waiting, reading):
        with pytest.raises(ClosedError):
            await task
    with pytest.raises(AbortedError):
        await loading
    for call in (
        table.load,
        table.adjust,
        table.get_records_list,
        table.get_first_record,
        table.count,
    ):
        with pytest.raises(ClosedError):
            await call("primary_key", 1)
    with pytest.raises(ClosedError):
        table.invalidate_records([1], [1])
    with pytest.raises(ClosedError):
        await table.refresh_invalid()
    assert table.get(1) is None


@in_loop
async def test_a_closed_table_serves_no_kept_record(source):
    async with make(by_key(), source) as table:
        await table.load("primary_key", 1)
        assert table.get(1)["id"] == 1
    assert table.get(1) is None
    with pytest.raises(ClosedError):
        await table.get_first_record("primary_key", 1)


# -- progress and bulk reads


@in_loop
async def test_progress_is_reported():
    reports = []
    source = Source([{"id": n} for n in range(2500)])
    table = make(by_key(), source, progress=reports.append)
    await table.load("primary_key", all_primary_keys=True)
    await table.adjust("primary_key", *range(10))
    assert reports[:2] == [Progress("load", 1000), Progress("load", 2000)]
    assert reports[2] == Progress("load", 2500, done=True)
    assert reports[-1] == Progress("adjust", 0, 2490, done=True)


@in_loop
async def test_bulk_reads_of_any_storage(source):
    for storage in (LocalStorageTable, Plain):
        table = make(by_key(), source, storage)
        await table.load("primary_key", 1, 2, 3, 500)
        assert await table.get_many([3, 1, 500, 4, 600]) == {
            n: {"id": n, "v": 0} for n in (1, 3, 4)
        }
        assert await table.get_many([]) == {}
        assert await table.count("primary_key", 1, 2, 500) == 2
        assert await table.count("primary_key", 1, 9) == 2
    ranged = make(PrimaryKeyRangeIndexes(lambda r: r["id"], "range"), source)
    await ranged.load("primary_key", ge=1, lt=101)
    found = await ranged.get_records_list("primary_key", ge=20, lt=40)
    assert [record["id"] for record in found] == list(range(20, 40))


@in_loop
async def test_two_loads_at_once_load_once(source):
    table = make(by_key(), source)
    results = await asyncio.gather(
        *(table.load("primary_key", 1) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in results) == ["NoneType", "TableError", "TableError"]
    assert len(source.asked) == 1


# -- subscriptions


@in_loop
async def test_a_subscription_tells_the_subset_and_then_its_changes(source):
    indexes = PrimaryKeyRangeIndexes(lambda r: r["id"], "range")
    table = make(indexes, source)
    await table.load("primary_key", ge=1, lt=101)
    steps = table.subscribe("primary_key", ge=10, lt=20)
    first = await anext(steps)
    assert first.first
    assert [record["id"] for record in first.inserted] == list(range(10, 20))
    source.put(id=11, v=1)
    del source.rows[12]
    source.put(id=13.5, v=0)
    source.put(id=50, v=1)
    spec = indexes.IndexSpec("primary_key", ge=11, lt=14)
    table.invalidate_records([spec], [spec])
    step = await asyncio.wait_for(anext(steps), 5)  # without any read
    assert step.mark > first.mark
    assert step.inserted == ({"id": 13.5, "v": 0},)
    assert step.updated == (({"id": 11, "v": 0}, {"id": 11, "v": 1}),)
    assert step.deleted == ({"id": 12, "v": 0},)
    other = indexes.IndexSpec("primary_key", ge=50, lt=51)
    table.invalidate_records([other], [other])
    progress = await asyncio.wait_for(anext(steps), 5)
    assert (progress.inserted, progress.updated, progress.deleted) == ((), (), ())
    assert progress.mark > step.mark
    await table.adjust("primary_key", ge=15, lt=101)
    with pytest.raises(ValueError, match="not covered"):
        await asyncio.wait_for(anext(steps), 5)
    assert not table._upkeep.watchers


@in_loop
async def test_a_subscription_ends_with_the_table_and_when_left(source):
    table = make(by_key(), source)
    await table.load("primary_key", 1, 2)
    async for _ in table.subscribe("primary_key", 1):
        break
    left = table.subscribe("primary_key", 1)
    await anext(left)
    await left.aclose()
    steps = table.subscribe("primary_key", 1, 2)
    await anext(steps)
    waiting = asyncio.create_task(anext(steps, "ended"))
    await asyncio.sleep(0)
    await table.close()
    assert await waiting == "ended"
    uncovered = make(by_key(), source)
    await uncovered.load("primary_key", 1)
    with pytest.raises(ValueError, match="not covered"):
        await anext(uncovered.subscribe("primary_key", 9))


@in_loop
async def test_a_subscription_survives_a_database_that_fails_for_a_while(source, monkeypatch):
    monkeypatch.setattr("everfresh.tables.cached_table._PAUSE", 0.01)
    table = make(by_key(), source)
    await table.load("primary_key", 1)
    steps = table.subscribe("primary_key", 1)
    await anext(steps)
    source.put(id=1, v=7)
    source.error = ConnectionError("lost")
    spec = table.indexes.IndexSpec("primary_key", 1)
    table.invalidate_records([spec], [spec])
    waiting = asyncio.create_task(anext(steps))
    await asyncio.sleep(0.05)
    source.error = None
    step = await asyncio.wait_for(waiting, 5)
    assert step.updated[0][1]["v"] == 7


@in_loop
async def test_a_subscription_hears_commits(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
    with everfresh.open(engine) as cache:
        indexes = AttributeIndexes(
            "SELECT * FROM t", "id", dialect="sqlite", by_v=ByAttributes("v")
        )
        table = CachedTable(
            indexes, SqlAlchemyAccess(engine), LocalStorageTable(indexes), cache=cache
        )
        await table.load("primary_key")
        steps = table.subscribe("by_v", ge=10)
        assert (await anext(steps)).inserted == ()
        with cache.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (1, 10), (2, 5)"))
        assert (await asyncio.wait_for(anext(steps), 5)).inserted == ({"id": 1, "v": 10},)
        with cache.engine.begin() as connection:
            connection.execute(sa.text("UPDATE t SET v = 15 - v"))
        step = await asyncio.wait_for(anext(steps), 5)
        assert [record["id"] for record in step.deleted] == [1]
        assert [record["id"] for record in step.inserted] == [2]
    engine.dispose()


# -- threads


class Thousand(Source):
    pass


@pytest.fixture
def threaded(source):
    indexes = by_key()
    with SyncCachedTable(indexes, source, LocalStorageTable(indexes)) as table:
        yield table


def test_the_twin_has_every_method():
    ours = {name for name in vars(CachedTable) if not name.startswith("_")}
    theirs = {name for name in vars(SyncCachedTable) if not name.startswith("_")}
    assert ours - theirs == {"get", "peek"}  # `get` is the very same function
    assert theirs <= ours


def test_the_twin_works(threaded, source):
    with pytest.raises(TimeoutError):
        threaded.loaded(timeout=0.01)
    threaded.load("primary_key", 1, 2)
    threaded.loaded()
    assert threaded.get(1) == {"id": 1, "v": 0}
    assert threaded.get_first_record("primary_key", 9)["id"] == 9
    with pytest.raises(KeyError):
        threaded.get_first_record("primary_key", 900)
    assert [r["id"] for r in threaded.get_records("primary_key", 2)] == [2]
    assert set(threaded.get_many([1, 3])) == {1, 3}
    assert threaded.count("primary_key", 1, 2) == 2
    source.put(id=1, v=5)
    spec = threaded.table.indexes.IndexSpec("primary_key", 1)
    threaded.invalidate_records([spec], [spec])
    assert threaded.get(1) is None
    assert threaded.get_records_list("primary_key", 1) == [{"id": 1, "v": 5}]
    threaded.invalidate_records([spec], [spec], force_refresh_on_next_read=False)
    threaded.refresh_invalid()
    threaded.adjust("primary_key", 3)
    assert threaded.get(1) is None
    assert threaded.abort() is False
    steps = threaded.subscribe("primary_key", 3)
    assert next(steps).first
    steps.close()
    with pytest.raises(ValueError, match="loaded already"):
        threaded.load("primary_key", 1)


def test_the_twin_closes(source):
    indexes = by_key()
    table = SyncCachedTable(indexes, source, LocalStorageTable(indexes))
    table.load("primary_key", 1)
    table.close()
    table.close()
    assert table.get(1) is None
    with pytest.raises(ClosedError):
        table.get_records_list("primary_key", 1)
    assert not any(thread.name == "everfresh-table" for thread in threading.enumerate())


def test_hooks_of_the_table_cannot_wait_for_it(source):
    indexes = by_key()

    class Nested(Source):
        async def get_records(self, records_spec):
            table.refresh_invalid()
            yield {}

    table = SyncCachedTable(indexes, Nested(), LocalStorageTable(indexes))
    with table, pytest.raises(RuntimeError, match="would hang"):
        table.load("primary_key", 1)


def test_threads_never_see_half_a_change(source):
    """Two records are always committed together; readers in threads compare them."""
    indexes = by_key()
    with SyncCachedTable(indexes, source, LocalStorageTable(indexes)) as table:
        table.load("primary_key", *range(1, 51))
        stop, seen = threading.Event(), []

        def read():
            while not stop.is_set():
                found = table.get_records_list("primary_key", 1, 50)
                seen.append((len(found), len({record["v"] for record in found})))
                before = latest[0]
                record = table.get(1)
                assert record is None or record["v"] >= before
                time.sleep(0)

        latest = [0]
        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            for n in range(1, 60):
                rows = dict(source.rows)
                rows[1], rows[50] = {"id": 1, "v": n}, {"id": 50, "v": n}
                source.rows = rows
                specs = [indexes.IndexSpec("primary_key", 1, 50)]
                table.invalidate_records(specs, specs)
                latest[0] = n
                if n % 10 == 0:
                    table.adjust("primary_key", *range(1, 51 + n % 20))
            stop.set()
            for reader in readers:
                reader.result(20)
    assert len(seen) > 20
    assert set(seen) == {(2, 1)}


def test_the_twin_over_postgresql(postgres_url):
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("CREATE TABLE twin AS SELECT n AS id FROM generate_series(1, 50) n")
        )
    engine.dispose()
    indexes = PrimaryKeyIndexes(
        lambda r: r["id"], "SELECT * FROM twin", "SELECT * FROM twin WHERE id = ANY ($1)"
    )
    access = PostgresAccess(dsn=postgres_url.replace("+psycopg", ""))
    with SyncCachedTable(indexes, access, LocalStorageTable(indexes), enter=[access]) as table:
        table.load("primary_key", 1, 2)
        assert set(table.get_many([1, 2, 3])) == {1, 2, 3}


@in_loop
async def test_a_synchronous_hit_makes_few_calls(source):
    import sys

    table = make(by_key(), source)
    await table.load("primary_key", 1)
    calls = []

    def count(frame, event, argument):
        calls.append(event)

    get = table.get
    sys.setprofile(count)
    try:
        get(1)
    finally:
        sys.setprofile(None)
    # the function itself, and the look-ups of C it is made of
    assert calls.count("call") == 1
    assert calls.count("c_call") <= 6  # with that of setprofile itself


# -- limits


@in_loop
async def test_what_reads_add_is_bounded_by_bytes():
    source = Source([{"id": n, "v": n} for n in range(1000)])
    indexes = by_key()
    table = CachedTable(indexes, source, LocalStorageTable(indexes), admit=True, max_bytes=20_000)
    await table.load("primary_key", 1, 2, 3)
    for n in range(10, 500):
        assert (await table.get_first_record("primary_key", n))["v"] == n
        await table.get_many([10])  # asked for again and again
    assert table._pieces.bytes <= 20_000
    kept = len(table.storage_table.snapshot)
    assert 10 < kept < 200
    assert all(table.get(n) is not None for n in (1, 2, 3, 10))  # what was loaded, and what is hot
    assert table.get(11) is None
    assert (await table.get_first_record("primary_key", 11))["v"] == 11
    await table.adjust("primary_key", 1)
    assert len(table._pieces) == table._pieces.bytes == 0


@in_loop
async def test_ranges_go_too(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
        connection.execute(
            sa.text("INSERT INTO t VALUES (:n, :n)"), [{"n": n} for n in range(1000)]
        )
    indexes = AttributeIndexes("SELECT * FROM t", "id", dialect="sqlite", by_v=ByAttributes("v"))
    access = SqlAlchemyAccess(engine)
    table = CachedTable(indexes, access, LocalStorageTable(indexes), admit=True, max_bytes=100_000)
    await table.load("by_v", ge=0, lt=10)
    for low in range(100, 1000, 100):
        found = await table.get_records_list("by_v", ge=low, lt=low + 100)
        assert len(found) == 100
    held = table.storage_table.snapshot
    assert 10 < len(held) < 600
    assert all(indexes.covers_record(record) for record in held.records())
    assert table.peek("by_v", ge=0, lt=10) is not None
    for low in range(0, 1000, 50):
        found = await table.get_records_list("by_v", ge=low, lt=low + 50)
        assert [record["v"] for record in found] == list(range(low, low + 50))
    engine.dispose()


def test_a_limit_is_checked():
    from everfresh.errors import ConfigurationError

    indexes = by_key()
    for limit in (0, -1, 1.5, True):
        with pytest.raises(ConfigurationError, match="max_bytes"):
            CachedTable(indexes, Source(), LocalStorageTable(indexes), max_bytes=limit)


@in_loop
async def test_indexes_of_another_table_are_refused_and_used_ones_start_anew(source):
    indexes = by_key()
    first = make(indexes, source)
    await first.load("primary_key", 1, 2)
    second = make(indexes, source)
    with pytest.raises(ValueError, match="another table"):
        await second.load("primary_key", 2, 3)
    assert set(await first.get_many([1, 2])) == {1, 2}
    await first.close()
    await second.load("primary_key", 2, 3)  # 2 is not there yet, although it was covered
    assert second.get(2)["id"] == 2
    assert not indexes.covers(indexes.IndexSpec("primary_key", 1))


@in_loop
async def test_bad_records_are_refused_and_the_load_can_be_tried_again(source):
    table = make(by_key(), source)
    for bad in ({"id": [1], "v": 0}, {"id": {}, "v": 0}):
        source.rows["bad"] = bad
        with pytest.raises(ValueError, match="not hashable"):
            await table.load("primary_key", all_primary_keys=True)
    del source.rows["bad"]
    await table.load("primary_key", all_primary_keys=True)
    assert len(await table.get_records_list("primary_key", all_primary_keys=True)) == 100
    mixed = make(
        PrimaryKeyRangeIndexes(lambda r: r["id"], "range"), Source([{"id": 1}, {"id": 2.5}])
    )
    await mixed.load("primary_key", ge=0, lt=5)
    assert [r["id"] for r in await mixed.get_records_list("primary_key", ge=0, lt=5)] == [1, 2.5]


def test_a_twin_follows_a_cache(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
        connection.execute(sa.text("INSERT INTO t VALUES (:n, 0)"), [{"n": n} for n in range(20)])
    with everfresh.open(engine) as cache:
        indexes = AttributeIndexes("SELECT * FROM t", "id", dialect="sqlite")
        storage = LocalStorageTable(indexes)
        with SyncCachedTable(indexes, SqlAlchemyAccess(engine), storage, cache=cache) as table:
            table.load("primary_key")
            failures = []

            def write(number):
                """Write a row of its own again and again; a read after the commit must see it."""
                for version in range(1, 15):
                    with cache.engine.begin() as connection:
                        statement = sa.text("UPDATE t SET v = :v WHERE id = :n")
                        connection.execute(statement, {"v": version, "n": number})
                    record = table.get(number)
                    if record is not None and record["v"] != version:
                        failures.append((number, version, record))
                    if table.get_first_record("primary_key", number)["v"] != version:
                        failures.append((number, version))

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(write, range(4)))
            assert failures == []
            assert sum(record["v"] for record in table.get_records_list("primary_key")) == 4 * 14
    engine.dispose()


@in_loop
async def test_indexes_that_cannot_cover_a_gap_answer_all_the_same(source):
    ranged = make(PrimaryKeyRangeIndexes(lambda r: r["id"], "range"), source, admit=True)
    await ranged.load("primary_key", ge=1, lt=10)
    assert len(await ranged.get_records_list("primary_key", ge=50, lt=60)) == 10  # a gap between
    assert len(await ranged.get_records_list("primary_key", ge=5, lt=20)) == 15  # grows
    assert ranged.peek("primary_key", ge=1, lt=20) is not None
    from surfaces.test_tables import CityIndexes

    indexes = CityIndexes()
    own = make(indexes, Source([{"id": 1, "city": "JFK"}, {"id": 2, "city": "LAX"}]), admit=True)
    await own.load("id")
    indexes.committed.clear()  # covers nothing, and cannot say what is missing
    assert len(await own.get_records_list("id", 2)) == 1
