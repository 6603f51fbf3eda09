"""Change what a table keeps: load, adjust, refresh. One change at a time, each whole or not at all.

All that may fail or take long (the database, the storage, hooks of the user's) comes before the
last step, in which indexes, storage and validity are switched over without a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from everfresh.errors import AbortedError, StoreError
from everfresh.tables.db import DbAccess, DbRecordsSpec
from everfresh.tables.indexes import Adjustment, Indexes, UnsupportedIndexOperation
from everfresh.tables.intervals import KeysRecordsSpec, StorageRecordsSpec
from everfresh.tables.local.snapshot import ABSENT, Snapshot
from everfresh.tables.marks import Batch
from everfresh.tables.metrics import Counters
from everfresh.tables.storage import Staging, StorageLost, StorageTable
from everfresh.tables.validity import Validity

__all__ = ["Progress", "Upkeep"]

_ATTEMPTS = 5  # to adjust from a moment in which nothing was marked as invalid
_REPORT = 1000  # records between two reports of progress


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell how far a change has come.

    ``phase`` is ``"load"``, ``"adjust"`` or ``"refresh"``; ``loaded`` and ``expired`` count
    records; ``done`` is set in the last report.
    """

    phase: str
    loaded: int = 0
    expired: int = 0
    done: bool = False


class Upkeep:
    """Make the changes of one table."""

    def __init__(
        self,
        indexes: Indexes,
        db: DbAccess,
        storage: StorageTable,
        counters: Counters,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.validity = Validity(indexes)
        self.lock = asyncio.Lock()
        self.version = 0  # grows at the beginning and at the end of each switch
        self.spec: Any = None  # what was last loaded or adjusted to
        self._indexes = indexes
        self._db = db
        self._storage = storage
        self._counters = counters
        self._progress = progress
        # called between asking the database and showing its answer: marks what that has seen
        self.hear: Callable[[], Awaitable[bool]] | None = None
        self.watchers: list[Callable[[], None]] = []  # called after each switch
        self._running: asyncio.Task[None] | None = None
        self._called_off = False

    @property
    def snapshot(self) -> Snapshot | None:
        """The storage's snapshot, None if it has none."""
        return getattr(self._storage, "snapshot", None)

    # changes ------------------------------------------------------------------------

    async def load(self, spec: Any, kept: list[Any] | None = None) -> None:
        """Fill the emptied storage, with records that were ``kept`` if given. The lock is held."""

        async def change() -> None:
            self.spec = spec
            self._indexes.reset()
            adjustment = self._indexes.prepare_adjustment(spec)
            loaded = kept
            if loaded is None:
                loaded = await self._fetch(adjustment.load_spec, "load")
            await self._apply(adjustment, loaded, "load", empty=True)

        await self._interruptible(change)

    async def adjust(self, prepare: Callable[[], Adjustment], spec: Any = None) -> list[Any]:
        """Make an adjustment, planned under the lock, which is held; return what was loaded."""
        loaded: list[Any] = []

        async def change() -> None:
            try:
                loaded.extend(await self._adjust(prepare))
            except StorageLost:
                self.validity.mark_everything()
                loaded.extend(await self._adjust(prepare))
            self.spec = self.spec if spec is None else spec

        await self._interruptible(change)
        return loaded

    async def _adjust(self, prepare: Callable[[], Adjustment]) -> list[Any]:
        for _ in range(_ATTEMPTS):
            await self.refresh()
            adjustment = prepare()
            await asyncio.sleep(0)  # a large set may have taken a while
            loaded = await self._fetch(adjustment.load_spec, "adjust")
            if adjustment.load_spec is not None:
                await self._heard()
            # what was marked meanwhile may be older in what was loaded than in the database
            if not self.validity.pending:
                break
        await self._apply(adjustment, loaded, "adjust", empty=False)
        return loaded

    async def refresh(self) -> None:
        """Load what is marked as invalid anew. The lock is held."""
        try:
            await self._refresh_pending()
        except StorageLost:
            self.validity.mark_everything()
            await self._refresh_pending()

    async def _refresh_pending(self) -> None:
        batch = self.validity.take()
        if batch is None:
            return
        try:
            await self._refresh(batch)
        except BaseException:
            self.validity.restore(batch)
            raise
        self._counters.refreshes += 1

    def abort(self) -> bool:
        """Call off a load or adjustment that is under way; return whether there was one."""
        if self._running is None:
            return False
        self._called_off = True
        self._running.cancel()
        return True

    async def _interruptible(self, change: Callable[[], Awaitable[None]]) -> None:
        async def body() -> None:
            await change()

        self._called_off = False
        self._running = asyncio.create_task(body())
        try:
            await self._running
        except asyncio.CancelledError:
            if self._called_off:
                raise AbortedError("this change was called off: the table is as before") from None
            raise
        finally:
            self._running = None

    async def _heard(self) -> None:
        """Have all marked that the rows at hand may have seen, or half a commit would be shown.

        A row that was read, and the image of a row too, holds what others committed to it before;
        what the same commits did to other rows may not have been heard yet.
        """
        if self.hear is None:
            return
        for attempt in range(_ATTEMPTS):
            if await self.hear():
                return
            await asyncio.sleep(0.002 * attempt)  # a commit is just under way
        raise StoreError("other writers cannot be heard: nothing new can be shown")

    # one adjustment -------------------------------------------------------------------

    async def _fetch(self, spec: DbRecordsSpec | None, phase: str) -> list[Any]:
        if spec is None:
            return []
        if self._progress is None:
            return await self._db.get_records_list(spec)
        records: list[Any] = []
        async for record in self._db.get_records(spec):
            records.append(record)
            if len(records) % _REPORT == 0:
                self._progress(Progress(phase, len(records)))
        return records

    async def _apply(
        self, adjustment: Adjustment, loaded: list[Any], phase: str, *, empty: bool
    ) -> None:
        staging = await self._storage.staging(empty=empty)
        try:
            expired: list[Any] = []
            if adjustment.expire_spec is not None:
                expired = await staging.discard(adjustment.expire_spec)
            _show(expired, adjustment.observe_expired, Adjustment.observe_expired)
            _show(loaded, adjustment.observe_loaded, Adjustment.observe_loaded)
            await staging.put(loaded)
            await staging.prepare()
            self._switch(staging, None, adjustment)
        except BaseException:
            await asyncio.shield(staging.abort())
            raise
        self._counters.adjustments += 1
        self._counters.expired += len(expired)
        self._counters.loaded += len(loaded)
        self._report(Progress(phase, len(loaded), len(expired), done=True))

    def _switch(self, staging: Staging, batch: Batch | None, adjustment: Adjustment | None) -> None:
        self.version += 1
        try:
            if adjustment is not None:
                self._indexes.commit_adjustment(adjustment)
            staging.commit()
            self.validity.finish(batch, self.snapshot)
        finally:
            self.version += 1
        for watcher in list(self.watchers):
            watcher()

    def _report(self, progress: Progress) -> None:
        if self._progress is not None:
            self._progress(progress)

    # one refresh ------------------------------------------------------------------------

    async def _refresh(self, batch: Batch) -> None:
        discards, loads = self._plan(batch)
        fresh = [record for record in batch.images.values() if record is not ABSENT]
        if batch.everything:
            fresh = []
        for load in loads:  # after the images: it sees what they show, or what is newer
            fresh += await self._fetch(load, "refresh")
        if loads or batch.images:
            await self._heard()
        belongs = self._indexes.covers_record
        fresh = [record for record in fresh if belongs(record) is not False]
        staging = await self._storage.staging(empty=batch.everything)
        try:
            if not batch.everything:
                for spec in discards:
                    await staging.discard(spec)
            await staging.put(fresh)
            await staging.prepare()
            self._switch(staging, batch, None)
        except BaseException:
            await asyncio.shield(staging.abort())
            raise
        self._report(Progress("refresh", len(fresh), done=True))

    def _plan(self, batch: Batch) -> tuple[Sequence[StorageRecordsSpec], Sequence[DbRecordsSpec]]:
        """Return what to delete from storage and what to load: in few queries where possible."""
        indexes = self._indexes
        if batch.everything:
            return [], indexes.db_records_specs(self._covered())
        old = [pair[0] for pair in batch.pairs]
        new = [pair[1] for pair in batch.pairs]
        unknown = [key for key in batch.keys if key not in batch.images]
        if unknown:
            new.append(indexes.key_spec(*unknown))
        discards = [indexes.storage_records_spec(spec) for spec in indexes.combine(old)]
        if batch.keys and self._storage.keyed:
            discards.append(KeysRecordsSpec("", [], primary_keys=frozenset(batch.keys)))
        elif batch.keys:
            discards.append(indexes.storage_records_spec(indexes.key_spec(*batch.keys)))
        return discards, indexes.db_records_specs(indexes.combine(new))

    def _covered(self) -> Sequence[Any]:
        try:
            return self._indexes.everything()
        except UnsupportedIndexOperation:
            return [self.spec]


def _show(records: list[Any], look: Any, idle: Any) -> None:
    """Call a hook with every record, unless it is the one that does nothing."""
    if getattr(look, "__func__", look) is not idle:
        for record in records:
            look(record)
