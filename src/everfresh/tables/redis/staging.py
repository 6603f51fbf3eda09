"""A change of a table in Redis, kept in this process until it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everfresh.tables.intervals import KeysRecordsSpec, StorageRecordsSpec, held_by
from everfresh.tables.types import PrimaryKey

if TYPE_CHECKING:
    from everfresh.tables.redis.table import RedisTable

__all__ = ["RedisStaging", "Staged"]


@dataclass(frozen=True, slots=True)
class Staged:
    """Hold a record as it will be in Redis."""

    key: bytes
    data: bytes
    scores: list[float]
    record: Any


class RedisStaging:
    """Gather a change, send it to keys that no read looks at, and have it merged in one step."""

    def __init__(self, table: RedisTable, *, empty: bool) -> None:
        self.empty = empty
        self._table = table
        self._added: dict[PrimaryKey, Staged] = {}
        self._gone: dict[PrimaryKey, bytes] = {}
        self._sent = self._ended = False

    async def discard(self, spec: StorageRecordsSpec) -> list[Any]:
        """Delete the records a spec means, those put before included; return them."""
        key_of = self._table.scorer.primary_key
        kept = [] if self.empty else await self._table.get_records_list(spec)
        found = [
            record
            for record in kept
            if (key := key_of(record)) not in self._gone and key not in self._added
        ]
        found += [one.record for one in self._added.values() if self._means(spec, one.record)]
        for record in found:
            key = key_of(record)
            self._added.pop(key, None)
            self._gone[key] = self._table.rows.encode_key(key)
        return found

    def _means(self, spec: StorageRecordsSpec, record: Any) -> bool:
        scorer = self._table.scorer
        if isinstance(spec, KeysRecordsSpec):
            return scorer.primary_key(record) in spec.primary_keys
        score = scorer.score(spec.index_name, record)
        return held_by(spec.score_intervals, score) and spec.recheck_predicate(record)

    async def put(self, records: Sequence[Any]) -> None:
        """Add records, in place of those with their primary keys."""
        for record in records:
            key = self._table.scorer.primary_key(record)
            self._added[key] = self._table.encode(record)
            self._gone.pop(key, None)

    async def prepare(self) -> None:
        """Send everything."""
        if not self._sent:
            await self._table.stage(list(self._added.values()), self._gone.values())
            self._sent = True

    def commit(self) -> None:
        """Have it merged before anything else is asked of the table."""
        self._ended = True
        self._table.end(self, merge=True)

    async def abort(self) -> None:
        """Forget it; what was sent is deleted with the next change."""
        if not self._ended:
            self._ended = True
            self._table.end(self, merge=False)
