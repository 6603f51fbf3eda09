"""What reads have added to a table, piece by piece, and which pieces go when there are too many."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Standing
from everfresh.kernel.score import HalfLife
from everfresh.tables.indexes import Indexes
from everfresh.tables.spans import Spans

__all__ = ["Pieces", "weigh"]

_SAMPLE = 50  # records that are weighed to know what a piece takes
_PLACE = 100  # bytes that a record takes in the indexes


@dataclass(eq=False)
class Piece:
    """Hold what one read has added, and what it is worth."""

    spec: Any
    keys: frozenset[Any] | None
    spans: Spans
    standing: Standing


class Pieces:
    """Know the pieces that reads have added, within a limit of bytes.

    What goes first is what took least time to fetch per byte, weighted by touches that fade, as
    everywhere in everfresh. What was loaded or adjusted to stays: it was asked for.
    """

    def __init__(self, indexes: Indexes, max_bytes: int | None) -> None:
        if max_bytes is not None and not (type(max_bytes) is int and max_bytes > 0):
            raise ConfigurationError(f"max_bytes is a number of bytes above 0, not {max_bytes!r}")
        self.max_bytes = max_bytes
        self.bytes = 0
        self._indexes = indexes
        self._pieces: list[Piece] = []
        self._by_key: dict[Any, Piece] = {}
        self._policy = HalfLife()
        self._touches = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, specs: Iterable[Any], records: Sequence[Any], seconds: float) -> None:
        """Note that these were fetched, all in this many seconds."""
        if self.max_bytes is None:
            return
        several = list(specs)
        size = max(1, weigh(records)) // max(1, len(several))
        for spec in several:
            keys = self._indexes.keys(spec)
            meant = self._indexes.storage_records_spec(spec)
            spans = Spans.of(meant.score_intervals)
            standing = Standing(seconds / len(several), size)
            piece = Piece(spec, None if keys is None else frozenset(keys), spans, standing)
            self._pieces.append(piece)
            self._by_key.update(dict.fromkeys(keys or (), piece))
            self.bytes += size
            self._touch(piece)

    def touched(self, spec: Any) -> None:
        """Note that these were asked for."""
        if not self._pieces:
            return
        keys = self._indexes.keys(spec)
        if keys is not None:
            for piece in {id(p): p for p in map(self._by_key.get, keys) if p is not None}.values():
                self._touch(piece)
            return
        meant = self._indexes.storage_records_spec(spec)
        for piece in self._pieces:
            if piece.spec.index_name == spec.index_name and any(
                piece.spans.meets(one) for one in meant.score_intervals
            ):
                self._touch(piece)

    def excess(self) -> Any | None:
        """Return the spec of the piece that has to go now, None if all may stay."""
        if self.max_bytes is None or self.bytes <= self.max_bytes or not self._pieces:
            return None
        piece = min(self._pieces, key=lambda one: one.standing.rank)
        self._pieces.remove(piece)
        self.bytes -= piece.standing.size
        for key in piece.keys or ():
            self._by_key.pop(key, None)
        return piece.spec

    def clear(self) -> None:
        """Forget all pieces: the table was adjusted to something else."""
        self._pieces.clear()
        self._by_key.clear()
        self.bytes = 0

    def _touch(self, piece: Piece) -> None:
        self._touches += 1
        self._policy.touch(piece.standing, self._touches)


def weigh(records: Sequence[Any]) -> int:
    """Return about how many bytes records take, from a sample of them.

    >>> weigh([]), weigh([{"city": "JFK"}] * 1000) > 100_000
    (0, True)
    """
    if not records:
        return 0
    sample = list(islice(records, 0, None, max(1, len(records) // _SAMPLE)))
    return sum(map(_weight, sample)) * len(records) // len(sample) + _PLACE * len(records)


def _weight(record: Any) -> int:
    if isinstance(record, Mapping):
        values: Iterable[Any] = record.values()
    elif isinstance(record, (tuple, list)):
        values = record
    else:
        names: Iterable[str] = getattr(record, "__struct_fields__", ())
        names = names or getattr(record, "__dict__", ())
        values = [getattr(record, name) for name in names]
    return sys.getsizeof(record) + sum(map(sys.getsizeof, values))
