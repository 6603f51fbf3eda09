"""What happens to a subset of a table: first all of it, then each change as it is put in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from everfresh.errors import TableError
from everfresh.tables.indexes import Indexes
from everfresh.tables.reads import Reads
from everfresh.tables.types import PrimaryKey
from everfresh.tables.upkeep import Upkeep

__all__ = ["Delivery", "deliveries"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Tell one step of a subset.

    The first holds all of its records as ``inserted``; each later one what is different from the
    step before, and nothing if the step changed other records only. ``updated`` are pairs of old
    and new records. ``mark`` grows with every step: who has seen a mark has seen all before it.
    """

    mark: int
    first: bool = False
    inserted: tuple[Any, ...] = ()
    updated: tuple[tuple[Any, Any], ...] = ()
    deleted: tuple[Any, ...] = ()


async def deliveries(
    indexes: Indexes, reads: Reads, upkeep: Upkeep, spec: Any, closed: asyncio.Event
) -> AsyncIterator[Delivery]:
    """Yield the steps of a subset that is covered, until the table is closed.

    Steps that come while one is looked at are told as one.
    """
    changed = asyncio.Event()
    upkeep.watchers.append(changed.set)
    try:
        held = await _held(reads, spec)
        yield Delivery(upkeep.version, first=True, inserted=tuple(held))
        before = _by_key(indexes, held)
        while True:
            await changed.wait()
            changed.clear()
            if closed.is_set():
                return
            held = await _held(reads, spec)
            after = _by_key(indexes, held)
            yield _difference(upkeep.version, before, after)
            before = after
    finally:
        upkeep.watchers.remove(changed.set)


async def _held(reads: Reads, spec: Any) -> list[Any]:
    held = await reads.held(spec)
    if held is None:
        raise TableError(f"{spec!r} is not covered (any more): only what is kept can be watched")
    return held


def _by_key(indexes: Indexes, records: Iterable[Any]) -> dict[PrimaryKey, Any]:
    return {indexes.primary_key(record): record for record in records}


def _difference(mark: int, before: dict[PrimaryKey, Any], after: dict[PrimaryKey, Any]) -> Delivery:
    inserted = tuple(record for key, record in after.items() if key not in before)
    deleted = tuple(record for key, record in before.items() if key not in after)
    both = ((before[key], record) for key, record in after.items() if key in before)
    updated = tuple((old, new) for old, new in both if old is not new and old != new)
    return Delivery(mark, inserted=inserted, updated=updated, deleted=deleted)
