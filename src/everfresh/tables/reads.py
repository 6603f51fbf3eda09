"""Answer reads: from storage where all is covered and valid, from the database otherwise."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from everfresh.engine.lineage import active, current
from everfresh.errors import CodecError, NoRecordError, StoreError
from everfresh.tables.db import DbAccess
from everfresh.tables.flights import Flights, probe
from everfresh.tables.following import Follower
from everfresh.tables.indexes import Indexes, UnsupportedIndexOperation
from everfresh.tables.intervals import StorageRecordsSpec
from everfresh.tables.local.snapshot import ABSENT, ByKey
from everfresh.tables.metrics import Counters
from everfresh.tables.pieces import Pieces
from everfresh.tables.storage import StorageLost, StorageTable
from everfresh.tables.types import PrimaryKey
from everfresh.tables.upkeep import Upkeep

__all__ = ["Reads"]

T = TypeVar("T")


class Reads:
    """Answer the reads of one table, which is loaded.

    With ``admit`` what a read finds missing is added to what is covered.
    """

    def __init__(
        self,
        indexes: Indexes,
        db: DbAccess,
        storage: StorageTable,
        upkeep: Upkeep,
        counters: Counters,
        *,
        admit: bool,
        pieces: Pieces,
        follower: Follower | None,
    ) -> None:
        self._pieces = pieces
        self._follower = follower
        self._indexes = indexes
        self._db = db
        self._storage = storage
        self._upkeep = upkeep
        self._validity = upkeep.validity
        self._counters = counters
        self._admit = admit
        self._flights = Flights()

    async def records(self, spec: Any) -> list[Any]:
        """Return the records meant."""
        if await self._objection() is not None:
            self._counters.misses += 1
            return await self._query(spec)
        try:
            found = await self._restored(spec, self._storage.get_records_list)
        except StoreError:  # what cannot be had from storage now comes from the database
            self._counters.misses += 1
            return await self._query(spec)
        return await self._missing(spec) if found is None else shaped(spec, found)

    async def held(self, spec: Any) -> list[Any] | None:
        """Return the records meant as they are kept, refreshed if need be; None if not covered.

        While a commit is under way they are those from before it.
        """
        await self._objection()
        async with self._upkeep.lock:
            await self._upkeep.refresh()
            if not self._indexes.covers(spec):
                return None
            meant = self._indexes.storage_records_spec(spec)
            return shaped(spec, await self._storage.get_records_list(meant))

    async def first(self, spec: Any) -> Any:
        """Return one of the records meant; raises KeyError if there is none."""
        taint()
        keys = self._indexes.keys(spec)
        if keys is not None and len(keys) == 1 and self._proven():
            (hot, size), key = self._validity.hot, keys[0]
            record = hot[hash(key) % size].get(key, ABSENT)
            if record is not ABSENT:
                self._counters.hits += 1
                self._pieces.touched(spec)
                return record
        for record in await self.records(spec):
            return record
        raise NoRecordError(f"there is no record for {spec!r}")

    async def many(self, keys: Iterable[PrimaryKey]) -> dict[PrimaryKey, Any]:
        """Return the records with these keys, by key, all of one moment if all are covered."""
        taint()
        wanted = list(keys)
        hot, size = self._validity.hot if self._proven() else _NOTHING
        found = {key: hot[hash(key) % size].get(key, ABSENT) for key in wanted}
        if ABSENT not in found.values():
            self._counters.hits += 1
            if self._pieces.bytes:
                self._pieces.touched(self._indexes.key_spec(*found))
            return found
        key_of = self._indexes.primary_key
        records = await self.records(self._indexes.key_spec(*found))
        return {key_of(record): record for record in records}

    async def count(self, spec: Any) -> int:
        """Return how many records are meant."""
        if limit_of(spec) is not None or await self._objection() is not None:
            return len(await self.records(spec))
        try:
            size = await self._restored(spec, self._storage.count)
        except StoreError:
            size = None
        return len(await self._missing(spec)) if size is None else size

    def _proven(self) -> bool:
        return self._follower is None or self._follower.proven()

    async def _objection(self) -> str | None:
        """Return why nothing kept may be served now, None if it may."""
        taint()
        follower = self._follower
        return None if follower is None or follower.proven() else await follower.objection()

    # from storage -------------------------------------------------------------------------

    def peek(self, spec: Any) -> list[Any] | None:
        """Return the records meant if they are kept and valid, at once; else None."""
        snapshot = self._upkeep.snapshot
        if snapshot is None or not self._proven() or not self._indexes.covers(spec):
            return None
        meant = self._indexes.storage_records_spec(spec)
        if self._validity.in_flux(meant) or self._validity.meets(meant):
            return None
        return shaped(spec, snapshot.find(meant))

    async def _restored(
        self, spec: Any, read: Callable[[StorageRecordsSpec], Awaitable[T]]
    ) -> T | None:
        """Return what `_held` does; a storage that has lost its records is loaded again."""
        try:
            return await self._held(spec, read)
        except (StorageLost, CodecError):
            self._validity.mark_everything()
            return await self._held(spec, read)

    async def _held(
        self,
        spec: Any,
        read: Callable[[StorageRecordsSpec], Awaitable[T]],
        *,
        counted: bool = True,
    ) -> T | None:
        """Return what storage says of the records meant, None if they are not covered.

        What is invalid is refreshed before. After any wait all is looked at again: what is covered
        and what is valid may have changed.
        """
        upkeep, refreshed = self._upkeep, False
        for _ in range(_PATIENCE):
            if not self._indexes.covers(spec):
                break
            meant = self._indexes.storage_records_spec(spec)
            if self._validity.in_flux(meant):
                return None
            if self._validity.meets(meant):
                refreshed = True
                async with upkeep.lock:
                    await upkeep.refresh()
                continue
            version = upkeep.version
            found = await read(meant)
            if version == upkeep.version:
                if counted:
                    self._pieces.touched(spec)
                    self._counters.hits_with_refresh += refreshed
                    self._counters.hits += not refreshed
                return found
        return None

    # from the database ----------------------------------------------------------------------

    async def _missing(self, spec: Any) -> list[Any]:
        self._counters.misses += 1
        try:
            held, missing = self._indexes.missing(spec)
        except UnsupportedIndexOperation:
            held, missing = None, []
        if self._admit and missing:
            try:
                return await self._admitted(spec)
            except UnsupportedIndexOperation:  # these indexes cannot cover just this, too
                return await self._query(spec)
        if held is not None:
            return await self._completed(spec, held, missing)
        return await self._query(spec)

    async def _admitted(self, spec: Any) -> list[Any]:
        """Cover what is missing, and answer from storage."""
        async with self._upkeep.lock:
            _, missing = self._indexes.missing(spec)  # somebody else may have been first
            if missing:
                started = time.perf_counter()
                loaded = await self._upkeep.adjust(lambda: self._indexes.extend(missing))
                self._pieces.add(missing, loaded, time.perf_counter() - started)
        found = await self._held(spec, self._storage.get_records_list)
        await self._evict()
        return await self._query(spec) if found is None else shaped(spec, found)

    async def _evict(self) -> None:
        """Let go of what is worth least, while there is too much."""
        while (spec := self._pieces.excess()) is not None:
            async with self._upkeep.lock:
                with suppress(UnsupportedIndexOperation):
                    await self._upkeep.adjust(partial(self._indexes.reduce, spec))

    async def _completed(self, spec: Any, held: Any, missing: Sequence[Any]) -> list[Any]:
        """Return what is kept with what is missing, if nothing changed while that was fetched."""
        version = self._upkeep.version
        fetched = [record for one in missing for record in await self._query(one)]
        kept = await self._held(held, self._storage.get_records_list, counted=False)
        if kept is None or version != self._upkeep.version:
            return await self._query(spec)
        key_of = self._indexes.primary_key
        joined = {key_of(record): record for record in [*fetched, *kept]}
        return in_order(self._indexes, spec, list(joined.values()))

    async def _query(self, spec: Any) -> list[Any]:
        """Return the records meant, from the database."""
        indexes = self._indexes
        query = indexes.db_records_spec(spec)
        records = await self._flights.fetch(
            probe(indexes.storage_records_spec(spec)), lambda: self._db.get_records_list(query)
        )
        ordered = limit_of(spec) is not None or getattr(spec, "reverse", False)
        return in_order(indexes, spec, list(records)) if ordered else records


_PATIENCE = 50  # refreshes after which a read that never comes to rest goes to the database
_NOTHING: tuple[ByKey, int] = ([{}], 1)


def taint() -> None:
    """Let a computation of a cache that reads a table not be kept: it would not hear of changes."""
    collector = current()
    if collector is not None and (collector := active()) is not None:
        collector.taint("it read a cached table, whose changes are not heard here")


def limit_of(spec: Any) -> int | None:
    """Return how many records a spec means at most."""
    return getattr(spec, "limit", None)


def shaped(spec: Any, records: list[Any]) -> list[Any]:
    """Return records in the order and number that a spec asks for."""
    if getattr(spec, "reverse", False):
        records.reverse()
    limit = limit_of(spec)
    return records if limit is None else records[:limit]


def in_order(indexes: Indexes, spec: Any, records: list[Any]) -> list[Any]:
    """Return records in the order of the index that a spec is of."""
    name = spec.index_name
    records.sort(key=lambda record: indexes.score(name, record))
    return shaped(spec, records)
