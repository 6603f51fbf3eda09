"""The small database that the benchmarks ask."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

import everfresh

ONE_ROW = "SELECT count(*) AS flights, avg(arr_delay) AS delay FROM flights WHERE month = :m"


@contextmanager
def flights(rows: int = 1200, **settings: object) -> Iterator[everfresh.Cache]:
    """Open a cache on a new SQLite file with this many flights."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'flights.db'}"
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE flights (id INTEGER PRIMARY KEY, month INTEGER, carrier TEXT, "
                "arr_delay REAL)"
            )
            connection.exec_driver_sql(
                "INSERT INTO flights VALUES (?, ?, ?, ?)",
                [(n, n % 12 + 1, "UA" if n % 3 else "B6", n % 90) for n in range(rows)],
            )
        engine.dispose()
        with everfresh.open(url, **settings) as cache:
            yield cache
