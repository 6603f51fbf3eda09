"""The cache for asyncio: the same machine, awaited.

An `AsyncCache` holds a `Cache` and adds nothing that is kept: entries, computations and change
feed are that cache's, so threads and tasks share one answer and one computation of it. Only what
asks the database is awaited; a hit creates no task, switches no greenlet and takes no lock.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from sqlalchemy.engine import Engine

from everfresh.changes.watching import Tracking
from everfresh.engine.audit import Audit
from everfresh.engine.cache import Cache
from everfresh.engine.functions import Cached, FunctionOptions, wrap
from everfresh.engine.functions_async import AsyncCalls
from everfresh.engine.lineage import current
from everfresh.engine.rows import Rows
from everfresh.engine.running import Runner, objection
from everfresh.engine.stats import Stats
from everfresh.engine.why import Explanation
from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import Freshness, freshness_of
from everfresh.settings import check_seconds

__all__ = ["AsyncCache", "AsyncView"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncCache:
    """Keep the answers of one database for asyncio and never serve one the data has outgrown.

    Made by `everfresh.open_async`. ``blocking`` is the `everfresh.Cache` underneath: threads may
    use it at the same time, and share every answer and every computation with the tasks.

    >>> import asyncio, everfresh
    >>> async def main():
    ...     async with everfresh.open_async("sqlite://") as cache:
    ...         await cache.sql("SELECT :a + 1 AS b", a=1)
    ...         return (await cache.sql("SELECT :a + 1 AS b", a=1)).receipt.status
    >>> asyncio.run(main())
    'hit'
    """

    def __init__(self, blocking: Cache, runner: Runner) -> None:
        self.blocking = blocking
        self._runner = runner
        self._shortcuts = blocking.statements.shortcuts
        self._touched = blocking.board.store.touched
        self._proof, self._clock = blocking.proof, blocking.proof.clock

    @property
    def engine(self) -> Engine:
        """The engine whose commits are heard; of an AsyncEngine its ``sync_engine``."""
        return self.blocking.engine

    @property
    def runner(self) -> Runner:
        """What runs the functions that ask the database."""
        return self._runner

    # asking -----------------------------------------------------------------

    async def sql(
        self, statement: str, parameters: Mapping[str, object] | None = None, /, **named: object
    ) -> Rows:
        """Return the rows of a SELECT, from memory if nothing they depend on has changed.

        Arguments, result and errors are those of `Cache.sql`.

        >>> import asyncio, everfresh
        >>> async def main():
        ...     async with everfresh.open_async("sqlite://") as cache:
        ...         return await cache.sql("SELECT :a + 1 AS b", a=1)
        >>> asyncio.run(main()).one().b
        2
        """
        if parameters is not None:
            named = {**parameters, **named}
        rows = self._kept(statement, named)
        if rows is not None:
            return rows
        return await self.ask(statement, named)

    def _kept(self, statement: str, named: dict[str, object]) -> Rows | None:
        """Return the rows of a hit, None for whatever needs a closer look; as `Cache.sql` does."""
        try:
            entry = self._shortcuts[
                (statement, *named, *named.values(), *map(type, named.values()))
                if named
                else statement
            ]
        except (KeyError, TypeError):
            return None
        until = self._proof.until  # before the state: a poll between them proves what it outdates
        if (until is None or self._clock() < until) and entry.state == 0 and current() is None:
            entry.hits += 1
            self._touched(entry.standing)
            return entry.value  # type: ignore[return-value]  # entries of `sql` hold Rows
        return None

    @overload
    def cached(self, function: Callable[P, T], /) -> Cached[P, T]: ...
    @overload
    def cached(
        self,
        function: None = None,
        /,
        *,
        depends_on: str | list[str] | tuple[str, ...] = (),
        ttl: float | None = None,
        keep_errors: float | None = None,
        copy: bool = False,
        freshness: Freshness | str | None = None,
        stale_while_revalidate: float | None = None,
        early_refresh: float | None = None,
    ) -> Callable[[Callable[P, T]], Cached[P, T]]: ...
    def cached(self, function: Any = None, /, **options: Any) -> Any:
        """Keep what a function returns, by its arguments, until what it depends on changes.

        Options are those of `Cache.cached`. A coroutine function stays one: however many tasks
        call it, in however many event loops, it runs once. A plain function stays plain, for
        calls from threads; in an event loop it blocks like any other.

        >>> import asyncio, everfresh
        >>> async def main():
        ...     async with everfresh.open_async("sqlite://") as cache:
        ...         @cache.cached
        ...         async def double(n):
        ...             return (await cache.sql("SELECT :n * 2", n=n)).scalar()
        ...         return await double(4), await double(4), double.receipt(4).status
        >>> asyncio.run(main())
        (8, 8, 'hit')
        """
        cache = self.blocking
        if function is None:
            return lambda decorated: self.cached(decorated, **options)
        if not inspect.iscoroutinefunction(function):
            return cache.cached(function, **options)
        usual = ("ttl", "stale_while_revalidate", "early_refresh")
        defaults = {name: getattr(cache.settings, name) for name in usual}
        chosen = FunctionOptions(**{**defaults, **options})
        calls = partial(AsyncCalls, runner=self._runner)
        return wrap(function, cache.fills, cache.reader, chosen, calls)

    def using(
        self,
        *,
        connection: Any = None,
        ttl: float | None = None,
        freshness: Freshness | str | None = None,
    ) -> AsyncView:
        """Return a view of the cache that reads on a connection, or by another rule of freshness.

        ``connection`` is an AsyncConnection or AsyncSession of this cache's engine (a Connection or
        Session, if that engine blocks); the rest is as in `Cache.using`.

        >>> import asyncio, everfresh
        >>> async def main():
        ...     async with everfresh.open_async("sqlite://") as cache:
        ...         return (await cache.using(ttl=60).sql("SELECT 1 AS one")).one().one
        >>> asyncio.run(main())
        1
        """
        check_seconds("ttl", ttl)
        rule = None if freshness is None else freshness_of(freshness)
        return AsyncView(self, _blocking_of(connection), ttl, rule)

    async def track(self, tables: Sequence[str] | None = None) -> Tracking:
        """Make every writer of this database log what it changes; as `Cache.track`."""
        return await asyncio.to_thread(self.blocking.track, tables)

    async def untrack(self) -> Tracking:
        """Take triggers and change table out of the database again."""
        return await asyncio.to_thread(self.blocking.untrack)

    async def tracking(self) -> Tracking:
        """Return what is tracked, what is not, and why."""
        return await asyncio.to_thread(self.blocking.tracking)

    async def invalidate(self, what: Any = None, /, **parameters: object) -> int:
        """Drop what is kept and return how many entries went; as `Cache.invalidate`."""
        self.blocking.board.check_open()
        return await self._runner.run(self.blocking.invalidate, what, **parameters)

    # telling ----------------------------------------------------------------

    def why(self, what: Any, /) -> Explanation:
        """Explain an answer, from memory; as `Cache.why`."""
        return self.blocking.why(what)

    async def why_not(self, statement: str, /, **parameters: object) -> Explanation:
        """Explain why a statement would not be answered from memory; as `Cache.why_not`."""
        self.blocking.board.check_open()
        return await self._runner.run(self.blocking.why_not, statement, **parameters)

    async def audit(self, sample: int | None = None, *, seed: int | None = None) -> Audit:
        """Ask a sample of the kept queries again and compare; as `Cache.audit`."""
        self.blocking.board.check_open()
        return await self._runner.run(self.blocking.audit, sample, seed=seed)

    def stats(self) -> Stats:
        """Return the figures since the cache was opened, of tasks and threads together."""
        return self.blocking.stats()

    def entries(self) -> list[Entry]:
        """Return what is kept now."""
        return self.blocking.entries()

    # closing ----------------------------------------------------------------

    async def close(self) -> None:
        """Wait for queries under way and let go of everything; as `Cache.close`."""
        await self._runner.close(self.blocking.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self.blocking).replace("everfresh.Cache", "everfresh.AsyncCache", 1)

    # one statement ------------------------------------------------------------

    async def ask(
        self,
        statement: str,
        parameters: dict[str, object],
        ttl: float | None = None,
        freshness: Freshness | None = None,
    ) -> Rows:
        """Return the rows of a SELECT that no shortcut answered."""
        cache, runner = self.blocking.statements, self._runner
        cache.board.check_open()
        rule = freshness or cache.freshness
        ready = cache.reader.ready(statement)
        prepared, request = await runner.plan(
            ready, cache.request, statement, parameters, ttl, freshness=rule
        )
        refusal = cache.reader.refusal(prepared, parameters)
        refusal = refusal or await objection(cache.proof, rule, request.sources)
        if refusal is None:
            request.renew = partial(self.ask, statement, parameters, ttl, freshness)
            compute = partial(runner.run, cache.compute, prepared, parameters, request, rule)
            return cache.rows(await cache.fills.answer_async(request, compute))
        bypass = partial(cache.reader.bypass, prepared, parameters)
        return cache.rows(await runner.run(cache.fills.bypass, request, refusal, bypass))

    async def sql_in(
        self,
        connection: Any,
        statement: str,
        parameters: dict[str, object],
        freshness: Freshness | None = None,
    ) -> Rows:
        """Return the rows of a SELECT as the caller's transaction sees them."""
        cache = self.blocking
        cache.board.check_open()
        return await self._runner.run(
            cache.statements.sql_in, connection, statement, parameters, freshness
        )


class AsyncView:
    """Ask a cache on one connection, or by other rules. Made by `AsyncCache.using`."""

    def __init__(
        self, cache: AsyncCache, connection: Any, ttl: float | None, freshness: Freshness | None
    ) -> None:
        self._cache = cache
        self._connection = connection
        self._ttl = ttl
        self._freshness = freshness

    async def sql(
        self, statement: str, parameters: Mapping[str, object] | None = None, /, **named: object
    ) -> Rows:
        """Return the rows of a SELECT; as `AsyncCache.sql`."""
        chosen = {**(parameters or {}), **named}
        if self._connection is None:
            return await self._cache.ask(statement, chosen, self._ttl, self._freshness)
        return await self._cache.sql_in(self._connection, statement, chosen, self._freshness)


def _blocking_of(connection: Any) -> Any:
    """Return what an AsyncConnection or AsyncSession drives, anything else as it is."""
    for name in ("sync_session", "sync_connection"):
        if hasattr(connection, name):
            inner = getattr(connection, name)
            if inner is None:
                raise ConfigurationError(
                    "this AsyncConnection was not started: write "
                    "async with engine.connect() as connection"
                )
            return inner
    return connection
