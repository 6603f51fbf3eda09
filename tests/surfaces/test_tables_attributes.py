"""Indexes by attributes against brute force, their queries on real SQLite and PostgreSQL."""

import asyncio
import dataclasses
import datetime as dt
from decimal import Decimal

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from everfresh.errors import ClosedError, ConfigurationError, StatementError
from everfresh.tables import (
    AttributeIndexes,
    ByAttributes,
    CachedTable,
    QueryArgsDbRecordsSpec,
    SqlAlchemyAccess,
    UnsupportedIndexOperation,
)
from everfresh.tables.local import LocalStorageTable
from everfresh.tables.ordering import ABOVE_NULL, BOTTOM, NULL, TOP, After, place
from everfresh.tables.postgres import PostgresAccess
from surfaces.tables import in_loop

TABLE = """CREATE TABLE items (id INTEGER PRIMARY KEY, city VARCHAR(20), price NUMERIC(10, 1), n INTEGER)"""
CITIES = ["JFK", "lax", "LAX", "ä", "", None]
ROWS = [
    (
        n,
        CITIES[n % 6],
        None if n % 5 == 0 else Decimal(n % 7) / 2,
        None if n % 4 == 3 else n % 5 - 2,
    )
    for n in range(1, 61)
]


def new_indexes(dialect):
    return AttributeIndexes(
        "SELECT * FROM items",
        "id",
        dialect=dialect,
        by_city=ByAttributes("city"),
        by_n=ByAttributes("n"),
        by_falling=ByAttributes("-n"),
        by_city_n=ByAttributes("city", "-n"),
        by_falling_city=ByAttributes("-city"),
    )


def fill(url):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS items"))
        connection.execute(sa.text(TABLE))
        statement = sa.text("INSERT INTO items VALUES (:a, :b, :c, :d)")
        numbers = (
            (lambda v: v)
            if url.startswith("postgresql")
            else (lambda v: None if v is None else float(v))
        )
        connection.execute(
            statement,
            [dict(zip("abcd", (a, b, numbers(c), d), strict=True)) for a, b, c, d in ROWS],
        )
    return engine


@pytest.fixture(scope="module")
def sqlite_items(tmp_path_factory):
    engine = fill(f"sqlite:///{tmp_path_factory.mktemp('items') / 'items.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def postgres_items(postgres_url):
    fill(postgres_url).dispose()
    return postgres_url


# what a spec means, by hand: values equal, NULL equal to None, the next attribute between bounds


def means(columns, record, values, ge, lt):
    for column, value in zip(columns, values, strict=False):
        if record[column] != value:
            return False
    if ge is None and lt is None:
        return True
    value = record[columns[len(values)]]
    return value is not None and (ge is None or value >= ge) and (lt is None or value < lt)


NUMBERS = st.none() | st.integers(-3, 3)
TEXTS = st.sampled_from([*CITIES, "K", "z"])
ONE = [
    ("by_city", ("city",), TEXTS),
    ("by_n", ("n",), NUMBERS),
    ("by_falling", ("n",), NUMBERS),
    ("by_falling_city", ("city",), TEXTS),
]


@st.composite
def specs(draw):
    if draw(st.integers(0, 4)) == 0:
        keys = tuple(draw(st.lists(st.integers(-1, 65), max_size=5)))
        return "primary_key", ("id",), {"primary_keys": keys}
    if draw(st.integers(0, 3)) == 0:
        name, columns = "by_city_n", ("city", "n")
        values = draw(st.sampled_from([(), (draw(TEXTS),), (draw(TEXTS), draw(NUMBERS))]))
        bounds = {0: TEXTS, 1: NUMBERS, 2: st.none()}[len(values)]
    else:
        name, columns, bounds = draw(st.sampled_from(ONE))
        values = draw(st.sampled_from([(), (draw(bounds),)]))
        bounds = bounds if not values else st.none()
    ge, lt = draw(bounds), draw(bounds)
    if ge is not None and lt is not None and ge > lt:
        ge, lt = lt, ge
    return name, columns, {"values": values, "ge": ge, "lt": lt}


def make_spec(indexes, drawn):
    name, _, given_arguments = drawn
    arguments = dict(given_arguments)
    return indexes.IndexSpec(name, *arguments.pop("values", ()), **arguments)


def by_hand(records, drawn):
    _, columns, arguments = drawn
    if "primary_keys" in arguments:
        return sorted(r["id"] for r in records if r["id"] in arguments["primary_keys"])
    found = [
        r
        for r in records
        if means(columns, r, arguments["values"], arguments["ge"], arguments["lt"])
    ]
    return sorted(r["id"] for r in found)


def ids(records):
    return sorted(record["id"] for record in records)


ALL = [dict(zip(("id", "city", "price", "n"), row, strict=True)) for row in ROWS]


async def check(access, dialect, loaded, adjusted, read, admit):
    indexes = new_indexes(dialect)
    table = CachedTable(indexes, access, LocalStorageTable(indexes), admit=admit)
    await table.load(make_spec(indexes, loaded))
    assert ids(await table.get_records_list(make_spec(indexes, loaded))) == by_hand(ALL, loaded)
    assert ids(await table.get_records_list(make_spec(indexes, read))) == by_hand(ALL, read)
    await table.adjust(make_spec(indexes, adjusted))
    for one in (adjusted, read, loaded):
        assert ids(await table.get_records_list(make_spec(indexes, one))) == by_hand(ALL, one)
        assert await table.count(make_spec(indexes, one)) == len(by_hand(ALL, one))
    held = table.storage_table.snapshot.records()
    assert all(indexes.covers_record(record) for record in held)


def test_specs_mean_the_same_in_python_and_sqlite(sqlite_items):
    @settings(max_examples=120, deadline=None)
    @given(specs(), specs(), specs(), st.booleans())
    def story(loaded, adjusted, read, admit):
        asyncio.run(check(SqlAlchemyAccess(sqlite_items), "sqlite", loaded, adjusted, read, admit))

    story()


def test_specs_mean_the_same_in_python_and_postgresql(postgres_items):
    url = postgres_items.replace("postgresql+psycopg://", "postgresql://")

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(specs(), specs(), specs(), st.booleans()), min_size=4, max_size=4))
    def story(cases):
        async def body():
            async with PostgresAccess(dsn=url, max_size=1) as access:
                for loaded, adjusted, read, admit in cases:
                    await check(access, "postgresql", loaded, adjusted, read, admit)

        asyncio.run(body())

    story()


@pytest.mark.parametrize("driver", ["psycopg_async", "asyncpg", "aiosqlite", "psycopg", "sqlite"])
@in_loop
async def test_every_driver(driver, postgres_items, sqlite_items):
    if "sqlite" in driver:
        url, dialect = (
            sqlite_items.url.set(drivername=f"sqlite+{driver}" if driver != "sqlite" else driver),
            "sqlite",
        )
    else:
        url, dialect = postgres_items.replace("psycopg", driver), "postgresql"
    blocking = driver in ("psycopg", "sqlite")
    engine = sa.create_engine(url) if blocking else create_async_engine(url)
    indexes = new_indexes(dialect)
    table = CachedTable(indexes, SqlAlchemyAccess(engine), LocalStorageTable(indexes))
    await table.load("by_n", ge=0, lt=2)
    assert ids(await table.get_records_list("by_n", ge=1, lt=3)) == ids(
        r for r in ALL if r["n"] in (1, 2)
    )
    assert set(await table.get_many([1, 5, 99])) == {1, 5}
    assert ids(await table.get_records_list("by_city", "LAX")) == ids(
        r for r in ALL if r["city"] == "LAX"
    )
    engine.dispose() if blocking else await engine.dispose()


@in_loop
async def test_order_limit_and_reverse(sqlite_items):
    indexes = new_indexes("sqlite")
    table = CachedTable(indexes, SqlAlchemyAccess(sqlite_items), LocalStorageTable(indexes))
    await table.load("by_city", "JFK")
    for covered in (False, True):
        if covered:
            await table.adjust("primary_key")
        rising = [r["n"] for r in await table.get_records_list("by_n", ge=-2, limit=40)]
        assert rising == sorted(r["n"] for r in ALL if r["n"] is not None)[:40]
        falling = [
            r["n"] for r in await table.get_records_list("by_n", ge=-2, reverse=True, limit=7)
        ]
        assert falling == sorted((r["n"] for r in ALL if r["n"] is not None), reverse=True)[:7]
        pairs = [
            (r["city"], r["n"]) for r in await table.get_records_list("by_city_n", "lax", limit=100)
        ]
        assert [n for _, n in pairs if n is not None] == sorted(
            (n for _, n in pairs if n is not None), reverse=True
        )
        assert await table.get_records_list("by_n", ge=-2, limit=0) == []
        assert await table.count("by_n", ge=-2, limit=3) == 3
    with pytest.raises(ValueError, match="limit"):
        indexes.IndexSpec("by_n", limit=-1)


@in_loop
async def test_a_moving_window_loads_only_what_is_new(sqlite_items):
    indexes = AttributeIndexes("SELECT * FROM items", "id", dialect="sqlite")
    asked = []

    class Counting(SqlAlchemyAccess):
        async def get_records_list(self, records_spec):
            asked.append(records_spec.args)
            return await super().get_records_list(records_spec)

    table = CachedTable(indexes, Counting(sqlite_items), LocalStorageTable(indexes))
    await table.load("primary_key", ge=1, lt=30)
    await table.adjust("primary_key", ge=20, lt=50)
    assert asked == [(1, 30), (30, 50)]
    assert ids(await table.get_records_list("primary_key", ge=20, lt=50)) == list(range(20, 50))
    await table.get_records_list("primary_key", ge=10, lt=55)
    assert asked[2:] == [(10, 20), (50, 55)]


@in_loop
async def test_what_is_missing_is_admitted_once_and_absence_is_kept(sqlite_items):
    indexes = AttributeIndexes("SELECT * FROM items", "id", dialect="sqlite")
    asked = []

    class Counting(SqlAlchemyAccess):
        async def get_records_list(self, records_spec):
            asked.append(records_spec.args)
            await asyncio.sleep(0.01)
            return await super().get_records_list(records_spec)

    table = CachedTable(indexes, Counting(sqlite_items), LocalStorageTable(indexes), admit=True)
    await table.load("primary_key", ge=1, lt=10)
    asked.clear()
    results = await asyncio.gather(*(table.get_many([5, 20, 999]) for _ in range(50)))
    assert all(set(found) == {5, 20} for found in results)
    assert len(asked) == 1
    assert table.get(20)["id"] == 20
    assert await table.get_many([999]) == {}
    with pytest.raises(KeyError):
        await table.get_first_record("primary_key", 999)
    assert len(asked) == 1  # that there is none is known


@in_loop
async def test_what_is_not_admitted_is_asked_once_by_those_who_wait(sqlite_items):
    indexes = AttributeIndexes("SELECT * FROM items", "id", dialect="sqlite")
    asked = []

    class Counting(SqlAlchemyAccess):
        async def get_records_list(self, records_spec):
            asked.append(records_spec.args)
            await asyncio.sleep(0.01)
            return await super().get_records_list(records_spec)

    table = CachedTable(indexes, Counting(sqlite_items), LocalStorageTable(indexes))
    await table.load("primary_key", 1)
    asked.clear()
    await asyncio.gather(*(table.get_records_list("primary_key", ge=50, lt=60) for _ in range(50)))
    # the first asks; all who came while it ran share the next, which sees what was committed since
    assert len(asked) == 2


@in_loop
async def test_a_composite_key(sqlite_items):
    indexes = AttributeIndexes(
        "SELECT * FROM items WHERE city IS NOT NULL", ("city", "id"), dialect="sqlite"
    )
    table = CachedTable(indexes, SqlAlchemyAccess(sqlite_items), LocalStorageTable(indexes))
    await table.load("primary_key", primary_keys=[("lax", 1), ("LAX", 2), ("nowhere", 3)])
    assert table.get(("lax", 1))["id"] == 1
    assert set(await table.get_many([("LAX", 2), ("lax", 7), ("nowhere", 3)])) == {
        ("LAX", 2),
        ("lax", 7),
    }
    assert ids(await table.get_records_list("primary_key", "LAX")) == ids(
        r for r in ALL if r["city"] == "LAX"
    )
    spec = indexes.IndexSpec("primary_key", "LAX", 2)
    table.invalidate_records([spec], [spec])
    assert (await table.get_first_record("primary_key", "LAX", 2))["id"] == 2


@dataclasses.dataclass
class Item:
    id: int
    city: str | None
    price: float | None
    n: int | None


class ItemStruct(msgspec.Struct):
    id: int
    city: str | None
    price: float | None
    n: int | None


@pytest.mark.parametrize("record", [dict, Item, ItemStruct, tuple])
@in_loop
async def test_records_of_every_kind(sqlite_items, record):
    names = ("0", "3") if record is tuple else ("id", "n")
    columns = ("id",), ("n",)
    indexes = AttributeIndexes(
        "SELECT * FROM items",
        names[0],
        dialect="sqlite",
        by_n=ByAttributes(names[1], columns=columns[1]),
    )
    access = SqlAlchemyAccess(sqlite_items, record=record)
    table = CachedTable(indexes, access, LocalStorageTable(indexes))
    await table.load("by_n", 1)
    found = await table.get_records_list("by_n", 1)
    assert {type(one) for one in found} == {record}
    get = {dict: lambda r: r["id"], tuple: lambda r: r[0]}.get(record, lambda r: r.id)
    assert sorted(map(get, found)) == ids(r for r in ALL if r["n"] == 1)


def test_paths_into_records():
    by = ByAttributes("plane.seats", "-origin.city")
    record = {"plane": Item(1, "x", 1.0, 2), "origin": {"city": "JFK"}}
    with pytest.raises(ValueError, match="has no 'seats'"):
        by.score(record)
    assert ByAttributes("plane.n").score(record) == 2
    assert ByAttributes("origin.city").score(record) == "JFK"
    with pytest.raises(ValueError, match="has no"):
        ByAttributes("origin.zip").score(record)


def test_places_are_in_order():
    values = [None, -1.5, 0, 3, float("nan")]
    assert sorted(map(place, reversed(values)))[0] is NULL
    assert BOTTOM < NULL < After(NULL) <= ABOVE_NULL or After(NULL) < ABOVE_NULL
    ordered = [BOTTOM, NULL, ABOVE_NULL, -1, After(-1), 0, place(float("nan")), TOP]
    for number, one in enumerate(ordered):
        for other in ordered[number + 1 :]:
            assert one < other
            assert other > one
            assert not other < one
            assert not one > other
            assert one != other
    falling = [place(v, falling=True) for v in (None, "a", "b", "c")]
    assert sorted(falling) == list(reversed(falling))


def test_bad_specs_say_what_is_wrong():
    indexes = new_indexes("sqlite")
    for arguments, keywords in (
        (("nothing",), {}),
        (("by_n", 1, 2), {}),
        (("by_n", 1), {"ge": 3}),
        (("by_n",), {"ge": 3, "lt": 1}),
        (("by_n",), {"ge": 3, "lt": "x"}),
    ):
        with pytest.raises(ValueError, match=r"index|order|compared"):
            indexes.storage_records_spec(indexes.IndexSpec(*arguments, **keywords))
    with pytest.raises(ValueError, match="not both"):
        indexes.IndexSpec("primary_key", 1, primary_keys=[1])
    with pytest.raises(ValueError, match="of the index"):
        indexes.IndexSpec("by_n", primary_keys=[1])
    for made in (
        lambda: ByAttributes(),
        lambda: ByAttributes("a", columns=("a", "b")),
        lambda: AttributeIndexes("SELECT 1", "id", dialect="oracle"),
        lambda: AttributeIndexes("SELECT 1", "id", by_x="x"),
    ):
        with pytest.raises(ConfigurationError):
            made()


def test_identifiers_are_quoted_and_values_bound():
    by = ByAttributes('we"ird', columns=('we"ird; DROP TABLE items',))
    indexes = AttributeIndexes("SELECT 1", "id", dialect="sqlite", odd=by)
    spec = indexes.db_records_spec(indexes.IndexSpec("odd", "'; DROP TABLE items; --"))
    assert '"we""ird; DROP TABLE items"' in spec.query
    assert spec.args == ("'; DROP TABLE items; --",)
    assert "--" not in spec.query


def test_parts_can_be_covered_no_longer():
    indexes = new_indexes("sqlite")
    make = indexes.IndexSpec
    for spec in (
        make("by_n", ge=0, lt=5),
        make("by_city", "LAX"),
        make("by_city_n", "JFK"),
        make("primary_key", 1),
    ):
        indexes.commit_adjustment(indexes.extend([spec]))
    indexes.commit_adjustment(indexes.reduce(make("by_n", ge=2, lt=3)))
    assert indexes.covers(make("by_n", ge=3, lt=5))
    assert not indexes.covers(make("by_n", ge=1, lt=3))
    assert not indexes.covers_record({"id": 9, "city": "x", "n": 2})
    assert indexes.covers_record({"id": 1, "city": "x", "n": 2})
    with pytest.raises(UnsupportedIndexOperation):
        indexes.reduce(make("by_city_n", "JFK", 1))
    adjustment = indexes.reduce(make("by_city_n", "JFK"))
    assert adjustment.expire_spec.recheck_predicate({"id": 9, "city": "JFK", "n": 9})
    assert not adjustment.expire_spec.recheck_predicate({"id": 9, "city": "JFK", "n": 4})
    indexes.commit_adjustment(adjustment)
    assert not indexes.covers(make("by_city_n", "JFK"))


# -- the accesses themselves


@in_loop
async def test_arguments_of_texts(sqlite_items):
    access = SqlAlchemyAccess(sqlite_items)

    async def rows(query, *args):
        return await access.get_records_list(QueryArgsDbRecordsSpec(query, args))

    assert await rows("SELECT $1 || $2 || $1 AS x", "a", "b") == [{"x": "aba"}]
    assert await rows("SELECT ':no $1' AS \":x\", $1 AS y -- $2 :z", 5) == [
        {":x": ":no $1", "y": 5}
    ]
    assert ids(
        await rows("SELECT id FROM items WHERE id IN ($1) AND n IN $2", (1, 2, 3), [-1, 0])
    ) == [1, 2]
    assert await rows("SELECT id FROM items WHERE id IN $1", ()) == []
    for query, args in (("SELECT $1", ()), ("SELECT $1", (1, 2)), ("SELECT $3", (1, 2))):
        with pytest.raises(StatementError, match="argument"):
            await rows(query, *args)
    with pytest.raises(StatementError, match="no rows"):
        await rows("UPDATE items SET n = n WHERE id = $1", 1)
    parsed = QueryArgsDbRecordsSpec(
        "SELECT id FROM items WHERE id = $1", (3,), record_parser=lambda row: row.id * 2
    )
    assert await access.get_record(parsed) == 6
    with pytest.raises(KeyError):
        await access.get_record(QueryArgsDbRecordsSpec("SELECT id FROM items WHERE id = $1", (-3,)))
    select = (
        sa.select(sa.column("id"))
        .select_from(sa.text("items"))
        .where(sa.column("id") == sa.bindparam("p1"))
    )
    assert await rows(select, 7) == [{"id": 7}]
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        SqlAlchemyAccess("sqlite://")


@in_loop
async def test_postgres_access(postgres_items):
    dsn = postgres_items.replace("postgresql+psycopg://", "postgresql://")
    spec = QueryArgsDbRecordsSpec("SELECT * FROM items WHERE id = ANY ($1) ORDER BY id", ([3, 4],))
    access = PostgresAccess(dsn=dsn, cursor_prefetch=1)
    with pytest.raises(ClosedError, match="async with"):
        await access.get_record(spec)
    async with access:
        assert [row["id"] async for row in access.get_records(spec)] == [3, 4]
        assert (await access.get_record(spec))["id"] == 3
        assert [row["id"] for row in await access.get_records_list(spec)] == [3, 4]
        parsing = QueryArgsDbRecordsSpec(
            spec.query, spec.args, record_parser=lambda row: row["id"] + 1
        )
        assert [row async for row in access.get_records(parsing)] == [4, 5]
        with pytest.raises(KeyError):
            await access.get_record(QueryArgsDbRecordsSpec("SELECT 1 WHERE false", ()))
    async with PostgresAccess(lambda row: row["id"] * 10, dsn=dsn) as overriding:
        assert [row async for row in overriding.get_records(parsing)] == [30, 40]
        assert await overriding.get_records_list(parsing) == [30, 40]
    with pytest.raises(ConfigurationError, match="cursor_prefetch"):
        PostgresAccess(cursor_prefetch=0)


@in_loop
async def test_moments_as_scores(postgres, postgres_items):
    dsn = postgres_items.replace("postgresql+psycopg://", "postgresql://")
    statement = "SELECT id, TIMESTAMP '2013-01-01' + id * INTERVAL '1 hour' AS at FROM items"
    indexes = AttributeIndexes(
        statement, "id", by_time=ByAttributes("at"), by_falling=ByAttributes("-at")
    )
    async with PostgresAccess(dsn=dsn) as access:
        table = CachedTable(indexes, access, LocalStorageTable(indexes))
        start = dt.datetime(2013, 1, 1)
        await table.load("by_time", ge=start, lt=start + dt.timedelta(hours=10))
        assert ids(await table.get_records_list("by_time", lt=start + dt.timedelta(hours=5))) == [
            1,
            2,
            3,
            4,
        ]
        await table.adjust("by_falling", ge=start + dt.timedelta(hours=57))
        assert ids(
            await table.get_records_list("by_falling", ge=start + dt.timedelta(hours=58))
        ) == [58, 59, 60]


@in_loop
async def test_a_row_that_moves_while_the_rest_of_a_range_is_fetched_is_not_lost(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'moving.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 1), (2, 9)"))
    indexes = AttributeIndexes("SELECT * FROM t", "id", dialect="sqlite", by_v=ByAttributes("v"))
    reached, go = asyncio.Event(), asyncio.Event()

    class Slow(SqlAlchemyAccess):
        async def get_records_list(self, records_spec):
            records = await super().get_records_list(records_spec)
            if records_spec.args == (5, 10) and not reached.is_set():
                reached.set()
                await go.wait()
            return records

    table = CachedTable(indexes, Slow(engine), LocalStorageTable(indexes))
    await table.load("by_v", ge=0, lt=5)
    reading = asyncio.create_task(table.get_records_list("by_v", ge=0, lt=10))
    await reached.wait()  # it has seen the upper part, where row 1 is not yet
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE t SET v = 7 WHERE id = 1"))
    old = indexes.IndexSpec("by_v", ge=1, lt=2)
    table.invalidate_records([old], [old])
    await table.refresh_invalid()
    go.set()
    assert ids(await reading) == [1, 2]
    engine.dispose()


@pytest.mark.parametrize("kind", ["asyncpg", "sqlalchemy"])
@in_loop
async def test_a_connection_that_is_lost_in_an_adjust_leaves_the_table_as_it_was(
    postgres, postgres_items, kind
):
    indexes = AttributeIndexes(
        "WITH slow AS MATERIALIZED (SELECT pg_sleep(0.2)) SELECT i.* FROM items i CROSS JOIN slow",
        "id",
        by_n=ByAttributes("n"),
    )
    if kind == "asyncpg":
        access = PostgresAccess(dsn=postgres_items.replace("+psycopg", ""))
        await access.__aenter__()
    else:
        engine = create_async_engine(postgres_items.replace("psycopg", "asyncpg"))
        access = SqlAlchemyAccess(engine)
    table = CachedTable(indexes, access, LocalStorageTable(indexes))
    await table.load("by_n", 0)
    before = await table.get_records_list("by_n", 0)
    adjusting = asyncio.create_task(table.adjust("by_n", 1))
    found = []
    while not found:
        await asyncio.sleep(0.01)
        found = postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%pg_sleep(0.2)%' AND state = 'active' AND pid <> pg_backend_pid()"
        )
    with pytest.raises(Exception, match=r"(?i)terminat|closed|connection"):
        await adjusting
    assert await table.get_records_list("by_n", 0) == before
    assert table.peek("by_n", 1) is None
    await table.adjust("by_n", 1)
    assert ids(await table.get_records_list("by_n", 1)) == ids(r for r in ALL if r["n"] == 1)
    if kind == "asyncpg":
        await access.__aexit__(None, None, None)
    else:
        await engine.dispose()
