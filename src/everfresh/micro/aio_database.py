"""The databases an asyncio micro-cache can ask."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

from sqlalchemy.engine import Engine
from sqlalchemy.util import greenlet_spawn

from everfresh.errors import ConfigurationError
from everfresh.micro.database import only, read, rows_of
from everfresh.micro.followed import FollowedDatabase, Listening
from everfresh.micro.question import Question

__all__ = ["AsyncDatabase", "AsyncFollowedDatabase", "adapt_async", "awaited"]


class AsyncDatabase(Protocol):
    """Be asked for one row or for all rows of a query; either may also answer at once."""

    def one(self, sql: str, params: Any = None, /) -> Any:
        """Return the only row, None if there is none."""

    def all(self, sql: str, params: Any = None, /) -> Any:
        """Return the rows."""


async def awaited(value: Any) -> Any:
    """Return a value, awaited if it can be."""
    return await value if inspect.isawaitable(value) else value


def adapt_async(db: Any) -> AsyncDatabase:
    """Return what answers `one` and `all` for an engine, a connection factory or an object.

    Raises `ConfigurationError` for anything else.
    """
    if hasattr(db, "sync_engine"):
        return AsyncEngineDatabase(db)
    if isinstance(db, Engine):
        raise ConfigurationError(
            "this engine would block the event loop: use everfresh.micro.QueryCache, or an engine "
            "of sqlalchemy.ext.asyncio.create_async_engine"
        )
    if callable(getattr(db, "one", None)) and callable(getattr(db, "all", None)):
        return cast("AsyncDatabase", db)
    if callable(db):
        return AsyncFactoryDatabase(db)
    raise ConfigurationError(
        f"db is an AsyncEngine, a function that returns an asynchronous connection, or an object "
        f"with coroutines one(sql, params) and all(sql, params), not {type(db).__name__}"
    )


class AsyncEngineDatabase:
    """Ask a SQLAlchemy AsyncEngine; parameters as for `EngineDatabase`."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    async def one(self, sql: str, params: Any = None) -> Any:
        """Return the only row, None if there is none; raises `StatementError` for several."""
        return only(await self.all(sql, params), sql)

    async def all(self, sql: str, params: Any = None) -> list[Any]:
        """Return the rows."""
        async with self.engine.connect() as connection:
            rows: list[Any] = await connection.run_sync(read, sql, params)
            return rows


class AsyncFactoryDatabase:
    """Ask connections that a function makes, one for each query; they are closed after it.

    The function may return the connection or something to await (``aiosqlite.connect(path)``,
    ``psycopg.AsyncConnection.connect(…)``). Parameters go to the driver as they are.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.connect = connect

    async def one(self, sql: str, params: Any = None) -> Any:
        """Return the only row, None if there is none; raises `StatementError` for several."""
        return only(await self.all(sql, params), sql)

    async def all(self, sql: str, params: Any = None) -> list[Any]:
        """Return the rows."""
        connection = await awaited(self.connect())
        try:
            cursor = await awaited(connection.cursor())
            await cursor.execute(*((sql,) if params is None else (sql, params)))
            fetched = [] if cursor.description is None else await cursor.fetchall()
            rows = rows_of(cursor.description, lambda: fetched, sql)
            await cursor.close()
            return rows
        finally:
            await connection.close()


class AsyncFollowedDatabase:
    """Ask the database of an `everfresh.Cache`: on its engine, in a thread if it blocks."""

    def __init__(self, followed: FollowedDatabase, *, threads: bool) -> None:
        self._followed = followed
        self._run: Callable[..., Any] = asyncio.to_thread if threads else greenlet_spawn

    async def one(self, sql: str, params: Any = None) -> Any:
        """Return the only row, None if there is none; raises `StatementError` for several."""
        return await self._run(self._followed.one, sql, params)

    async def all(self, sql: str, params: Any = None) -> Any:
        """Return the rows."""
        return await self._run(self._followed.all, sql, params)

    async def listening(self, question: Question) -> Listening:
        """Return what a result must be listened for."""
        found: Listening = await self._run(self._followed.listening, question)
        return found
