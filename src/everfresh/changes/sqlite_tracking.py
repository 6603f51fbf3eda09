"""Put a change table and triggers into a SQLite file, so that every writer logs its rows there.

Every function takes a `sqlite3.Connection` to the file that has no transaction open, and does its
work in one transaction: all of it or nothing. Triggers write the rows before and after into
``everfresh_change`` in the writer's own transaction; ``everfresh_tracking`` says which columns
their values belong to::

    connection = sqlite3.connect("flights.db")
    tracking = install(connection)
    tracking.tracked, tracking.untracked

While triggers are in place ``ALTER TABLE … DROP COLUMN`` fails, as it does with any trigger that
names the column: `remove` first, `install` again afterwards.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from everfresh.changes.sqlite_shape import OWN, Shape, quoted, read_shapes
from everfresh.changes.sqlite_status import (
    FORMAT,
    KEEP,
    KEEPER,
    META,
    Installed,
    as_tracking,
    examine,
)
from everfresh.changes.sqlite_triggers import CHANGES, WHOLE, triggers
from everfresh.changes.watching import Tracking
from everfresh.errors import ConfigurationError

__all__ = ["announce", "heal", "install", "plan", "prune", "remove", "status"]

_SECONDS_A_DAY = 86_400.0


def status(connection: sqlite3.Connection) -> Tracking:
    """Return what is tracked, what is not and why, and how long the history is."""
    query = _query(connection)
    return as_tracking(query, examine(query))


def plan(connection: sqlite3.Connection, tables: Iterable[str] | None = None) -> list[str]:
    """Return the SQL that `install` would run; empty when all is in place."""
    return list(_steps(connection, tables))


def install(connection: sqlite3.Connection, tables: Iterable[str] | None = None) -> Tracking:
    """Track these tables, or all that can be; what is in place already stays.

    Run it again after a schema change. Raises `ConfigurationError` for a table that cannot be
    tracked or does not exist, and when the connection has a transaction open.
    """
    wanted = None if tables is None else _names(tables)
    with _transaction(connection):
        for statement in _steps(connection, wanted):
            connection.execute(statement)
    return status(connection)


def remove(connection: sqlite3.Connection) -> Tracking:
    """Drop every trigger of ours, the change table and its history."""
    with _transaction(connection):
        query = _query(connection)
        statements = [f"DROP TRIGGER main.{quoted(name)}" for name in examine(query).triggers]
        statements += [f"DROP TABLE IF EXISTS main.{name}" for name in (CHANGES, META)]
        for statement in statements:
            connection.execute(statement)
    return status(connection)


def heal(connection: sqlite3.Connection) -> bool:
    """Mend a change table that was dropped by hand, which makes every write fail; say if it was.

    The history starts anew. Triggers without their bookkeeping are dropped.
    """
    query = _query(connection)
    if not _broken(examine(query)):
        return False
    with _transaction(connection):
        found = examine(query)
        if not _broken(found):
            return False
        names = [each.shape.name for each in found.tables.values() if each.shape is not None]
        for name in found.triggers if not names else ():
            connection.execute(f"DROP TRIGGER main.{quoted(name)}")
        for statement in _steps(connection, names) if names else ():
            connection.execute(statement)
    return True


def prune(
    connection: sqlite3.Connection,
    *,
    keep_seconds: float | None = None,
    keep_rows: int | None = None,
) -> int:
    """Delete what is older than this many seconds, or beyond this many rows; return how many.

    With both, a row goes when either says so. The newest row always stays. What was read before
    the oldest row that is left cannot be proven any more from the history.
    """
    if status(connection).history is None:
        return 0
    conditions = []
    if keep_seconds is not None:
        days = float(keep_seconds) / _SECONDS_A_DAY
        conditions.append(
            f"seq < coalesce((SELECT min(seq) FROM main.{CHANGES}"
            f" WHERE at >= julianday('now') - {days!r}), 9223372036854775807)"
        )
    if keep_rows is not None:
        conditions.append(
            f"seq <= (SELECT max(seq) FROM main.{CHANGES}) - {max(int(keep_rows), 1)}"
        )
    if not conditions:
        return 0
    with _transaction(connection):
        return connection.execute(
            f"DELETE FROM main.{CHANGES} WHERE ({' OR '.join(conditions)})"
            f" AND seq < (SELECT max(seq) FROM main.{CHANGES})"
        ).rowcount


def announce(connection: sqlite3.Connection, tables: Iterable[str] | None = None) -> list[str]:
    """Log a change of these tables as a whole, or of all; return those that are tracked.

    Every process that follows the file outdates what it kept of them, as after a write.
    """
    with _transaction(connection):
        healthy = examine(_query(connection)).healthy()
        names = None if tables is None else {_canonical(table) for table in tables}
        told = {n: each.number for n, each in healthy.items() if names is None or n in names}
        for number in told.values():
            connection.execute(f"INSERT INTO main.{CHANGES} (tab, op) VALUES ({number}, {WHOLE})")
    return sorted(told)


def _names(tables: Iterable[str]) -> list[str]:
    names = [tables] if isinstance(tables, str) else list(tables)
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"tables are named by text, not by {name!r}")
    return names


def _canonical(table: str) -> str:
    return f"main.{table.lower().removeprefix('main.')}"


def _broken(found: Installed) -> bool:
    return bool(found.triggers) and not found.sound


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    if connection.in_transaction:
        raise ConfigurationError(
            "this connection has a transaction open: commit it, or use another connection"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors roll back by themselves
            connection.execute("ROLLBACK")
        raise


def _query(connection: sqlite3.Connection) -> Any:
    def run(statement: str) -> Sequence[Sequence[Any]]:
        cursor = connection.cursor()
        cursor.row_factory = None
        try:
            return cursor.execute(statement).fetchall()
        finally:
            cursor.close()

    return run


# -- what is to be done


def _steps(connection: sqlite3.Connection, tables: Iterable[str] | None) -> Iterator[str]:
    query = _query(connection)
    found = examine(query)
    shapes = _chosen(read_shapes(query), tables)
    current = {} if not found.sound else found.healthy()
    todo = [shape for shape in shapes if not _complete(current.get(shape.canonical), shape)]
    redone = {shape.canonical for shape in todo}
    keep = {name for name, each in current.items() if name not in redone}
    kept = {trigger for name in keep for trigger in current[name].expected}
    if found.sound:
        kept.add(KEEP)
    yield from (f"DROP TRIGGER main.{quoted(n)}" for n in found.triggers if n not in kept)
    if not found.sound:
        yield from _foundation()
    widest = max((_width(shape) for shape in todo), default=0)
    have = found.width if found.sound else 0
    yield from (f"ALTER TABLE main.{CHANGES} ADD COLUMN a{n}" for n in range(have, widest))
    number = found.last_number if found.sound else 0
    for shape in todo:
        number += 1
        yield _mapping(shape, number)
        yield from triggers(shape, [name for name, _ in shape.columns], number).values()


def _complete(installed: Any, shape: Shape) -> bool:
    return installed is not None and list(installed.columns) == [n for n, _ in shape.columns]


def _chosen(shapes: list[Shape], tables: Iterable[str] | None) -> list[Shape]:
    if tables is None:
        return [shape for shape in shapes if not shape.obstacle]
    known = {shape.canonical: shape for shape in shapes}
    chosen = {}
    for table in tables:
        plain = table.lower().removeprefix("main.")
        shape = known.get(f"main.{plain}")
        if shape is None:
            raise ConfigurationError(
                f"there is no table {table!r} to track: choose from "
                f"{', '.join(sorted(s.name for s in shapes if not s.obstacle)) or 'none'}"
            )
        if shape.obstacle:
            raise ConfigurationError(f"{table!r} cannot be tracked: {shape.obstacle}")
        chosen[shape.canonical] = shape
    return list(chosen.values())


def _foundation() -> Iterator[str]:
    yield f"DROP TABLE IF EXISTS main.{CHANGES}"
    yield f"DROP TABLE IF EXISTS main.{META}"
    yield (
        f"CREATE TABLE main.{CHANGES} (seq INTEGER PRIMARY KEY, tab INTEGER,"
        " op INTEGER, at REAL DEFAULT (julianday('now')))"
    )
    yield KEEPER
    yield f"CREATE TABLE main.{META} (item TEXT PRIMARY KEY, value TEXT)"
    yield (
        f"INSERT INTO main.{META} VALUES ('format', '{FORMAT}'),"
        " ('history', lower(hex(randomblob(8))))"
    )


def _width(shape: Shape) -> int:
    return 0 if shape.whole else 2 * len(shape.columns)


def _mapping(shape: Shape, number: int) -> str:
    columns = [] if shape.whole else [name for name, _ in shape.columns]
    value = {"table": shape.name, "columns": columns, "key": shape.key}
    text = json.dumps(value).replace("'", "''")
    return f"INSERT INTO main.{META} VALUES ('{OWN}{number}', '{text}')"
