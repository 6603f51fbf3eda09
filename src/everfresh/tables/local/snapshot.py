"""What readers hold: all records of one moment, by key and in the order of each index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from everfresh.errors import TableError
from everfresh.tables.intervals import KeysRecordsSpec, StorageRecordsSpec
from everfresh.tables.local.chunks import NOTHING, SortedChunks
from everfresh.tables.types import PrimaryKey

__all__ = ["ABSENT", "ByKey", "Snapshot", "empty"]

ABSENT: Any = object()
"""Stands for no record where None might be one."""

ByKey = list[dict[PrimaryKey, Any]]
"""Records by the hash of their key modulo the length of this list, a prime, then by the key."""


class Snapshot:
    """Hold the records of one moment; immutable, shares with its neighbours what did not change."""

    __slots__ = ("by_key", "count", "indexes")

    def __init__(self, by_key: ByKey, indexes: Mapping[str, SortedChunks], count: int) -> None:
        self.by_key = by_key
        self.indexes = indexes
        self.count = count

    def get(self, key: PrimaryKey, default: Any = ABSENT) -> Any:
        """Return the record with this key."""
        by_key = self.by_key
        return by_key[hash(key) % len(by_key)].get(key, default)

    def any_key(self) -> PrimaryKey | None:
        """Return the key of some record, None if there is no record."""
        return next((key for chunk in self.by_key for key in chunk), None)

    def find(self, spec: StorageRecordsSpec) -> list[Any]:
        """Return the records a spec means, those of each interval in the order of their scores."""
        if isinstance(spec, KeysRecordsSpec):
            found = (self.get(key) for key in spec.primary_keys)
            return [record for record in found if record is not ABSENT]
        index = self.index(spec.index_name)
        intervals = spec.score_intervals
        if len(intervals) == 1:
            records = index.between(intervals[0])
        else:
            records = [record for one in intervals for record in index.between(one)]
        if spec.rechecks:
            predicate = spec.recheck_predicate
            records = [record for record in records if predicate(record)]
        return records

    def first(self, spec: StorageRecordsSpec) -> list[Any]:
        """Return one of the records a spec means, or none."""
        if spec.rechecks or isinstance(spec, KeysRecordsSpec):
            return self.find(spec)[:1]
        index = self.index(spec.index_name)
        for interval in spec.score_intervals:
            if found := index.first(interval):
                return list(found)
        return []

    def size(self, spec: StorageRecordsSpec) -> int:
        """Return how many records a spec means."""
        if spec.rechecks:
            return len(self.find(spec))
        index = self.index(spec.index_name)
        return sum(map(index.count, spec.score_intervals))

    def index(self, name: str) -> SortedChunks:
        """Return one index; raises ValueError if there is none of this name."""
        try:
            return self.indexes[name]
        except KeyError:
            raise TableError(f"the storage has no index {name!r}") from None

    def records(self) -> Iterable[Any]:
        """Yield all records, in no promised order."""
        for chunk in self.by_key:
            yield from chunk.values()

    def __len__(self) -> int:
        return self.count


def empty(index_names: Iterable[str]) -> Snapshot:
    """Return the snapshot of an empty table."""
    return Snapshot([{}], dict.fromkeys(index_names, NOTHING), 0)
