"""A small flights table behind a cache, and a count of what reaches the database."""

import contextlib

import pytest
import sqlalchemy as sa

import everfresh

JUNE = "SELECT carrier, avg(arr_delay) AS delay FROM flights WHERE month = :m GROUP BY carrier"


class Statements(list):
    """The SELECTs of flights that reached the database."""

    def selects(self):
        return [
            text
            for text in self
            if text.lstrip().upper().startswith("SELECT") and "flights" in text
        ]


@contextlib.contextmanager
def counted(engine):
    seen = Statements()

    def note(conn, cursor, statement, parameters, context, executemany):
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def make_flights(engine):
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE flights (id INTEGER PRIMARY KEY, month INTEGER, carrier VARCHAR(2), "
                "arr_delay FLOAT)"
            )
        )
        connection.execute(
            sa.text("INSERT INTO flights VALUES (:id, :month, :carrier, :delay)"),
            [
                {"id": n, "month": n % 12 + 1, "carrier": "UA" if n % 2 else "B6", "delay": n / 2}
                for n in range(48)
            ],
        )


@pytest.fixture
def url(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/flights.db")
    make_flights(engine)
    engine.dispose()
    return f"sqlite:///{tmp_path}/flights.db"


@pytest.fixture
def cache(url):
    with everfresh.open(url) as opened:
        yield opened


def write(cache, statement, **parameters):
    with cache.engine.begin() as connection:
        connection.execute(sa.text(statement), parameters)
