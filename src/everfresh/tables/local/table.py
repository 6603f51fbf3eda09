"""The storage in memory: a snapshot that readers hold, and drafts that become the next one."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, TypeVar

from everfresh.tables.indexes import RecordScorer
from everfresh.tables.intervals import StorageRecordsSpec
from everfresh.tables.local.draft import Draft
from everfresh.tables.local.snapshot import Snapshot, empty
from everfresh.tables.metrics import records_of
from everfresh.tables.storage import StorageTable
from everfresh.tables.turns import Turns

__all__ = ["LocalStorageTable"]

T = TypeVar("T")

_SLICE = 0.0005  # seconds of work after which other tasks have their turn


class LocalStorageTable(StorageTable):
    """Keep records in memory, as the objects they are: do not change a record you were given.

    ``record_scorer`` knows their keys and scores; usually it is the `Indexes` of the table.
    ``table_name`` is for metrics; a random one is made by default.

    A read works on a snapshot: it takes no lock, and nothing that happens while it is iterated,
    left or paused is seen by it or held up by it.

    >>> from everfresh.tables import AllIndexes
    >>> table = LocalStorageTable(AllIndexes(lambda record: record["id"], ""), table_name="planes")
    >>> table.name
    'planes'
    """

    keyed = True

    def __init__(self, record_scorer: RecordScorer, *, table_name: str | None = None) -> None:
        self.scorer = record_scorer
        self.on_swap: Callable[[Snapshot], None] | None = None
        self._name = str(uuid.uuid4()) if table_name is None else table_name
        self._snapshot = empty(record_scorer.index_names)
        self._scratch: Draft | None = None
        self._staged: LocalStaging | None = None
        self._turns = Turns()
        records_of(self._name, self)

    def __repr__(self) -> str:
        return f"<LocalStorageTable {self._name!r}, {self._snapshot.count} records>"

    @property
    def name(self) -> str:
        """Name of the table."""
        return self._name

    @property
    def snapshot(self) -> Snapshot:
        """All records as they are now; immutable."""
        return self._snapshot

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many records there are, how many are added in scratch space, and how many deleted."""
        draft = self._scratch or (self._staged.draft if self._staged else None)
        added, gone = (len(draft.added), len(draft.gone)) if draft else (0, 0)
        return self._snapshot.count, added, gone

    # reading --------------------------------------------------------------------

    async def get_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Iterate over the records meant, as they are when iteration starts."""
        for record in self._snapshot.find(records_spec):
            yield record

    async def get_records_list(self, records_spec: StorageRecordsSpec) -> list[Any]:
        """Return all records meant, those of each interval in the order of their scores."""
        return self._snapshot.find(records_spec)

    async def count(self, records_spec: StorageRecordsSpec) -> int:
        """Return how many records are meant, from the sizes of chunks."""
        return self._snapshot.size(records_spec)

    # regular writes ---------------------------------------------------------------

    async def clear(self) -> None:
        """Delete all records."""
        await self._turns.until_free()
        self._publish(empty(self.scorer.index_names))

    async def put_record(self, record: Any) -> None:
        """Add a record, in place of the one with its primary key."""
        await self._turns.until_free()
        draft = Draft(self._snapshot, self.scorer)
        draft.put(record)
        self._publish(run(draft.steps()))

    async def delete_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Delete the records meant, all before the first is yielded."""
        await self._turns.until_free()
        draft = Draft(self._snapshot, self.scorer)
        found = draft.discard(records_spec)
        self._publish(run(draft.steps()))
        for record in found:
            yield record

    # scratch space ------------------------------------------------------------------

    async def scratch_put_record(self, record: Any) -> None:
        """Add a record in scratch space."""
        (await self._scratching()).put(record)

    async def scratch_discard_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Delete the records meant in scratch space, all before the first is yielded."""
        for record in (await self._scratching()).discard(records_spec):
            yield record

    def scratch_merge(self) -> None:
        """Make what was done in scratch space the table; there need not be anything."""
        if self._scratch is not None:
            self._publish(run(self._scratch.steps()))
            self.scratch_abort()

    def scratch_abort(self) -> None:
        """Forget what was done in scratch space."""
        if self._scratch is not None:
            self._scratch = None
            self._turns.give()

    async def _scratching(self) -> Draft:
        while self._scratch is None:
            if self._turns.taken:
                await self._turns.until_free()
            else:
                self._turns.take()
                self._scratch = Draft(self._snapshot, self.scorer)
        return self._scratch

    # staging ------------------------------------------------------------------------

    async def staging(self, *, empty: bool = False) -> LocalStaging:
        """Begin a change; waits while scratch space or another change is under way."""
        await self._turns.until_free()
        self._turns.take()
        self._staged = LocalStaging(self, empty=empty)
        return self._staged

    def publish(self, snapshot: Snapshot) -> None:
        """Take over a snapshot made elsewhere, such as one that was kept in a file."""
        self._publish(snapshot)

    def staged(self, staging: LocalStaging, snapshot: Snapshot | None) -> None:
        """End a change, with the snapshot it made."""
        if self._staged is staging:
            if snapshot is not None:
                self._publish(snapshot)
            self._staged = None
            self._turns.give()

    def _publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        if self.on_swap is not None:
            self.on_swap(snapshot)


class LocalStaging:
    """Make the next snapshot of a local table, letting other tasks run in between."""

    def __init__(self, table: LocalStorageTable, *, empty: bool) -> None:
        base = _empty(table) if empty else table.snapshot
        self.draft = Draft(base, table.scorer)
        self._table = table
        self._made: Snapshot | None = None

    async def discard(self, spec: StorageRecordsSpec) -> list[Any]:
        """Delete the records a spec means; return them."""
        found = await spread(self.draft.found(spec))
        await spread(self.draft.discard_records(found))
        return found

    async def put(self, records: Sequence[Any]) -> None:
        """Add records."""
        await spread(self.draft.put_all(records))

    async def prepare(self) -> None:
        """Make the snapshot."""
        self._made = await spread(self.draft.steps())

    def commit(self) -> None:
        """Swap it in."""
        made = run(self.draft.steps()) if self._made is None else self._made
        self._table.staged(self, made)

    async def abort(self) -> None:
        """Forget it."""
        self._table.staged(self, None)


def _empty(table: LocalStorageTable) -> Snapshot:
    return empty(table.scorer.index_names)


def run(steps: Generator[None, None, T]) -> T:
    """Do a piece of work in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def spread(steps: Generator[None, None, T]) -> T:
    """Do a piece of work in slices of half a millisecond, between which other tasks run."""
    until = time.perf_counter() + _SLICE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + _SLICE
