"""What of a table's records may be served: what was marked as invalid, and is not yet refreshed.

Marks come from any thread; reads ask without a lock where nothing is marked. What a refresh takes
on stays marked until its end, and what is marked again meanwhile stays marked beyond it: only what
the refresh's own queries saw becomes valid.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

from everfresh.tables.indexes import RecordScorer
from everfresh.tables.intervals import Interval, KeysRecordsSpec, StorageRecordsSpec
from everfresh.tables.local.snapshot import ByKey, Snapshot
from everfresh.tables.spans import Spans
from everfresh.tables.types import PrimaryKey, Score

__all__ = ["Batch", "Validity"]

_MANY = 10_000  # records marked at once, above which no record is looked up by key

Pair = tuple[Any, Any]


class Batch:
    """Gather marks, until a refresh takes them on."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []  # specs to delete, and to load again
        self.keys: dict[PrimaryKey, None] = {}  # of records to load again
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

    def add(self, other: Batch) -> None:
        """Take over the marks of another."""
        self.pairs[:0] = other.pairs
        self.keys.update(other.keys)
        self.everything |= other.everything
        self.dirty |= other.dirty
        for name, spans in other.spans.items():
            for one in spans:
                self.spans.setdefault(name, Spans([], [])).add(one)
        for name, points in other.points.items():
            self.points[name] = sorted([*self.points.get(name, ()), *points])
        self.specs += other.specs
        self.opaque |= other.opaque
        self.forced |= other.forced


def _between(points: Sequence[Score], interval: Interval) -> bool:
    place = bisect_left(points, interval.ge)
    return place < len(points) and bool(points[place] < interval.lt)


class Validity:
    """Know which records are invalid, and hold those that may be served by their key.

    ``hot`` is what a read by key looks into: the records of the current snapshot without those
    that are invalid, laid out as a `Snapshot.by_key`. Empty for storages without snapshots.
    """

    def __init__(self, scorer: RecordScorer) -> None:
        self.hot: ByKey = [{}]
        self._scorer = scorer
        self._index_names = frozenset(scorer.index_names)
        self._pending = Batch()
        self._under_way: Batch | None = None
        self._lock = Lock()
        self._snapshot: Snapshot | None = None
        self._own: set[int] = set()  # chunks of `hot` that are not the snapshot's
        self._closed = False

    # asking -----------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether there is anything to refresh."""
        return bool(self._pending)

    @property
    def unsettled(self) -> bool:
        """Whether there is anything to refresh, or a refresh is under way."""
        return bool(self._pending) or self._under_way is not None

    @property
    def forced(self) -> bool:
        """Whether some read has to wait for a refresh."""
        under_way = self._under_way
        return self._pending.forced or (under_way is not None and under_way.forced)

    def meets(self, spec: StorageRecordsSpec) -> bool:
        """Whether some of what a spec means may be invalid."""
        if not self.forced:
            return False
        with self._lock:
            return any(batch.meets(spec) for batch in self._batches())

    # marking ------------------------------------------------------------------------

    def mark(
        self,
        pair: Pair,
        meant: Mapping[str, Sequence[StorageRecordsSpec]],
        specs: Sequence[StorageRecordsSpec],
    ) -> None:
        """Mark what a pair of specs means; indexes that are not in ``meant`` become dirty.

        Without ``specs`` the pair is only noted for the next refresh.
        """
        with self._lock:
            self._pending.pairs.append(pair)
            if not specs:
                return
            self._pending.forced = True
            for name, both in meant.items():
                spans = self._pending.spans.setdefault(name, Spans([], []))
                for spec in both:
                    for interval in spec.score_intervals:
                        spans.add(interval)
            self._pending.dirty |= self._index_names - meant.keys()
            for spec in specs:
                self._pending.specs.append(spec)
                self._block(self._pending, spec)

    def mark_keys(
        self, keys: Iterable[PrimaryKey], scores: Mapping[str, Iterable[Score]] | None
    ) -> None:
        """Mark records by key; ``scores`` are theirs, old and new, None if not all are known."""
        keys = frozenset(keys)
        spec = KeysRecordsSpec("", [], primary_keys=keys)
        with self._lock:
            self._pending.forced = True
            self._pending.keys.update(dict.fromkeys(keys))
            self._pending.specs.append(spec)
            self._block(self._pending, spec)
            if scores is None:
                self._pending.dirty |= self._index_names
                return
            for name, some in scores.items():
                points = self._pending.points.setdefault(name, [])
                for score in some:
                    insort(points, score)

    def mark_everything(self) -> None:
        """Mark all records."""
        with self._lock:
            self._pending.everything = self._pending.opaque = self._pending.forced = True
            self._pending.dirty |= self._index_names
            self.hot = [{}]

    # refreshing -----------------------------------------------------------------------

    def take(self) -> Batch | None:
        """Return what there is to refresh; what is marked from here on is for the next time."""
        with self._lock:
            if not self._pending:
                return None
            batch = self._pending
            # in this order: a read without the lock never finds both unmarked
            self._under_way, self._pending = batch, Batch()
            return batch

    def restore(self, batch: Batch) -> None:
        """Mark again what a refresh that failed had taken on."""
        with self._lock:
            if self._under_way is batch:
                self._pending.add(batch)
                self._under_way = None

    def finish(self, batch: Batch | None, snapshot: Snapshot | None) -> None:
        """Make valid what a refresh has loaded, and serve from its snapshot."""
        with self._lock:
            if batch is not None and self._under_way is batch:
                self._under_way = None
            self._serve(snapshot)

    def close(self) -> None:
        """Serve nothing any more."""
        with self._lock:
            self._closed = True
            self._snapshot, self.hot = None, [{}]

    def _batches(self) -> list[Batch]:
        return [self._pending] if self._under_way is None else [self._under_way, self._pending]

    # reads by key ---------------------------------------------------------------------

    def _serve(self, snapshot: Snapshot | None) -> None:
        self._snapshot = snapshot
        self._own = set()
        batches = self._batches()
        closed = self._closed or any(batch.opaque for batch in batches)
        self.hot = [{}] if snapshot is None or closed else snapshot.by_key.copy()
        for batch in batches:
            for spec in batch.specs:
                self._block(batch, spec)

    def _block(self, batch: Batch, spec: StorageRecordsSpec) -> None:
        """Take the records that a spec means out of what is served by key."""
        snapshot = self._snapshot
        if snapshot is None or batch.opaque or len(self.hot) != len(snapshot.by_key):
            return
        if isinstance(spec, KeysRecordsSpec):
            self._hide(spec.primary_keys)
            return
        index = snapshot.index(spec.index_name)
        if sum(map(index.count, spec.score_intervals)) > _MANY:
            batch.opaque = True
            self.hot = [{}]
            return
        meant = [record for one in spec.score_intervals for record in index.between(one)]
        self._hide(map(self._scorer.primary_key, meant))

    def _hide(self, keys: Iterable[PrimaryKey]) -> None:
        hot, own = self.hot, self._own
        size = len(hot)
        for key in keys:
            place = hash(key) % size
            if key in hot[place]:
                if place not in own:
                    own.add(place)
                    hot[place] = hot[place].copy()
                del hot[place][key]
