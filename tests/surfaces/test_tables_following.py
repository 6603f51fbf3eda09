"""Tables that follow a cache's change feed: nobody invalidates, and nothing old is served."""

import asyncio
import sqlite3
import threading

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import everfresh
from everfresh.errors import ConfigurationError
from everfresh.tables import AttributeIndexes, ByAttributes, CachedTable, SqlAlchemyAccess
from everfresh.tables.local import LocalStorageTable
from surfaces.tables import Source, in_loop, redis_storage

SCHEMA = (
    "CREATE TABLE planes (tailnum VARCHAR(10) PRIMARY KEY, seats INTEGER)",
    "CREATE TABLE flights (id INTEGER PRIMARY KEY, month INTEGER, origin VARCHAR(3), tailnum VARCHAR(10))",
    "CREATE TABLE other (x INTEGER)",
)
FLIGHTS = "SELECT id, month, origin FROM flights"
JOIN = "SELECT f.id, f.month, f.tailnum, p.seats FROM flights f LEFT JOIN planes p ON p.tailnum = f.tailnum"


def fill(engine):
    with engine.begin() as connection:
        for name in ("planes", "flights", "other"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
        for statement in SCHEMA:
            connection.execute(sa.text(statement))
        connection.execute(sa.text("INSERT INTO planes VALUES ('N1', 100), ('N2', 200)"))
        rows = [
            {"id": n, "m": n % 12 + 1, "o": "JFK" if n % 2 else "LGA", "t": f"N{n % 3 + 1}"}
            for n in range(1, 61)
        ]
        connection.execute(sa.text("INSERT INTO flights VALUES (:id, :m, :o, :t)"), rows)


class Counting(SqlAlchemyAccess):
    """Counts its queries, and holds them at a gate if there is one."""

    def __init__(self, engine, **options):
        super().__init__(engine, **options)
        self.asked, self.gate = [], None

    async def get_records_list(self, records_spec):
        self.asked.append(records_spec)
        records = await super().get_records_list(records_spec)
        if self.gate is not None:
            await self.gate.wait()
        return records


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "flights.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    fill(engine)
    engine.dispose()
    return path


@pytest.fixture
def cache(file):
    with everfresh.open(f"sqlite:///{file}") as cache:
        yield cache


def write(cache, statement, **parameters):
    with cache.engine.begin() as connection:
        connection.execute(sa.text(statement), parameters)


def table_of(cache, statement=FLIGHTS, storage=None, dialect="sqlite", **options):
    indexes = AttributeIndexes(
        statement,
        "id",
        dialect=dialect,
        by_month=ByAttributes("month"),
        **options.pop("indexes", {}),
    )
    access = Counting(cache.engine)
    storage = LocalStorageTable(indexes) if storage is None else storage(indexes)
    table = CachedTable(indexes, access, storage, cache=cache, **options)
    return table, access


def ids(records):
    return sorted(record["id"] for record in records)


async def settled(table):
    """Wait until what was committed is in place without a read."""
    for _ in range(200):
        if not table._validity.unsettled:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was committed was not put in place")


@in_loop
async def test_updates_inserts_and_deletes_are_applied_from_row_images(cache):
    table, access = table_of(cache)
    await table.load("by_month", ge=1, lt=7)
    asked = len(access.asked)
    write(cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")
    assert table.get(1) is None  # at once: nothing old
    await settled(table)
    assert table.get(1) == {"id": 1, "month": 2, "origin": "EWR"}
    write(cache, "INSERT INTO flights VALUES (100, 3, 'JFK', 'N1'), (101, 9, 'JFK', 'N1')")
    write(cache, "DELETE FROM flights WHERE id = 2")
    write(cache, "UPDATE flights SET month = 12 WHERE id = 3")  # leaves what is covered
    write(cache, "UPDATE flights SET month = 1 WHERE id = 11")  # comes into it
    write(cache, "UPDATE flights SET id = 500 WHERE id = 4")
    found = await table.get_records_list("by_month", ge=1, lt=7)
    with cache.engine.connect() as connection:
        rows = connection.execute(sa.text(f"{FLIGHTS} WHERE month < 7")).mappings()
        assert sorted(found, key=lambda r: r["id"]) == sorted(
            map(dict, rows), key=lambda r: r["id"]
        )
    assert {100, 11, 500} <= set(ids(found))
    assert not {101, 2, 3, 4} & set(ids(found))
    assert len(access.asked) == asked  # the database was not asked once


@in_loop
async def test_rolled_back_and_unrelated_commits_change_nothing(cache):
    table, access = table_of(cache)
    await table.load("by_month", ge=1, lt=13)
    asked = len(access.asked)
    with cache.engine.connect() as connection:
        connection.execute(sa.text("UPDATE flights SET origin = 'EWR'"))
        connection.rollback()
    write(cache, "INSERT INTO other VALUES (1)")
    write(cache, "UPDATE flights SET tailnum = 'N9' WHERE id = 1")  # a column that is not read
    assert table.get(1)["origin"] == "JFK"
    assert len(await table.get_records_list("primary_key")) == 60
    assert len(access.asked) == asked + 1  # the whole of the primary key was not covered


@in_loop
async def test_a_condition_of_the_statement_decides_who_is_in(cache):
    table, access = table_of(cache, f"{FLIGHTS} WHERE origin = 'JFK' AND month > 2")
    await table.load("primary_key")
    asked = len(access.asked)
    write(cache, "UPDATE flights SET origin = 'JFK' WHERE id = 2")
    write(cache, "UPDATE flights SET origin = 'LGA' WHERE id = 3")
    write(cache, "INSERT INTO flights VALUES (200, 2, 'JFK', NULL), (201, 3, 'JFK', NULL)")
    found = await table.get_records_list("primary_key")
    with cache.engine.connect() as connection:
        assert ids(found) == sorted(
            connection.execute(
                sa.text("SELECT id FROM flights WHERE origin = 'JFK' AND month > 2")
            ).scalars()
        )
    assert len(access.asked) == asked


@in_loop
async def test_a_join_is_refetched_by_key_and_through_its_other_table(cache):
    table, access = table_of(
        cache,
        JOIN,
        indexes={"by_plane": ByAttributes("tailnum")},
        through={"planes": ("tailnum", "by_plane")},
    )
    await table.load("primary_key")
    asked = len(access.asked)
    write(cache, "UPDATE flights SET month = 12 WHERE id = 1")
    assert (await table.get_first_record("primary_key", 1))["month"] == 12
    assert access.asked[asked].args == ("[1]",)
    write(cache, "UPDATE planes SET seats = 101 WHERE tailnum = 'N1'")
    found = await table.get_records_list("by_plane", "N1")
    assert {record["seats"] for record in found} == {101}
    assert access.asked[-1].args == ("N1",)
    write(cache, "INSERT INTO planes VALUES ('N3', 300)")
    assert {record["seats"] for record in await table.get_records_list("by_plane", "N3")} == {300}


@in_loop
async def test_a_join_without_a_way_to_its_records_is_loaded_again(cache):
    table, access = table_of(cache, JOIN)
    await table.load("by_month", 2)
    write(cache, "UPDATE planes SET seats = 101 WHERE tailnum = 'N1'")
    assert table.get(3) is None
    found = await table.get_records_list("by_month", 2)
    assert {r["seats"] for r in found if r["tailnum"] == "N1"} <= {101}
    assert len(access.asked) == 2
    for arguments in ({"nothing": ("x", "by_month")}, {"planes": ("tailnum", "nothing")}):
        other, _ = table_of(cache, JOIN, through=arguments)
        with pytest.raises(ConfigurationError, match="through"):
            await other.load("by_month", 2)


SHAPED = [
    "SELECT id, month, origin FROM flights ORDER BY id DESC LIMIT 5",
    "SELECT id, month, rank() OVER (ORDER BY month, id) AS n FROM flights",
    "SELECT min(id) AS id, month, count(*) AS n FROM flights GROUP BY month",
    "SELECT f.id, f.month, (SELECT max(id) FROM flights) AS top FROM flights f",
    "SELECT a.id, a.month, b.month AS other FROM flights a JOIN flights b ON b.id = a.id + 1",
    "SELECT id, month FROM (SELECT * FROM flights ORDER BY month, id LIMIT 7) q",
    "SELECT id, month FROM flights WHERE id > (SELECT avg(id) FROM flights)",
    "SELECT coalesce(f.id, -p.seats) AS id, f.month, p.tailnum FROM planes p LEFT JOIN flights f ON f.tailnum = p.tailnum",
    "SELECT DISTINCT month AS id, month FROM flights",
    "SELECT id, month FROM flights WHERE month < 3 UNION ALL SELECT -id, month FROM flights WHERE month = 3",
]


@pytest.mark.parametrize("statement", SHAPED)
@in_loop
async def test_rows_that_are_what_they_are_because_of_others(cache, statement):
    """Reading a changed row again by its key would miss those that changed with it."""
    table, _ = table_of(cache, statement)
    await table.load("primary_key")
    for change in (
        "UPDATE flights SET month = 1 WHERE id = 30",
        "DELETE FROM flights WHERE id = 60",
        "INSERT INTO flights VALUES (1000, 1, 'JFK', 'N1')",
        "UPDATE flights SET month = 13 WHERE id = 2",
    ):
        write(cache, change)
        with cache.engine.connect() as connection:
            expected = [dict(row) for row in connection.execute(sa.text(statement)).mappings()]
        found = await table.get_records_list("primary_key")
        assert sorted(found, key=lambda r: r["id"]) == sorted(expected, key=lambda r: r["id"])


@in_loop
async def test_while_a_commit_is_under_way_its_rows_come_from_the_database(cache):
    table, access = table_of(cache)
    await table.load("primary_key")
    inside, go_on = threading.Event(), threading.Event()

    def hold(dbapi_connection):
        inside.set()
        assert go_on.wait(20)

    feed = cache.feed
    original = feed._commits.commit

    def commit(run, pending, **options):
        def held():
            inside.set()
            assert go_on.wait(20)
            run()

        return original(held, pending, **options)

    feed._commits.commit = commit
    writer = asyncio.create_task(
        asyncio.to_thread(write, cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")
    )
    await asyncio.to_thread(inside.wait, 20)
    asked = len(access.asked)
    assert table.get(1) is None
    assert table.get(2)["origin"] == "LGA"
    assert (await table.get_first_record("primary_key", 1))["origin"] == "JFK"
    assert len(access.asked) == asked + 1
    go_on.set()
    await writer
    assert (await table.get_first_record("primary_key", 1))["origin"] == "EWR"


@in_loop
async def test_commits_that_overlap_are_read_again_not_applied(cache):
    """Their images come in any order: what the database says counts."""
    from everfresh.kernel.change import Change

    table, access = table_of(cache)
    await table.load("primary_key")
    follower = table._follower
    table._upkeep.hear = None  # the file is written below by somebody who is not to be heard

    def change(origin):
        old = {"id": 1, "month": 2, "origin": "JFK", "tailnum": "N2"}
        return [Change("main.flights", old=old, new={**old, "origin": origin}, key=(1,))]

    with sqlite3.connect(cache.engine.url.database) as other:
        other.execute("UPDATE flights SET origin = 'NEW' WHERE id = 1")
    one = follower.begin(change("OLD"))
    two = follower.begin(change("NEW"))
    follower.end(two, committed=True)
    follower.end(one, committed=True)  # the earlier commit is told of last
    asked = len(access.asked)
    assert (await table.get_first_record("primary_key", 1))["origin"] == "NEW"
    assert len(access.asked) > asked


@in_loop
async def test_what_changes_during_a_load_is_not_missed(cache):
    table, access = table_of(cache)
    access.gate = asyncio.Event()
    loading = asyncio.create_task(table.load("by_month", ge=1, lt=7))
    while not access.asked:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # its rows have been read
    await asyncio.to_thread(write, cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")
    await asyncio.to_thread(write, cache, "INSERT INTO flights VALUES (300, 1, 'JFK', NULL)")
    await asyncio.to_thread(write, cache, "DELETE FROM flights WHERE id = 2")
    access.gate.set()
    await loading
    access.gate = None
    found = {r["id"]: r for r in await table.get_records_list("by_month", ge=1, lt=7)}
    assert found[1]["origin"] == "EWR"
    assert 300 in found
    assert 2 not in found


@in_loop
async def test_what_changes_during_an_adjust_is_not_missed(cache):
    table, access = table_of(cache)
    await table.load("by_month", ge=1, lt=3)
    access.gate = asyncio.Event()
    asked = len(access.asked)
    adjusting = asyncio.create_task(table.adjust("by_month", ge=1, lt=7))
    while len(access.asked) == asked:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    await asyncio.to_thread(
        write, cache, "UPDATE flights SET month = 4, origin = 'EWR' WHERE id IN (1, 20)"
    )
    access.gate.set()
    await adjusting
    found = {r["id"]: r for r in await table.get_records_list("by_month", 4)}
    assert found[1]["origin"] == found[20]["origin"] == "EWR"


@in_loop
async def test_ddl_makes_everything_new(cache):
    table, _ = table_of(cache, "SELECT * FROM flights")
    await table.load("by_month", 2)
    write(cache, "ALTER TABLE flights ADD COLUMN dest VARCHAR(3)")
    assert {len(record) for record in await table.get_records_list("by_month", 2)} == {5}
    write(cache, "UPDATE flights SET dest = 'SEA' WHERE id = 1")
    assert (await table.get_first_record("primary_key", 1))["dest"] == "SEA"
    # the poller may notice the new schema later once more: then all is loaded again by this read
    write(cache, "UPDATE flights SET dest = 'BOS' WHERE id = 1")
    found = {record["id"]: record for record in await table.get_records_list("by_month", 2)}
    assert found[1]["dest"] == "BOS"


@in_loop
async def test_a_statement_that_cannot_be_followed_is_refused(cache):
    for statement in (
        "SELECT id, month, random() AS r FROM flights",
        "SELECT id, 1 AS month FROM nothing",
        "SELECT id, month FROM flights WHERE id = :x",
    ):
        table, _ = table_of(cache, statement)
        with pytest.raises(ConfigurationError):
            await table.load("primary_key")


@in_loop
async def test_a_table_without_a_known_statement_is_refused(cache):
    from everfresh.tables import PrimaryKeyRangeIndexes

    indexes = PrimaryKeyRangeIndexes(
        lambda r: r["id"], "SELECT * FROM flights WHERE id >= $1 AND id < $2"
    )
    with pytest.raises(ConfigurationError, match="statement="):
        CachedTable(
            indexes, SqlAlchemyAccess(cache.engine), LocalStorageTable(indexes), cache=cache
        )
    table = CachedTable(
        indexes,
        SqlAlchemyAccess(cache.engine),
        LocalStorageTable(indexes),
        cache=cache,
        statement="SELECT * FROM flights",
    )
    await table.load("primary_key", ge=1, lt=10)
    write(cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")
    write(cache, "DELETE FROM flights WHERE id = 2")
    found = {r["id"]: r for r in await table.get_records_list("primary_key", ge=1, lt=10)}
    assert found[1]["origin"] == "EWR"
    assert 2 not in found


# -- other processes, and other ways to commit


@pytest.mark.parametrize("tracked", [True, False])
@in_loop
async def test_other_writers_of_a_file_are_heard(file, tracked):
    with everfresh.open(f"sqlite:///{file}", freshness="strict") as cache:
        if tracked:
            cache.track()
        table, access = table_of(cache)
        await table.load("primary_key")
        other = sqlite3.connect(file)
        for n, origin in enumerate(("EWR", "BOS", "SEA")):
            with other:
                other.execute("UPDATE flights SET origin = ? WHERE id = 1", (origin,))
                other.execute("INSERT INTO flights VALUES (?, 1, 'JFK', NULL)", (400 + n,))
            assert table.get(1) is None  # strict: only a read that asks may answer
            assert (await table.get_first_record("primary_key", 1))["origin"] == origin
            assert 400 + n in ids(await table.get_records_list("primary_key"))
        other.close()
        if tracked:
            assert len(access.asked) == 1  # rows came with the change table


@in_loop
async def test_bounded_freshness_stops_hits_when_nobody_looks(file):
    now = [1000.0]
    with everfresh.open(f"sqlite:///{file}", clock=lambda: now[0], poll_interval=3600.0) as cache:
        table, _ = table_of(cache)
        await table.load("primary_key")
        assert table.get(1)["origin"] == "JFK"
        with sqlite3.connect(file) as other:
            other.execute("UPDATE flights SET origin = 'EWR' WHERE id = 1")
        now[0] += 5.0
        assert table.get(1) is None
        assert (await table.get_first_record("primary_key", 1))["origin"] == "EWR"


@in_loop
async def test_an_async_cache_and_async_writers(file):
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    async with everfresh.open_async(engine) as cache:
        indexes = AttributeIndexes(FLIGHTS, "id", dialect="sqlite")
        table = CachedTable(
            indexes, SqlAlchemyAccess(engine), LocalStorageTable(indexes), cache=cache
        )
        await table.load("primary_key")
        async with engine.begin() as connection:
            await connection.execute(sa.text("UPDATE flights SET origin = 'EWR' WHERE id = 1"))
        assert (await table.get_first_record("primary_key", 1))["origin"] == "EWR"
        await table.close()
    await engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@in_loop
async def test_postgresql(postgres_url, driver):
    blocking = sa.create_engine(postgres_url)
    fill(blocking)
    if driver == "psycopg":
        cache, engine, opened = everfresh.open(blocking), blocking, None
    else:
        engine = create_async_engine(postgres_url.replace("psycopg", driver))
        opened = await everfresh.open_async(engine)
        cache = opened
    indexes = AttributeIndexes(FLIGHTS, "id", by_month=ByAttributes("month"))
    table = CachedTable(indexes, Counting(engine), LocalStorageTable(indexes), cache=cache)
    await table.load("by_month", ge=1, lt=7)
    for n in range(3):
        statement = sa.text("UPDATE flights SET origin = :o, month = 1 WHERE id IN (1, 11)")
        parameters = {"o": f"X{n}"}
        if opened is None:
            await asyncio.to_thread(write, cache, statement.text, **parameters)
        else:
            async with engine.begin() as connection:
                await connection.execute(statement, parameters)
        found = {r["id"]: r for r in await table.get_records_list("by_month", 1)}
        assert found[1]["origin"] == found[11]["origin"] == f"X{n}"
    await table.close()
    if opened is None:
        cache.close()
    else:
        await opened.close()
        await engine.dispose()
    blocking.dispose()


@in_loop
async def test_a_table_in_redis_follows_too(cache, valkey):
    table, access = table_of(cache, storage=redis_storage(valkey.url, ("id", "month", "origin")))
    await table.load("by_month", ge=1, lt=7)
    asked = len(access.asked)
    write(cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")
    write(cache, "DELETE FROM flights WHERE id = 2")
    found = {r["id"]: r for r in await table.get_records_list("by_month", ge=1, lt=7)}
    assert found[1]["origin"] == "EWR"
    assert 2 not in found
    assert len(access.asked) == asked


@in_loop
async def test_a_hook_of_the_user_that_fails_does_not_reach_the_writer(cache):
    table, access = table_of(cache)
    await table.load("primary_key")

    def broken(*_):
        raise RuntimeError("broken")

    table._db_record = access.record_of
    access.record_of = broken
    write(cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")  # does not raise
    assert (await table.get_first_record("primary_key", 1))["origin"] == "EWR"


@in_loop
async def test_a_function_that_reads_a_table_is_not_kept(cache):
    table, _ = table_of(cache)
    await table.load("primary_key")
    calls = []

    @cache.cached
    def origin(n):
        calls.append(n)
        return table.get(n)["origin"]

    assert (origin(1), origin(1)) == ("JFK", "JFK")
    assert len(calls) == 2


@in_loop
async def test_a_table_that_is_dropped_is_collected_and_no_longer_told(cache):
    import gc
    import weakref

    table, _ = table_of(cache)
    await table.load("primary_key")
    gone = weakref.ref(table)
    del table, _
    gc.collect()
    assert gone() is None
    write(cache, "UPDATE flights SET origin = 'EWR' WHERE id = 1")


# -- a copy in a file


def warm_table(cache, file, record=dict, **options):
    indexes = AttributeIndexes(FLIGHTS, "id", dialect="sqlite", by_month=ByAttributes("month"))
    access = Counting(cache.engine, record=record)
    return CachedTable(
        indexes, access, LocalStorageTable(indexes), cache=cache, warm=file, **options
    ), access


@pytest.mark.parametrize("record", [dict, "struct"])
@in_loop
async def test_a_warm_start_reads_only_what_has_changed(file, tmp_path, record):
    if record == "struct":
        record = Flight
    kept = tmp_path / "flights.table"
    with everfresh.open(f"sqlite:///{file}") as cache:
        cache.track()
        table, access = warm_table(cache, kept, record)
        await table.load("by_month", ge=1, lt=7)
        write(cache, "UPDATE flights SET origin = 'BOS' WHERE id = 13")
        assert await table.save()
        await table.close()
    with sqlite3.connect(file) as other:
        other.execute("UPDATE flights SET origin = 'EWR' WHERE id = 1")
        other.execute("DELETE FROM flights WHERE id = 2")
        other.execute("INSERT INTO flights VALUES (300, 2, 'JFK', NULL)")
    with everfresh.open(f"sqlite:///{file}") as cache:
        table, access = warm_table(cache, kept, record)
        await table.load("by_month", ge=1, lt=7)
        assert access.asked == []
        get = (lambda r, n: r[n]) if record is not Flight else getattr
        found = {
            get(r, "id"): get(r, "origin")
            for r in await table.get_records_list("by_month", ge=1, lt=7)
        }
        assert [one.args for one in access.asked] == [("[1, 2, 300]",)]
        with sqlite3.connect(file) as other:
            assert found == dict(other.execute("SELECT id, origin FROM flights WHERE month < 7"))
        assert found[13] == "BOS"


class Flight(msgspec.Struct):
    id: int
    month: int
    origin: str


@in_loop
async def test_a_copy_that_cannot_be_proven_is_not_used(file, tmp_path):
    kept = tmp_path / "flights.table"
    with everfresh.open(f"sqlite:///{file}") as cache:
        table, _ = warm_table(cache, kept)
        await table.load("primary_key")
        assert await table.save() is False  # nothing tracks the file
        cache.track()
        other, _ = warm_table(cache, kept)
        await other.load("primary_key")
        assert await other.save()
    good = kept.read_bytes()

    async def asked(spec=("primary_key",), data=good):
        kept.write_bytes(data)
        with everfresh.open(f"sqlite:///{file}") as cache:
            table, access = warm_table(cache, kept)
            await table.load(*spec)
            assert (
                ids(await table.get_records_list(*spec))
                == list(range(1, 61))[: len(await table.get_records_list(*spec))]
            )
            return len(access.asked)

    assert await asked() == 0
    assert await asked(data=good[:-1]) == 1
    assert await asked(data=b"") == 1
    assert await asked(data=good[:60] + bytes([good[60] ^ 1]) + good[61:]) == 1
    with everfresh.open(f"sqlite:///{file}") as cache:
        cache.untrack()
        cache.track()  # another history
    assert await asked() == 1
    indexes = AttributeIndexes(FLIGHTS, "id", dialect="sqlite")
    with pytest.raises(ConfigurationError, match="cache="):
        CachedTable(indexes, Source(), LocalStorageTable(indexes), warm=kept)


# -- an outbox on PostgreSQL


@in_loop
async def test_other_writers_of_postgresql_are_heard_row_by_row(postgres):
    url = postgres.fresh_database()
    engine = sa.create_engine(url)
    fill(engine)
    with everfresh.open(engine, freshness="strict") as cache:
        cache.track()
        table, access = table_of(cache, dialect="postgresql")
        await table.load("by_month", ge=1, lt=7)
        other = sa.create_engine(url)
        asked = len(access.asked)
        for n in range(3):
            with other.begin() as connection:
                connection.execute(
                    sa.text(
                        f"UPDATE flights SET origin = 'X{n}', month = {n + 1} WHERE id IN (1, 11)"
                    )
                )
                connection.execute(sa.text(f"DELETE FROM flights WHERE id = {n + 24}"))
            found = {r["id"]: r for r in await table.get_records_list("by_month", ge=1, lt=7)}
            assert found[1]["origin"] == found[11]["origin"] == f"X{n}"
            assert n + 24 not in found
        keys = [one.args for one in access.asked[asked:]]
        assert keys
        assert all(len(one[0]) <= 4 for one in keys)  # by key, a few at a time
        other.dispose()
        await table.close()
    engine.dispose()
    postgres.drop_database(url)
