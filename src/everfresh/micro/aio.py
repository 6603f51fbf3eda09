"""The micro-cache for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from sqlalchemy.engine import Engine

from everfresh.engine.request import Request
from everfresh.errors import ClosedError
from everfresh.micro.aio_database import (
    AsyncDatabase,
    AsyncFollowedDatabase,
    adapt_async,
    awaited,
)
from everfresh.micro.database import as_dicts
from everfresh.micro.followed import FollowedDatabase, Listening
from everfresh.micro.formatting import formatting, keepable
from everfresh.micro.options import Options
from everfresh.micro.question import Question
from everfresh.micro.shelf import Shelf

__all__ = ["AsyncQueryCache"]

Params = Mapping[str, Any] | Sequence[Any] | None


class AsyncQueryCache(Shelf):
    """Implement a caching SQL post-processor for asyncio: `QueryCache`, awaited.

    ``db`` is an AsyncEngine of SQLAlchemy, a function that returns an asynchronous connection (or
    something to await for one), or an object with coroutines ``one(sql, params)`` and
    ``all(sql, params)``; with ``cache=`` it is the engine that cache was opened with. Callbacks
    may be functions or coroutine functions. However many tasks ask, in however many event loops,
    the database is asked once.

    >>> import asyncio, aiosqlite
    >>> async def main():
    ...     async with AsyncQueryCache(lambda: aiosqlite.connect(":memory:")) as cache:
    ...         return await cache.one("SELECT ? AS a", (3,), process=lambda row: row["a"])
    >>> asyncio.run(main())
    3
    """

    db: AsyncDatabase

    def __init__(
        self,
        db: Any,
        threshold: float = 5,
        threshold_prune: float | None = 60,
        **options: Any,
    ) -> None:
        chosen = Options(**options)
        super().__init__(threshold, threshold_prune, chosen)
        self._tasks: set[asyncio.Task[None]] = set()
        if chosen.cache is None:
            self.db = adapt_async(db)
        else:
            followed = FollowedDatabase(chosen.cache, db)
            self.db = AsyncFollowedDatabase(followed, threads=isinstance(db, Engine))

    async def __call__(self, callback: Callable[..., Any], query: str, /, *queries: str) -> Any:
        """Return what the callback makes of the result sets of these queries."""
        return await self._ask(self._question("call", (query, *queries), None, callback))

    async def one(
        self, query: str, params: Params = None, process: Callable[..., Any] | None = None
    ) -> Any:
        """Return what ``process`` makes of the only row, None where there is no row."""
        return await self._ask(self._question("one", (query,), params, process))

    async def all(
        self, query: str, params: Params = None, process: Callable[..., Any] | None = None
    ) -> Any:
        """Return what ``process`` makes of the list of rows; without it the list itself."""
        return await self._ask(self._question("all", (query,), params, process))

    async def close(self) -> None:
        """Cancel refreshes, end the pruning thread and let go of everything but the database."""
        self._close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # one question -------------------------------------------------------------------

    async def _ask(self, question: Question) -> Any:
        probe = self._probe(question)
        kept = self._fresh(probe)
        if kept is not None:
            return self._hand_out(kept)
        request = self._request(question, probe, await self._listening(question))
        aged = self._aged(probe)
        if aged is not None:
            self._refresh(request, question)
            return self._hand_out(aged)
        answer = await self._fills.answer_async(request, lambda: self._compute(question))
        self._settle(answer)
        return self._hand_out(answer.entry)

    async def _listening(self, question: Question) -> Listening:
        self._check_open()
        if isinstance(self.db, AsyncFollowedDatabase):
            return await self.db.listening(question)
        return Listening()

    def _refresh(self, request: Request, question: Question) -> None:
        """Make an aged result anew in a task, unless that is being done."""
        if request.key in self._refreshing:
            return

        async def refresh() -> None:
            with suppress(ClosedError):
                compute = self._fills.answer_async(request, lambda: self._compute(question))
                self._settle(await compute)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._refreshing.discard(request.key)

        self._refreshing.add(request.key)
        task = asyncio.create_task(refresh(), name="everfresh-micro-refresh")
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(done)

    async def _compute(self, question: Question) -> Any:
        callback = question.callback
        if question.form == "call":
            assert callback is not None  # noqa: S101 - `__call__` gives one
            sets = [as_dicts(await awaited(self.db.all(q, None))) for q in question.queries]
            with formatting(callback):
                return keepable(await awaited(callback(*sets)))
        fetch = self.db.one if question.form == "one" else self._all
        rows = await awaited(fetch(question.queries[0], question.parameters))
        if callback is None:
            return rows
        with formatting(callback):
            return keepable(await awaited(callback(rows)))

    async def _all(self, query: str, params: Any) -> list[Any]:
        return list(await awaited(self.db.all(query, params)))
