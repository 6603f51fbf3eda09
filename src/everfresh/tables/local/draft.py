"""The next snapshot while it is being made; nobody sees it before it is done."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from everfresh.errors import TableError
from everfresh.tables.indexes import RecordScorer
from everfresh.tables.intervals import KeysRecordsSpec, StorageRecordsSpec, held_by
from everfresh.tables.local.chunks import SortedChunks, build, rebuild
from everfresh.tables.local.snapshot import ABSENT, ByKey, Snapshot, empty
from everfresh.tables.types import PrimaryKey, Score

__all__ = ["Draft"]

_PER_CHUNK = 256  # records by key in a dictionary, on average; up to twice as many
_STEP = 512  # records after which a long piece of work may be interrupted
_PRIMES = (1, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)


class Draft:
    """Gather changes to a snapshot and make the next one of them.

    It behaves as a table to which its operations are applied one after the other: what is
    discarded after it was put is gone.
    """

    def __init__(self, base: Snapshot, scorer: RecordScorer) -> None:
        self.base = base
        self.added: dict[PrimaryKey, Any] = {}
        self.gone: dict[PrimaryKey, Any] = {}  # records of the base that are deleted or replaced
        self._scorer = scorer

    @property
    def replaced(self) -> int:
        """How many records of the base are covered up by new ones or deleted."""
        return len(self.gone)

    @property
    def count(self) -> int:
        """How many records there will be."""
        return self.base.count - len(self.gone) + len(self.added)

    def put(self, record: Any) -> None:
        """Add a record, in place of the one with its primary key."""
        key = self._scorer.primary_key(record)
        self._check(key, record)
        if key not in self.gone:
            old = self.base.get(key)
            if old is not ABSENT:
                self.gone[key] = old
        self.added[key] = record

    def put_all(self, records: Sequence[Any]) -> Generator[None, None, None]:
        """Add records; yield between the steps of the work."""
        key_of, base, gone, added = self._scorer.primary_key, self.base, self.gone, self.added
        fresh = not base.count
        for start in range(0, len(records), _STEP):
            batch = records[start : start + _STEP]
            keyed = _keyed(key_of, batch)
            added.update(keyed)
            if not fresh:
                for key in keyed:
                    old = base.get(key)
                    if old is not ABSENT:
                        gone[key] = old
            yield

    def get(self, key: PrimaryKey) -> Any:
        """Return the record with this key as it will be, `ABSENT` if there will be none."""
        if key in self.added:
            return self.added[key]
        return ABSENT if key in self.gone else self.base.get(key)

    def find(self, spec: StorageRecordsSpec) -> list[Any]:
        """Return the records a spec means, as they will be."""
        if isinstance(spec, KeysRecordsSpec):
            wanted = (self.get(key) for key in spec.primary_keys)
            return [record for record in wanted if record is not ABSENT]
        found = self.base.find(spec)
        if self.gone:
            key_of, gone = self._scorer.primary_key, self.gone
            found = [record for record in found if key_of(record) not in gone]
        if self.added:
            name, intervals = spec.index_name, spec.score_intervals
            score, predicate = self._scorer.score, spec.recheck_predicate
            found += [
                record
                for record in self.added.values()
                if held_by(intervals, score(name, record)) and predicate(record)
            ]
        return found

    def found(self, spec: StorageRecordsSpec) -> Generator[None, None, list[Any]]:
        """Return what `find` does; yield between the steps of the work."""
        if not isinstance(spec, KeysRecordsSpec):
            return self.find(spec)
        get, records = self.get if self.added or self.gone else self.base.get, []
        for count, key in enumerate(spec.primary_keys):
            record = get(key)
            if record is not ABSENT:
                records.append(record)
            if count % _STEP == _STEP - 1:
                yield
        return records

    def discard(self, spec: StorageRecordsSpec) -> list[Any]:
        """Delete the records a spec means; return them."""
        found = self.find(spec)
        for _ in self.discard_records(found):
            pass
        return found

    def discard_records(self, records: Sequence[Any]) -> Generator[None, None, None]:
        """Delete these records, which are there; yield between the steps of the work."""
        key_of, base = self._scorer.primary_key, self.base
        for count, record in enumerate(records):
            key = key_of(record)
            self.added.pop(key, None)
            old = base.get(key)
            if old is not ABSENT:
                self.gone[key] = old
            if count % _STEP == _STEP - 1:
                yield

    def steps(self) -> Generator[None, None, Snapshot]:
        """Return the snapshot with all changes; yield between the steps of the work.

        Raises ValueError for a record whose score cannot be ordered; the draft is as it was.
        """
        if not self.gone and not self.added:
            return self.base
        if self.count == 0:
            return empty(self._scorer.index_names)
        by_key = yield from self._by_key()
        indexes: dict[str, SortedChunks] = {}
        for name in self._scorer.index_names:
            try:
                indexes[name] = yield from self._index(name)
            except TypeError as error:
                raise TableError(
                    f"scores of the index {name!r} cannot be ordered: {error}"
                ) from error
        return Snapshot(by_key, indexes, self.count)

    def _index(self, name: str) -> Generator[None, None, SortedChunks]:
        score, old, added = self._scorer.score, self.base.index(name), self.added
        if not old.chunks or len(self.gone) == self.base.count:
            records = list(added.values())
            scores: list[Any] = []
            for start in range(0, len(records), _STEP):
                scores += [_place(score, name, one) for one in records[start : start + _STEP]]
                yield
            return (yield from build(scores, list(map(hash, added)), records))
        one = partial(_place, score, name)
        return (yield from rebuild(old, self.gone, added, one, self._scorer.primary_key))

    def _by_key(self) -> Generator[None, None, ByKey]:
        old, size = self.base.by_key, len(self.base.by_key)
        if not _PER_CHUNK // 8 * size <= self.count <= 2 * _PER_CHUNK * size:
            return (yield from self._resized())
        chunks, own = old.copy(), set[int]()
        for count, key in enumerate(self.gone):
            if key not in self.added:
                place = hash(key) % size
                if place not in own:
                    own.add(place)
                    chunks[place] = chunks[place].copy()
                del chunks[place][key]
            if count % _STEP == 0:
                yield
        for count, (key, record) in enumerate(self.added.items()):
            place = hash(key) % size
            if place not in own:
                own.add(place)
                chunks[place] = chunks[place].copy()
            chunks[place][key] = record
            if count % _STEP == 0:
                yield
        return chunks

    def _resized(self) -> Generator[None, None, ByKey]:
        size = next((one for one in _PRIMES if self.count <= one * _PER_CHUNK), _PRIMES[-1])
        chunks: ByKey = [{} for _ in range(size)]
        gone = self.gone
        for chunk in self.base.by_key:
            for key, record in chunk.items():
                if key not in gone:
                    chunks[hash(key) % size][key] = record
            yield
        for count, (key, record) in enumerate(self.added.items()):
            chunks[hash(key) % size][key] = record
            if count % _STEP == 0:
                yield
        return chunks

    def _check(self, key: PrimaryKey, record: Any) -> None:
        try:
            hash(key)
        except TypeError as error:
            raise TableError(f"the primary key {key!r} of {record!r} is not hashable") from error
        for name in self._scorer.index_names:
            _place(self._scorer.score, name, record)


def _keyed(key_of: Callable[[Any], PrimaryKey], batch: Sequence[Any]) -> dict[PrimaryKey, Any]:
    keys = list(map(key_of, batch))
    try:
        return dict(zip(keys, batch, strict=True))
    except TypeError as error:
        raise TableError(f"a primary key is not hashable: {error}") from error


def _place(score_of: Callable[[str, Any], Score], name: str, record: Any) -> Score:
    score = score_of(name, record)
    if score != score:
        raise TableError(f"a score of the index {name!r} is not a number: {score!r}")
    return score
