"""Ask the database once however many tasks ask for the same.

Who asks while a query runs must not get its answer: a commit may have come between the two. All
who ask meanwhile share the next query, which starts when the running one has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from everfresh.tables.intervals import KeysRecordsSpec, StorageRecordsSpec

__all__ = ["Flights", "probe"]


def probe(meant: StorageRecordsSpec) -> Hashable:
    """Return what is equal for specs that mean the same records, None if that cannot be told."""
    if isinstance(meant, KeysRecordsSpec):
        return (meant.index_name, meant.primary_keys)
    return None if meant.rechecks else (meant.index_name, tuple(meant.score_intervals))


class _Flight:
    """Hold a query that runs, and the one that waits for its end."""

    def __init__(self) -> None:
        self.running = asyncio.Lock()
        self.next: asyncio.Future[list[Any]] | None = None
        self.users = 0


class Flights:
    """Share queries that were not yet started when they were asked for."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def fetch(self, key: Hashable, query: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """Return what the query returns, run after this was called; None is no key to share by."""
        if key is None:
            return await query()
        flight = self._flights.setdefault(key, _Flight())
        flight.users += 1
        try:
            return await self._join(flight, query)
        finally:
            flight.users -= 1
            if not flight.users:
                del self._flights[key]

    async def _join(self, flight: _Flight, query: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        while True:
            if flight.next is not None:
                shared = flight.next
                try:
                    return list(await asyncio.shield(shared))
                except asyncio.CancelledError:
                    if not shared.cancelled():
                        raise  # it is this reader who was cancelled
                    continue  # who was to run it was cancelled: one of the others does
            return await self._lead(flight, query)

    async def _lead(self, flight: _Flight, query: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        mine = flight.next = asyncio.get_running_loop().create_future()
        try:
            async with flight.running:
                if flight.next is mine:
                    flight.next = None  # it starts: who comes now waits for the one after
                records = await query()
        except BaseException as error:
            if flight.next is mine:
                flight.next = None
            if not mine.done():
                if isinstance(error, Exception):
                    mine.set_exception(error)
                    mine.exception()  # it may be that nobody shares it
                else:
                    mine.cancel()
            raise
        mine.set_result(records)
        return records
