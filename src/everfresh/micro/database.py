"""The databases a micro-cache can ask: all of them answer `one` and `all`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Any, Protocol, cast

from sqlalchemy import text
from sqlalchemy.engine import Connection, CursorResult, Engine

from everfresh.errors import ConfigurationError, StatementError

__all__ = ["Database", "adapt", "as_dicts", "execute", "only", "read", "rows_of"]


class Database(Protocol):
    """Be asked for one row or for all rows of a query."""

    def one(self, sql: str, params: Any = None, /) -> Any:
        """Return the only row, None if there is none."""

    def all(self, sql: str, params: Any = None, /) -> Any:
        """Return the rows."""


def adapt(db: Any) -> Database:
    """Return what answers `one` and `all` for an engine, a connection factory or an object.

    Raises `ConfigurationError` for anything else.
    """
    if isinstance(db, Engine):
        return EngineDatabase(db)
    if hasattr(db, "sync_engine"):
        raise ConfigurationError("this engine is asynchronous: use everfresh.micro.AsyncQueryCache")
    if callable(getattr(db, "one", None)) and callable(getattr(db, "all", None)):
        return cast("Database", db)
    if callable(db):
        return FactoryDatabase(db)
    raise ConfigurationError(
        f"db is a SQLAlchemy engine, a function that returns a DBAPI connection, or an object with "
        f"one(sql, params) and all(sql, params), not {type(db).__name__}"
    )


class EngineDatabase:
    """Ask a SQLAlchemy engine.

    A mapping of parameters fills ``:name``; where the text names none of them so, and for a
    sequence, the placeholders are the driver's own. A text without parameters is sent as it is.

    >>> import sqlalchemy
    >>> db = EngineDatabase(sqlalchemy.create_engine("sqlite://"))
    >>> db.one("SELECT :a + 1 AS b", {"a": 1}), db.all("SELECT ? AS b", (2,))
    ({'b': 2}, [{'b': 2}])
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def one(self, sql: str, params: Any = None) -> dict[str, Any] | None:
        """Return the only row, None if there is none; raises `StatementError` for several."""
        with self.engine.connect() as connection:
            return only(read(connection, sql, params), sql)

    def all(self, sql: str, params: Any = None) -> list[dict[str, Any]]:
        """Return the rows."""
        with self.engine.connect() as connection:
            return read(connection, sql, params)


class FactoryDatabase:
    """Ask connections that a function makes, one for each query; they are closed after it.

    Parameters go to the driver as they are, in its own style.

    >>> import sqlite3
    >>> FactoryDatabase(lambda: sqlite3.connect(":memory:")).one("SELECT ? AS n", (1,))
    {'n': 1}
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.connect = connect

    def one(self, sql: str, params: Any = None) -> dict[str, Any] | None:
        """Return the only row, None if there is none; raises `StatementError` for several."""
        return only(self.all(sql, params), sql)

    def all(self, sql: str, params: Any = None) -> list[dict[str, Any]]:
        """Return the rows."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(*((sql,) if params is None else (sql, params)))
            return rows_of(cursor.description, cursor.fetchall, sql)


def read(connection: Connection, sql: str, params: Any) -> list[dict[str, Any]]:
    """Return the rows of a query on a SQLAlchemy connection."""
    result = execute(connection, sql, params)
    if not result.returns_rows:
        raise no_rows(sql)
    return [dict(row) for row in result.mappings()]


def execute(connection: Connection, sql: str, params: Any) -> CursorResult[Any]:
    """Run a query with parameters in whichever style they are."""
    if params is None:
        return connection.execution_options(no_parameters=True).exec_driver_sql(sql)
    if isinstance(params, Mapping):
        clause = text(sql)
        if not params or clause.compile(dialect=connection.dialect).params:
            return connection.execute(clause, dict(params))
        return connection.exec_driver_sql(sql, dict(params))
    return connection.exec_driver_sql(sql, tuple(params))


def rows_of(description: Any, fetchall: Callable[[], Iterable[Any]], sql: str) -> list[Any]:
    """Return the rows of a DBAPI cursor as dictionaries."""
    if description is None:
        raise no_rows(sql)
    names = [column[0] for column in description]
    return [
        dict(row) if isinstance(row, Mapping) else dict(zip(names, row, strict=True))
        for row in fetchall()
    ]


def only(rows: list[dict[str, Any]], sql: str) -> dict[str, Any] | None:
    """Return the only row, None if there is none."""
    if len(rows) > 1:
        raise StatementError(
            f"one() takes one row at most, the query returned {len(rows)}: use all(), or add "
            f"LIMIT 1 to {' '.join(sql.split())}"
        )
    return rows[0] if rows else None


def no_rows(sql: str) -> StatementError:
    """Return the error for a statement that is no query."""
    return StatementError(f"the statement returns no rows: {' '.join(sql.split())}")


def as_dicts(rows: Iterable[Any]) -> list[Any]:
    """Return rows as callbacks get them: dictionaries, of whatever kind the database made them.

    >>> as_dicts([{"n": 1}])
    [{'n': 1}]
    """
    return [_as_dict(row) for row in rows]


def _as_dict(row: Any) -> Any:
    if isinstance(row, dict):
        return row
    if isinstance(row, Mapping):
        return dict(row)
    named = getattr(row, "_asdict", None)  # namedtuples, SQLAlchemy's and everfresh's rows
    if named is not None:
        return named()
    # sqlite3.Row and asyncpg.Record have keys without being mappings; other rows stay as they are
    return {name: row[name] for name in row.keys()} if hasattr(row, "keys") else row  # noqa: SIM118
