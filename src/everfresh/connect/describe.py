"""Read what a database says of itself: its tables, its identity, its session's settings.

::

    with engine.connect() as connection:
        schema = describe(connection)
        schema.table(None, "flights").columns
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from everfresh.connect import describe_postgres, describe_sqlite
from everfresh.connect.description import DatabaseSchema, ForeignKey, Query
from everfresh.errors import ConfigurationError

__all__ = [
    "DatabaseSchema",
    "ForeignKey",
    "Identity",
    "describe",
    "describe_unheard",
    "describe_with",
    "identity",
    "session",
    "session_unheard",
    "standing",
    "version",
]

_READERS: dict[str, Callable[[Query], DatabaseSchema]] = {
    "sqlite": describe_sqlite.read,
    "postgresql": describe_postgres.read,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Tell two databases apart, and two sessions that get different answers from one.

    ``database`` is the same for every connection to one database: the real path of a SQLite
    file, or PostgreSQL's system identifier, timeline and database oid. ``session`` holds the
    settings that change answers: role, search_path, time zone, output formats.
    """

    database: str
    session: tuple[tuple[str, str], ...] = ()


def describe(connection: Connection) -> DatabaseSchema:
    """Read the tables, views, columns and what a write to each may write besides.

    Takes a handful of statements, however many tables there are. Raises `ConfigurationError`
    for a database that is neither SQLite nor PostgreSQL.
    """
    return describe_with(connection.dialect.name, _query(connection))


def describe_with(dialect: str, query: Query) -> DatabaseSchema:
    """Read the schema through a function that runs one statement and returns its rows."""
    reader = _READERS.get(dialect)
    if reader is None:
        raise ConfigurationError(f"{dialect!r} is not known here: use one of {sorted(_READERS)}")
    return reader(query)


def identity(connection: Connection) -> Identity:
    """Return what tells this database, and this session's view of it, from others."""
    query = _query(connection)
    if connection.dialect.name == "sqlite":
        return _sqlite_identity(connection, query)
    return Identity(describe_postgres.database(query), describe_postgres.session(query))


def session(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Return the `Identity.session` of a PostgreSQL connection; takes one statement."""
    return describe_postgres.session(_query(connection))


def standing(connection: Connection) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """Return the `Identity.session` of a PostgreSQL connection, its snapshot and its timeline.

    Takes one statement. The snapshot is written as PostgreSQL does; the timeline is empty on a
    standby.
    """
    return describe_postgres.standing(_query(connection))


def version(connection: Connection) -> tuple[int, ...]:
    """Return a stamp that moves when the schema of a SQLite database does; costs microseconds.

    PostgreSQL has no such stamp: the answer is empty there.
    """
    if connection.dialect.name != "sqlite":
        return ()
    return describe_sqlite.version(_query(connection))


def describe_unheard(connection: Connection) -> tuple[DatabaseSchema, Identity]:
    """Do both past SQLAlchemy's events, whose listeners want to hear the application alone."""
    query = _unheard(connection)
    schema = describe_with(connection.dialect.name, query)
    if connection.dialect.name == "sqlite":
        return schema, _sqlite_identity(connection, query)
    return schema, Identity(describe_postgres.database(query), describe_postgres.session(query))


def session_unheard(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Return what `session` does, past SQLAlchemy's events."""
    return describe_postgres.session(_unheard(connection))


def _unheard(connection: Connection) -> Query:
    if not connection.in_transaction():
        connection.begin()  # who uses a connection without it may have written anything

    def run(statement: str) -> Sequence[Sequence[Any]]:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(statement)
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
            return rows
        finally:
            cursor.close()

    return run


def _query(connection: Connection) -> Query:
    def run(statement: str) -> Sequence[Sequence[Any]]:
        # without parameters, or the driver takes a % in the text for a placeholder
        options = {"no_parameters": True}
        return connection.exec_driver_sql(statement, execution_options=options).fetchall()

    return run


def _sqlite_identity(connection: Connection, query: Query) -> Identity:
    files = describe_sqlite.files(query)
    attached = tuple((name, os.path.realpath(path)) for name, path in files if name != "main")
    main = dict(files).get("main", "")
    if main:
        return Identity(f"sqlite:{os.path.realpath(main)}", attached)
    # A database in memory has no name: the token lives as long as its connection does.
    token = connection.info.setdefault("everfresh.identity", uuid.uuid4().hex)
    return Identity(f"sqlite:memory:{token}", attached)
