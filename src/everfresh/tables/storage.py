"""Where records are kept: the fast copy, and how a change of it is staged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from everfresh.errors import StoreError
from everfresh.tables.intervals import StorageRecordsSpec

__all__ = ["ScratchStaging", "Staging", "StorageLost", "StorageTable"]


class StorageLost(StoreError):  # noqa: N818 - says what happened, as Python's own do
    """What a storage holds is not what this process put there: it has to be loaded again."""


class Staging(Protocol):
    """Make one change of a storage, of any size, that is seen whole or not at all."""

    async def discard(self, spec: StorageRecordsSpec) -> list[Any]:
        """Delete the records a spec means, those put before included; return them."""

    async def put(self, records: Sequence[Any]) -> None:
        """Add records, in place of those with their primary keys."""

    async def prepare(self) -> None:
        """Do all that can be done before `commit`."""

    def commit(self) -> None:
        """Show the change to every reader that starts from here on; at once."""

    async def abort(self) -> None:
        """Leave no trace; does nothing after `commit`."""


class StorageTable(ABC):
    """Keep records, found by the scores of indexes.

    Besides regular operations, which are seen at once, there is scratch space: what is done there
    is invisible to reads until `scratch_merge`, and visible at once after it. Regular writes wait
    while scratch space is in use.

    A storage of one's own has to have the abstract methods only. `staging` and the reads after it
    do with these what the ready-made storages do better.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the table."""

    @abstractmethod
    async def clear(self) -> None:
        """Delete all records."""

    @abstractmethod
    async def put_record(self, record: Any) -> None:
        """Add a record, in place of the one with its primary key.

        Raises ValueError if the record cannot be kept.
        """

    @abstractmethod
    def get_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over the records meant, in no promised order."""

    @abstractmethod
    def delete_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Delete the records meant and return an asynchronous iterator over them.

        It has to be consumed to its end.
        """

    @abstractmethod
    async def scratch_put_record(self, record: Any) -> None:
        """Add a record in scratch space."""

    @abstractmethod
    def scratch_discard_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Delete the records meant in scratch space, return an asynchronous iterator over them.

        It has to be consumed to its end.
        """

    @abstractmethod
    def scratch_merge(self) -> None:
        """Show what was done in scratch space to every read that starts from here on."""

    # what a cached table asks for; a storage may do better -----------------------

    keyed = False
    """Whether it finds the records of a `KeysRecordsSpec` by their keys alone."""

    async def get_records_list(self, records_spec: StorageRecordsSpec) -> list[Any]:
        """Return all records meant."""
        return [record async for record in self.get_records(records_spec)]

    async def count(self, records_spec: StorageRecordsSpec) -> int:
        """Return how many records are meant."""
        return len(await self.get_records_list(records_spec))

    async def staging(self, *, empty: bool = False) -> Staging:
        """Begin a change, of an ``empty`` table if so asked for; waits for the one before."""
        return ScratchStaging(self, empty=empty)


class ScratchStaging:
    """Stage a change in the scratch space of any storage.

    Scratch space cannot be emptied again but by a merge. So all that may fail is done before: what
    to discard is only looked up, and everything reaches scratch space in `prepare`.
    """

    def __init__(self, storage: StorageTable, *, empty: bool) -> None:
        self._storage = storage
        self._empty = empty
        self._discards: list[StorageRecordsSpec] = []
        self._puts: list[Any] = []

    async def discard(self, spec: StorageRecordsSpec) -> list[Any]:
        """Note what to delete; return what it is."""
        if self._puts:
            raise RuntimeError("a storage without a staging of its own discards before it puts")
        self._discards.append(spec)
        return [] if self._empty else await self._storage.get_records_list(spec)

    async def put(self, records: Sequence[Any]) -> None:
        """Note records to add."""
        self._puts.extend(records)

    async def prepare(self) -> None:
        """Put everything into scratch space, or straight into the emptied table."""
        storage = self._storage
        if self._empty:
            await storage.clear()
            for record in self._puts:
                await storage.put_record(record)
            return
        for spec in self._discards:
            async for _ in storage.scratch_discard_records(spec):
                pass
        for record in self._puts:
            await storage.scratch_put_record(record)

    def commit(self) -> None:
        """Merge scratch space."""
        if not self._empty:
            self._storage.scratch_merge()

    async def abort(self) -> None:
        """Do nothing: nothing was done before `prepare`."""
