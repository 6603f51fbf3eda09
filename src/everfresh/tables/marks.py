"""Marks of invalid records, gathered until a refresh takes them on."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from everfresh.tables.intervals import Interval, KeysRecordsSpec, StorageRecordsSpec
from everfresh.tables.spans import Spans
from everfresh.tables.types import PrimaryKey, Score

__all__ = ["UNKNOWN", "Batch", "Pair"]

UNKNOWN: Any = object()
"""Stands for a record whose state has to be asked for."""

Pair = tuple[Any, Any]
"""A spec of what to delete, and one of what to load again."""


class Batch:
    """Gather marks, until a refresh takes them on."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []  # specs to delete, and to load again
        self.keys: dict[PrimaryKey, None] = {}  # of records to load again
        self.images: dict[PrimaryKey, Any] = {}  # what some of these are now; `ABSENT` if gone
        self.everything = False  # all that is covered has to be loaded again
        self.dirty: set[str] = set()  # indexes in which any record may be invalid
        self.spans: dict[str, Spans] = {}
        self.points: dict[str, list[Score]] = {}
        self.specs: list[StorageRecordsSpec] = []  # of records that must not be served by key
        self.opaque = False  # no record may be served by key
        self.forced = False  # some read has to wait for a refresh

    def __bool__(self) -> bool:
        return bool(self.pairs or self.keys or self.everything)

    def meets(self, spec: StorageRecordsSpec) -> bool:
        """Whether some of what a spec means may be invalid."""
        name = spec.index_name
        if name in self.dirty:
            return True
        spans, points = self.spans.get(name), self.points.get(name)
        return any(
            (spans is not None and spans.meets(one)) or (points and _between(points, one))
            for one in spec.score_intervals
        )

    def add_keys(
        self,
        images: Mapping[PrimaryKey, Any],
        scores: Mapping[str, Iterable[Score]] | None,
        index_names: frozenset[str],
    ) -> None:
        """Mark records by key, with what they are now or `UNKNOWN`.

        ``scores`` are theirs, old and new, in each index; None if not all are known.
        """
        self.forced = True
        self.keys.update(dict.fromkeys(images))
        self.images.update((key, one) for key, one in images.items() if one is not UNKNOWN)
        self.specs.append(KeysRecordsSpec("", [], primary_keys=frozenset(images)))
        if scores is None:
            self.dirty |= index_names
            return
        for name, some in scores.items():
            points = self.points.setdefault(name, [])
            for score in some:
                insort(points, score)

    def add_everything(self, index_names: frozenset[str]) -> None:
        """Mark all records."""
        self.everything = self.opaque = self.forced = True
        self.dirty |= index_names

    def add_spec(self, spec: Any, meant: StorageRecordsSpec, index_names: frozenset[str]) -> None:
        """Mark what a spec means, in its own index; in the others it may be anything."""
        self.forced = True
        self.pairs.append((spec, spec))
        spans = self.spans.setdefault(meant.index_name, Spans([], []))
        for interval in meant.score_intervals:
            spans.add(interval)
        self.dirty |= index_names - {meant.index_name}
        self.specs.append(meant)

    def absorb(self, newer: Batch) -> None:
        """Add the marks of a later batch."""
        self.pairs += newer.pairs
        self.keys.update(newer.keys)
        for key in newer.keys:
            self.images.pop(key, None)
        self.images.update(newer.images)
        self.everything |= newer.everything
        self.dirty |= newer.dirty
        for name, spans in newer.spans.items():
            for one in spans:
                self.spans.setdefault(name, Spans([], [])).add(one)
        for name, points in newer.points.items():
            self.points[name] = sorted([*self.points.get(name, ()), *points])
        self.specs += newer.specs
        self.opaque |= newer.opaque
        self.forced |= newer.forced


def _between(points: Sequence[Score], interval: Interval) -> bool:
    place = bisect_left(points, interval.ge)
    return place < len(points) and bool(points[place] < interval.lt)
