"""From a URL to a cache."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import StaticPool

from everfresh.connect.engines import make_engine
from everfresh.engine.aio import AsyncCache
from everfresh.engine.cache import Cache
from everfresh.engine.running import Greenlets, Runner, Threads
from everfresh.errors import MissingExtraError
from everfresh.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Opening", "open", "open_async"]


def open(database: str | URL | Engine, **settings: Any) -> Cache:  # noqa: A001 - everfresh.open
    """Open a cache for a database.

    ``database`` is a URL (``"sqlite:///flights.db"``, ``"postgresql://user@host/name"``) or a
    SQLAlchemy engine of your own; ``settings`` are the fields of `everfresh.Settings`. Raises
    `UnknownURLError`, `DatabaseNotFoundError`, `MissingExtraError` or `ConfigurationError`.

    >>> cache = open("sqlite://", max_bytes=10_000_000)
    >>> cache.sql("SELECT 1 AS one")[0].one
    1
    """
    chosen = Settings(**settings)
    engine, owned = make_engine(database)
    return Cache(engine, chosen, owned=owned)


def open_async(
    database: str | URL | Engine | AsyncEngine, *, threads: int = 10, **settings: Any
) -> Opening:
    """Open a cache of a database for asyncio: await the result, or enter it with ``async with``.

    ``database`` is a blocking URL (``"sqlite:///flights.db"``, ``"postgresql://user@host/name"``),
    whose queries run in at most ``threads`` threads of the cache's own; or one of an asyncio driver
    (``"sqlite+aiosqlite:///flights.db"``, ``"postgresql+asyncpg://…"``,
    ``"postgresql+psycopg_async://…"``), whose queries run in the caller's event loop; or an Engine
    or AsyncEngine of your own. ``settings`` are the fields of `everfresh.Settings`. Raises what
    `everfresh.open` raises.

    >>> async def main():
    ...     async with open_async("sqlite://") as cache:
    ...         first = await cache.sql("SELECT 1 AS one")
    ...     cache = await open_async("sqlite://", threads=2)
    ...     second = await cache.sql("SELECT 2 AS two")
    ...     await cache.close()
    ...     return first[0].one, second[0].two
    >>> asyncio.run(main())
    (1, 2)
    """
    return Opening(database, Settings(**settings), threads)


class Opening:
    """Be awaited, or entered, for one `AsyncCache`; made by `everfresh.open_async`."""

    def __init__(self, database: object, settings: Settings, threads: int) -> None:
        self._database = database
        self._settings = settings
        self._threads = Threads(threads)
        self._cache: AsyncCache | None = None

    def __await__(self) -> Generator[Any, None, AsyncCache]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncCache:
        return await self._open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._cache is not None:
            await self._cache.close()

    async def _open(self) -> AsyncCache:
        if self._cache is None:
            # in a thread: it imports the driver, and may look into the file
            self._cache = await asyncio.to_thread(self._make)
        return self._cache

    def _make(self) -> AsyncCache:
        engine, owned = make_engine(self._database)
        runner = self._runner(engine)
        return AsyncCache(Cache(engine, self._settings, owned=owned), runner)

    def _runner(self, engine: Engine) -> Runner:
        if engine.dialect.is_async:
            if find_spec("greenlet") is None:
                raise MissingExtraError("asyncio", "an asyncio engine")
            return Greenlets()
        # one connection for all is for one thread at a time
        return Threads(1) if isinstance(engine.pool, StaticPool) else self._threads
