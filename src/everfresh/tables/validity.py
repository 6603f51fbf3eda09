"""What of a table's records may be served: what was marked as invalid, and is not yet refreshed.

Marks come from any thread; reads ask without a lock where nothing is marked. What a refresh takes
on stays marked until its end, and what is marked again meanwhile stays marked beyond it: only what
the refresh's own queries saw becomes valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

from everfresh.tables.indexes import RecordScorer
from everfresh.tables.intervals import KeysRecordsSpec, StorageRecordsSpec
from everfresh.tables.local.snapshot import ByKey, Snapshot
from everfresh.tables.marks import Batch, Pair
from everfresh.tables.spans import Spans
from everfresh.tables.types import PrimaryKey

__all__ = ["Validity"]


Served = tuple[ByKey, int]
"""Records as a `Snapshot.by_key` has them, and the length of that list."""

_NOTHING: Served = ([{}], 1)
_MANY = 10_000  # records marked at once, above which no record is looked up by key


class Validity:
    """Know which records are invalid, and hold those that may be served by their key.

    ``hot`` is what a read by key looks into: the records of the current snapshot without those
    that are invalid. Empty for storages without snapshots.
    """

    def __init__(self, scorer: RecordScorer) -> None:
        self.hot: Served = _NOTHING
        self._hot = Hot([{}])
        self._scorer = scorer
        self._index_names = frozenset(scorer.index_names)
        self._pending = Batch()
        self._under_way: Batch | None = None
        self._lock = Lock()
        self._flux: list[Batch] = []
        self._snapshot: Snapshot | None = None
        self._closed = False

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that is served, None for storages without any."""
        return self._snapshot

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
            for name, some in meant.items():
                spans = self._pending.spans.setdefault(name, Spans([], []))
                for spec in some:
                    for interval in spec.score_intervals:
                        spans.add(interval)
            self._pending.dirty |= self._index_names - meant.keys()
            self._pending.specs += specs
            for spec in specs:
                self._hide(self._pending, spec, self._hot)
            self._publish()

    def mark_batch(self, batch: Batch) -> None:
        """Mark all that a batch holds."""
        with self._lock:
            self._pending.absorb(batch)
            self._hide_all(batch, self._hot)
            self._publish()

    def mark_everything(self) -> None:
        """Mark all records."""
        with self._lock:
            self._pending.add_everything(self._index_names)
            self.hot = _NOTHING

    # what is being committed --------------------------------------------------------

    def begin_flux(self, batch: Batch) -> None:
        """Serve none of this from here on: it is about to change."""
        with self._lock:
            self._flux.append(batch)
            self._hide_all(batch, self._hot)
            self._publish()

    def end_flux(self, batch: Batch, changed: Batch | None) -> None:
        """Serve it again; or mark what has ``changed`` of it, in the same step."""
        with self._lock:
            self._flux.remove(batch)
            if changed is not None:
                self._pending.absorb(changed)
            self._serve(self._snapshot)

    def in_flux(self, spec: StorageRecordsSpec) -> bool:
        """Whether some of what a spec means is being committed just now."""
        if not self._flux:
            return False
        with self._lock:
            return any(batch.meets(spec) for batch in self._flux)

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
                batch.absorb(self._pending)
                self._pending, self._under_way = batch, None

    def forget(self) -> None:
        """Drop the marks: all is about to be loaded."""
        with self._lock:
            self._pending = Batch()

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
            self._snapshot, self.hot = None, _NOTHING

    @property
    def cheap(self) -> bool:
        """Whether all there is to refresh is known without asking the database."""
        pending = self._pending
        return not (pending.pairs or pending.everything or len(pending.images) < len(pending.keys))

    def _batches(self) -> list[Batch]:
        return [self._pending] if self._under_way is None else [self._under_way, self._pending]

    def _publish(self) -> None:
        """Serve what is left after some was hidden."""
        opaque = any(batch.opaque for batch in [*self._batches(), *self._flux])
        shut = opaque or self._closed or self._snapshot is None
        self.hot = _NOTHING if shut else self._hot.served

    # reads by key ---------------------------------------------------------------------

    def _serve(self, snapshot: Snapshot | None) -> None:
        self._snapshot = snapshot
        batches = [*self._batches(), *self._flux]
        closed = self._closed or any(batch.opaque for batch in batches)
        if snapshot is None or closed:
            self.hot = _NOTHING
            return
        hot = Hot(snapshot.by_key)
        for batch in batches:
            self._hide_all(batch, hot)
        self._hot = hot
        # only now: nobody ever finds in it what is invalid
        self.hot = _NOTHING if any(batch.opaque for batch in batches) else hot.served

    def _hide_all(self, batch: Batch, hot: Hot) -> None:
        for spec in batch.specs:
            self._hide(batch, spec, hot)

    def _hide(self, batch: Batch, spec: StorageRecordsSpec, hot: Hot) -> None:
        """Take the records that a spec means out of what is served by key."""
        snapshot = self._snapshot
        if snapshot is None or batch.opaque:
            return
        if isinstance(spec, KeysRecordsSpec):
            hot.hide(spec.primary_keys)
            return
        index = snapshot.index(spec.index_name)
        if sum(map(index.count, spec.score_intervals)) > _MANY:
            batch.opaque = True
            return
        meant = [record for one in spec.score_intervals for record in index.between(one)]
        hot.hide(map(self._scorer.primary_key, meant))


class Hot:
    """Hold the records of a snapshot by key, without some that are hidden.

    What is not hidden is shared with the snapshot: a chunk is copied before it is changed.
    """

    def __init__(self, by_key: ByKey) -> None:
        self.served: Served = (by_key, len(by_key))
        self._own: set[int] | None = None

    def hide(self, keys: Iterable[PrimaryKey]) -> None:
        """Serve these records no longer."""
        by_key, size = self.served
        for key in keys:
            place = hash(key) % size
            if key not in by_key[place]:
                continue
            if self._own is None:
                by_key, self._own = by_key.copy(), set()
            if place not in self._own:
                self._own.add(place)
                by_key[place] = by_key[place].copy()
            del by_key[place][key]
        self.served = (by_key, size)
