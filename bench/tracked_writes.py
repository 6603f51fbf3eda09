"""What tracking costs the writers of a SQLite file: single-row commits by plain sqlite3."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from bench.measure import Result, medians
from everfresh.changes.sqlite_tracking import install

ROWS = 5_000
TABLE = (
    "CREATE TABLE flights (id INTEGER PRIMARY KEY, month INTEGER, carrier TEXT, dep_delay REAL, "
    "arr_delay REAL)"
)


def run(rounds: int) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        tracked, untracked = (make(Path(folder) / name) for name in ("tracked", "untracked"))
        install(tracked)
        for name, write in (("INSERT", insert), ("UPDATE", update)):
            # so many that each round has its share of checkpoints: one in about 1,000 pages
            calls = {"ours": write(tracked), "plain": write(untracked)}
            taken = medians(calls, 4000, rounds)
            yield Result(
                f"a single-row {name} on a tracked file, WAL, synchronous=NORMAL / untracked",
                taken["ours"],
                taken["plain"],
                "µs",
                2.0,
            )
        tracked.close()
        untracked.close()


def make(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(TABLE)
    rows = [(n, n % 12 + 1, "UA" if n % 3 else "B6", 1.5, n % 90) for n in range(ROWS)]
    connection.executemany("INSERT INTO flights VALUES (?, ?, ?, ?, ?)", rows)
    return connection


def insert(connection: sqlite3.Connection) -> Callable[[], object]:
    numbers = count(ROWS)
    statement = "INSERT INTO flights VALUES (?, 6, 'AA', 2.5, 3.5)"
    return lambda: connection.execute(statement, (next(numbers),))


def update(connection: sqlite3.Connection) -> Callable[[], object]:
    numbers = count()
    statement = "UPDATE flights SET arr_delay = ? WHERE id = ?"
    return lambda: connection.execute(statement, (n := next(numbers), n * 7919 % ROWS))
