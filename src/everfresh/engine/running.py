"""Run blocking code for coroutines: in threads, or in greenlets over an asyncio driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from sqlalchemy.util import greenlet_spawn

from everfresh.engine.proof import Proof
from everfresh.errors import ClosedError, ConfigurationError
from everfresh.kernel.freshness import Freshness
from everfresh.kernel.plan import Source

__all__ = ["Greenlets", "Runner", "Threads", "objection"]

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Run functions that ask the database, without blocking the event loop."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns."""

    async def plan(
        self, ready: bool, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what the function returns; if ``ready`` it hardly asks the database."""

    async def close(self, last: Callable[[], None]) -> None:
        """Run this last function, when all others have ended."""


class Threads:
    """Run functions in a bounded number of threads of its own.

    They see the caller's context variables. A caller that is cancelled leaves at once; what it
    started ends in its thread, which cannot be interrupted, and is not used.
    """

    def __init__(self, count: int) -> None:
        if not (type(count) is int and count > 0):
            raise ConfigurationError(f"threads must be a whole number above 0, not {count!r}")
        self._executor = ThreadPoolExecutor(count, "everfresh-async")

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns."""
        call = partial(copy_context().run, function, *args, **kwargs)
        try:
            running = asyncio.get_running_loop().run_in_executor(self._executor, call)
        except RuntimeError as error:
            raise ClosedError("this cache was closed: open another") from error
        return await running

    async def plan(
        self, ready: bool, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what the function returns, at once if it is ready."""
        return function(*args, **kwargs) if ready else await self.run(function, *args, **kwargs)

    async def close(self, last: Callable[[], None]) -> None:
        """Run this last function, when all others have ended."""

        def end() -> None:
            self._executor.shutdown(wait=True)
            last()

        await asyncio.to_thread(end)


class Greenlets:
    """Run functions over an asyncio driver, in the caller's own event loop."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns."""
        return await greenlet_spawn(partial(function, *args, **kwargs))

    async def plan(
        self, ready: bool, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what the function returns; DDL may still come in between, so ``ready`` or not."""
        return await greenlet_spawn(partial(function, *args, **kwargs))

    async def close(self, last: Callable[[], None]) -> None:
        """Run this last function."""
        await greenlet_spawn(last)


async def objection(proof: Proof, freshness: Freshness, sources: Iterable[Source]) -> str | None:
    """Return what `Proof.objection` does; where it has to look at the database, in a thread."""
    lag = proof.lag
    bounded = freshness.mode == "bounded" and lag is not None and lag < freshness.seconds
    if lag is None or freshness.mode == "ttl" or bounded:
        return proof.objection(freshness, sources)
    return await asyncio.to_thread(proof.objection, freshness, tuple(sources))
