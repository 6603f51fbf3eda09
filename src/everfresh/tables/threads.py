"""The cached table for threads: the same machine in an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from everfresh.errors import ClosedError
from everfresh.kernel.closing import Closing
from everfresh.tables.cached_table import CachedTable
from everfresh.tables.db import DbAccess
from everfresh.tables.indexes import Indexes
from everfresh.tables.storage import StorageTable
from everfresh.tables.subscriptions import Delivery
from everfresh.tables.types import PrimaryKey

__all__ = ["SyncCachedTable"]

T = TypeVar("T")


class SyncCachedTable(Closing):
    """A cached table for use from any number of threads, none of which needs an event loop.

    Arguments and methods are those of `CachedTable`, without ``await``. Reads that are covered and
    valid are answered in the calling thread, without a lock; everything else runs in one event loop
    in a thread of the table's own. ``enter`` are asynchronous context managers, such as a
    `PostgresAccess`, that are opened in that loop and closed with the table.

    >>> from everfresh.tables import AllIndexes, DbAccess
    >>> from everfresh.tables.local import LocalStorageTable
    >>> class Airlines(DbAccess):
    ...     async def get_records(self, records_spec):
    ...         yield {"carrier": "UA", "name": "United Air Lines Inc."}
    >>> indexes = AllIndexes(lambda airline: airline["carrier"], "SELECT * FROM airlines")
    >>> with SyncCachedTable(indexes, Airlines(), LocalStorageTable(indexes)) as table:
    ...     table.load("all")
    ...     table.get("UA")["name"]
    'United Air Lines Inc.'
    """

    def __init__(
        self,
        indexes: Indexes,
        db_access: DbAccess,
        storage_table: StorageTable,
        *,
        enter: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="everfresh-table", daemon=True
        )
        self._thread.start()
        self._open = AsyncExitStack()
        self._closed = False
        try:
            self.table: CachedTable = self._wait(
                self._make(indexes, db_access, storage_table, enter, options)
            )
        except BaseException:
            self._end()
            raise
        self.get = self.table.get  # it takes no lock and asks nothing

    async def _make(
        self,
        indexes: Indexes,
        db_access: DbAccess,
        storage_table: StorageTable,
        enter: Sequence[Any],
        options: dict[str, Any],
    ) -> CachedTable:
        for resource in enter:
            await self._open.enter_async_context(resource)
        return CachedTable(indexes, db_access, storage_table, **options)

    def load(self, *args: Any, **kwargs: Any) -> None:
        """Clear storage and load the records meant; as `CachedTable.load`."""
        self._wait(self.table.load(*args, **kwargs))

    def save(self) -> bool:
        """Keep what was loaded in a file; as `CachedTable.save`."""
        return self._wait(self.table.save())

    def loaded(self, timeout: float | None = None) -> None:
        """Wait until the table is loaded; raises TimeoutError after ``timeout`` seconds."""
        self._wait(asyncio.wait_for(self.table.loaded(), timeout))

    def get_records(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Iterate over the records meant; as `CachedTable.get_records`."""
        yield from self.get_records_list(*args, **kwargs)

    def get_records_list(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Return all records meant; as `CachedTable.get_records_list`."""
        found = self.table.peek(*args, **kwargs)
        if found is not None:
            return found
        return self._wait(self.table.get_records_list(*args, **kwargs))

    def get_first_record(self, *args: Any, **kwargs: Any) -> Any:
        """Return one of the records meant; raises KeyError if there is none."""
        found = self.table.peek(*args, **kwargs)
        if found:
            return found[0]
        return self._wait(self.table.get_first_record(*args, **kwargs))

    def get_many(self, primary_keys: Iterable[PrimaryKey]) -> dict[PrimaryKey, Any]:
        """Return the records with these keys, by key; as `CachedTable.get_many`."""
        return self._wait(self.table.get_many(primary_keys))

    def count(self, *args: Any, **kwargs: Any) -> int:
        """Return how many records are meant."""
        return self._wait(self.table.count(*args, **kwargs))

    def invalidate_records(
        self,
        old_index_specs: list[Any],
        new_index_specs: list[Any],
        *,
        force_refresh_on_next_read: bool = True,
    ) -> None:
        """Mark records as invalid; reads of any thread that start after this returned see it."""

        async def invalidate() -> None:
            self.table.invalidate_records(
                old_index_specs,
                new_index_specs,
                force_refresh_on_next_read=force_refresh_on_next_read,
            )

        self._wait(invalidate())

    def refresh_invalid(self) -> None:
        """Load all records that were marked as invalid again."""
        self._wait(self.table.refresh_invalid())

    def adjust(self, *args: Any, **kwargs: Any) -> None:
        """Change which records are in storage to those meant; as `CachedTable.adjust`."""
        self._wait(self.table.adjust(*args, **kwargs))

    def subscribe(self, *args: Any, **kwargs: Any) -> Iterator[Delivery]:
        """Iterate over what happens to the records meant; as `CachedTable.subscribe`."""
        steps = self.table.subscribe(*args, **kwargs)
        try:
            while True:
                try:
                    yield self._wait(_next(steps))
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed:
                self._wait(steps.aclose())

    def abort(self) -> bool:
        """Call off a load or adjustment that is under way in another thread."""

        async def abort() -> bool:
            return self.table.abort()

        return self._wait(abort())

    def close(self) -> None:
        """Call off what is under way, serve nothing any more and end the thread."""
        if self._closed:
            return

        async def close() -> None:
            await self.table.close()
            await self._open.aclose()

        self._wait(close())
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        with suppress(RuntimeError):
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns, run in the table's own loop."""
        if self._closed:
            call.close()
            raise ClosedError("this table was closed: make another one")
        if threading.current_thread() is self._thread:
            call.close()
            raise RuntimeError("a table's own hooks cannot wait for the table: that would hang")
        running: Future[T] = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise


async def _next(steps: AsyncGenerator[T, None]) -> T:
    return await anext(steps)
