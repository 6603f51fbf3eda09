"""Read records through any SQLAlchemy engine, asyncio's or a blocking one in threads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from sqlalchemy import Executable, bindparam, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.elements import TextClause

from everfresh.errors import ConfigurationError, StatementError
from everfresh.tables.db import DbAccess, as_it_is

__all__ = ["SqlAlchemyAccess"]

_TOKEN = re.compile(
    r"""(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\2\$)"""
    r"""|(?P<before>\bIN\s*\(?\s*)\$(?P<list>\d+)(?P<after>\s*\)?)|\$(?P<one>\d+)""",
    re.DOTALL | re.IGNORECASE,
)


class SqlAlchemyAccess(DbAccess):
    """Read records by SQLAlchemy, on SQLite, PostgreSQL or any other database.

    ``engine`` is an AsyncEngine, or an Engine, whose queries then run in threads. A query is text
    with ``$1``, ``$2`` for its arguments, as for asyncpg, or a SQLAlchemy statement, whose
    parameters are ``p1``, ``p2``. A list or tuple as the argument of ``IN $1`` stands for its
    elements. ``record`` makes a record of a row's columns, given as keywords: ``dict``, a
    dataclass, a msgspec Struct; ``tuple`` keeps the row's values alone. A ``record_parser`` of the
    records spec is called with the row instead.

    >>> import asyncio
    >>> from sqlalchemy import create_engine
    >>> from everfresh.tables import QueryArgsDbRecordsSpec
    >>> access = SqlAlchemyAccess(create_engine("sqlite://"))
    >>> spec = QueryArgsDbRecordsSpec("SELECT $1 + 1 AS sum", (41,))
    >>> asyncio.run(access.get_record(spec))
    {'sum': 42}
    """

    def __init__(self, engine: Any, *, record: Callable[..., Any] = dict) -> None:
        self.engine = engine
        self.record = record
        self._async = not isinstance(engine, Engine)
        if self._async and not hasattr(engine, "sync_engine"):
            raise ConfigurationError(
                f"SqlAlchemyAccess takes an AsyncEngine or an Engine, not {type(engine).__name__}"
            )
        self._make = _maker(record)

    @property
    def dialect(self) -> str:
        """Name of the database's dialect, such as ``"postgresql"``."""
        return str(self.engine.dialect.name)

    async def get_records(self, records_spec: Any) -> AsyncIterator[Any]:
        """Iterate over the records meant; no connection is held while they are."""
        for record in await self.get_records_list(records_spec):
            yield record

    async def get_records_list(self, records_spec: Any) -> list[Any]:
        """Return all records meant."""
        statement, parameters = _statement(records_spec.query, records_spec.args)
        columns, rows = await self._rows(statement, parameters)
        if records_spec.record_parser is as_it_is:
            return self._make(columns, rows)
        return [records_spec.record_parser(row) for row in rows]

    async def columns(self, query: str) -> tuple[str, ...]:
        """Return the names of the columns of a SELECT without arguments."""
        statement, parameters = _statement(f"SELECT * FROM ({query}) AS none WHERE 1 = 0", ())
        columns, _ = await self._rows(statement, parameters)
        return columns

    def record_of(self, columns: tuple[str, ...], row: tuple[Any, ...]) -> Any:
        """Return the record that is made of a row of these columns."""
        return self._make(columns, [row])[0]

    async def _rows(
        self, statement: Executable, parameters: dict[str, Any]
    ) -> tuple[tuple[str, ...], list[Any]]:
        if not self._async:
            return await asyncio.to_thread(self._blocking, statement, parameters)
        async with self.engine.connect() as connection:
            return await connection.run_sync(_run, statement, parameters)  # type: ignore[no-any-return]

    def _blocking(
        self, statement: Executable, parameters: dict[str, Any]
    ) -> tuple[tuple[str, ...], list[Any]]:
        with self.engine.connect() as connection:
            return _run(connection, statement, parameters)


def _run(
    connection: Connection, statement: Executable, parameters: dict[str, Any]
) -> tuple[tuple[str, ...], list[Any]]:
    result = connection.execute(statement, parameters)
    if not result.returns_rows:
        raise StatementError("the query of a table returns no rows: give a SELECT")
    return tuple(result.keys()), list(result.fetchall())


def _maker(record: Callable[..., Any]) -> Callable[[tuple[str, ...], list[Any]], list[Any]]:
    """Return a function that makes records of rows."""
    if record is dict:
        return lambda columns, rows: [dict(zip(columns, row, strict=True)) for row in rows]
    if record is tuple:
        return lambda columns, rows: [tuple(row) for row in rows]
    if isinstance(record, type) and issubclass(record, msgspec.Struct):
        return lambda columns, rows: msgspec.convert(
            [dict(zip(columns, row, strict=True)) for row in rows],
            list[record],  # type: ignore[valid-type]  # it is a class
            strict=False,
        )
    return lambda columns, rows: [record(**dict(zip(columns, row, strict=True))) for row in rows]


def _statement(query: Any, args: tuple[Any, ...]) -> tuple[Executable, dict[str, Any]]:
    # a tuple is a row value to some drivers; here it stands for its elements
    plain = (list(arg) if isinstance(arg, (tuple, set, frozenset)) else arg for arg in args)
    parameters = {f"p{number}": arg for number, arg in enumerate(plain, 1)}
    if not isinstance(query, str):
        return query, parameters
    return _text(query, args), parameters


def _text(query: str, args: tuple[Any, ...]) -> TextClause:
    """Return a query with ``$1`` as SQLAlchemy's text, whose parameters are ``:p1``."""
    used: set[int] = set()
    expanding: set[int] = set()

    def named(found: re.Match[str]) -> str:
        if found["quoted"]:
            return found[0].replace(":", "\\:")
        number = int(found["list"] or found["one"])
        if not 1 <= number <= len(args):
            raise StatementError(f"the query names ${number} of {len(args)} arguments: {query}")
        used.add(number)
        if found["list"] is None:
            return f":p{number}"
        if isinstance(args[number - 1], (list, tuple, set, frozenset)):
            expanding.add(number)
            return f"IN :p{number}"
        return f"{found['before']}:p{number}{found['after']}"

    clause = text(_TOKEN.sub(named, query))
    if len(used) < len(args):
        raise StatementError(f"the query names {len(used)} of its {len(args)} arguments: {query}")
    return clause.bindparams(*(bindparam(f"p{number}", expanding=True) for number in expanding))
