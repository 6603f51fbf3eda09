"""Ready-made indexes whose queries are given as text: everything, by key, by a range of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from numbers import Real
from typing import Any

from everfresh.errors import TableError
from everfresh.tables.db import DbRecordsSpec, QueryArgsDbRecordsSpec
from everfresh.tables.indexes import Adjustment, Indexes, UnsupportedIndexOperation, check_index
from everfresh.tables.intervals import (
    ExactIntervals,
    Interval,
    KeysRecordsSpec,
    StorageRecordsSpec,
    always_use_record,
)
from everfresh.tables.spans import Spans
from everfresh.tables.types import PrimaryKey, RecheckPredicate, Score

__all__ = ["AllIndexes", "PrimaryKeyIndexes", "PrimaryKeyRangeIndexes"]

KeyExtractor = Callable[[Any], PrimaryKey]


class _OneIndex(Indexes):
    """Have a single index, of the name ``index_name``."""

    index_name: str

    def __init__(self, primary_key_extractor: KeyExtractor) -> None:
        self.primary_key_extractor = primary_key_extractor
        if type(self).primary_key is _OneIndex.primary_key:  # a call less for every record
            self.__dict__["primary_key"] = primary_key_extractor

    @property
    def index_names(self) -> frozenset[str]:
        """Name of the one index."""
        return frozenset((self.index_name,))

    def primary_key(self, record: Any) -> PrimaryKey:
        """Return the record's primary key."""
        return self.primary_key_extractor(record)

    def _check(self, spec: Any) -> None:
        check_index(spec.index_name, (self.index_name,))


class AllIndexes(_OneIndex):
    """Cover everything: one index, ``all``, in which every record has the score 0.

    ``query_all_string`` is the query, without arguments, for all records. A spec may have a
    ``recheck_predicate`` that picks records out of the storage.

    >>> indexes = AllIndexes(lambda record: record["id"], "SELECT * FROM planes")
    >>> indexes.covers(AllIndexes.IndexSpec("all"))
    True
    """

    index_name = "all"

    class IndexSpec(Indexes.IndexSpec):
        """Mean all records, or those that a predicate picks."""

        def __init__(
            self, index_name: str, recheck_predicate: RecheckPredicate = always_use_record
        ) -> None:
            check_index(index_name, ("all",))
            super().__init__(index_name)
            self.recheck_predicate = recheck_predicate

        def __repr__(self) -> str:
            if self.recheck_predicate is always_use_record:
                return "all records"
            return f"all records matching {self.recheck_predicate}"

    def __init__(self, primary_key_extractor: KeyExtractor, query_all_string: str) -> None:
        super().__init__(primary_key_extractor)
        self._query_all = query_all_string

    def score(self, index_name: str, record: Any) -> Score:
        """Return 0."""
        check_index(index_name, ("all",))
        return 0

    def storage_records_spec(self, spec: Any) -> StorageRecordsSpec:
        """Return everything in storage that the spec's predicate takes."""
        self._check(spec)
        return StorageRecordsSpec("all", [Interval.everything()], spec.recheck_predicate)

    def db_records_spec(self, spec: Any) -> QueryArgsDbRecordsSpec:
        """Return the query for everything: the predicate is asked of storage only."""
        self._check(spec)
        return QueryArgsDbRecordsSpec(self._query_all, ())

    def prepare_adjustment(self, spec: Any) -> Adjustment:
        """Return an adjustment that loads everything anew."""
        self._check(spec)
        everything = StorageRecordsSpec("all", [Interval.everything()])
        return Adjustment(everything, self.db_records_spec(spec))

    def commit_adjustment(self, adjustment: Any) -> None:
        """Do nothing: everything is always covered."""

    def covers(self, spec: Any) -> bool:
        """Return True."""
        self._check(spec)
        return True

    @property
    def everything_statement(self) -> str:
        """The query for all records."""
        return self._query_all

    def covers_record(self, record: Any) -> bool:
        """Return True."""
        return True

    def combine(self, specs: Sequence[Any]) -> list[Any]:
        """Return one spec: the database is asked for everything anyway."""
        if len(specs) < 2:
            return list(specs)
        predicates = list(dict.fromkeys(spec.recheck_predicate for spec in specs))
        if len(predicates) == 1:
            return [specs[0]]
        if always_use_record in predicates:
            return [self.IndexSpec("all")]
        return [self.IndexSpec("all", lambda record: any(one(record) for one in predicates))]

    def everything(self) -> Sequence[Any]:
        """Return the spec of all records."""
        return [self.IndexSpec("all")]


class PrimaryKeyIndexes(_OneIndex):
    """Cover records by their exact primary keys: one index, ``primary_key``.

    ``query_all_string`` is the query, without arguments, for all records; ``query_some_string``
    takes one argument, a tuple of primary keys. A record's score is the hash of its key; keys whose
    hashes are equal are still told apart.

    >>> indexes = PrimaryKeyIndexes(
    ...     lambda plane: plane["tailnum"],
    ...     "SELECT * FROM planes",
    ...     "SELECT * FROM planes WHERE tailnum = ANY ($1)",
    ... )
    >>> indexes.IndexSpec("primary_key", "N10156", "N102UW")
    records with primary keys ('N10156', 'N102UW')
    """

    index_name = "primary_key"

    class IndexSpec(Indexes.IndexSpec):
        """Mean the records with these primary keys, or all of them."""

        __slots__ = ("all_primary_keys", "index_name", "primary_keys")

        def __init__(
            self, index_name: str, *primary_keys: PrimaryKey, all_primary_keys: bool = False
        ) -> None:
            if index_name != "primary_key":
                check_index(index_name, ("primary_key",))
            if all_primary_keys and primary_keys:
                raise TableError("give primary keys or all_primary_keys=True, not both")
            self.index_name = index_name
            self.primary_keys = primary_keys
            self.all_primary_keys = all_primary_keys

        def __repr__(self) -> str:
            if self.all_primary_keys:
                return "all records"
            return f"records with primary keys {self.primary_keys}"

    class Adjustment(Adjustment):
        """Carry what is covered after it, and whether that comes on top of what was."""

        def __init__(
            self,
            expire_spec: StorageRecordsSpec | None,
            load_spec: DbRecordsSpec | None,
            primary_keys: set[PrimaryKey],
            cover_all: bool,
        ) -> None:
            super().__init__(expire_spec, load_spec)
            self.primary_keys = primary_keys
            self.cover_all = cover_all

    def __init__(
        self, primary_key_extractor: KeyExtractor, query_all_string: str, query_some_string: str
    ) -> None:
        super().__init__(primary_key_extractor)
        self._query_all = query_all_string
        self._query_some = query_some_string
        self._covered: set[PrimaryKey] = set()
        self._covers_all = False

    def score(self, index_name: str, record: Any) -> Score:
        """Return the hash of the record's primary key."""
        check_index(index_name, ("primary_key",))
        return hash(self.primary_key(record))

    def storage_records_spec(self, spec: Any) -> StorageRecordsSpec:
        """Return the records with these keys, exactly."""
        self._check(spec)
        if spec.all_primary_keys:
            return StorageRecordsSpec("primary_key", [Interval.everything()])
        return self._storage_keys(spec.primary_keys)

    def _storage_keys(self, keys: Sequence[PrimaryKey] | set[PrimaryKey]) -> StorageRecordsSpec:
        wanted, key_of = frozenset(keys), self.primary_key
        return KeysRecordsSpec(
            "primary_key",
            ExactIntervals(lambda: map(hash, wanted)),
            lambda record: key_of(record) in wanted,
            wanted,
        )

    def db_records_spec(self, spec: Any) -> QueryArgsDbRecordsSpec:
        """Return one of the two queries."""
        self._check(spec)
        if spec.all_primary_keys:
            return QueryArgsDbRecordsSpec(self._query_all, ())
        return QueryArgsDbRecordsSpec(self._query_some, (spec.primary_keys,))

    def prepare_adjustment(self, spec: Any) -> PrimaryKeyIndexes.Adjustment:
        """Return an adjustment that loads only keys that were not covered."""
        self._check(spec)
        if spec.all_primary_keys:
            everything = StorageRecordsSpec("primary_key", [Interval.everything()])
            return self.Adjustment(everything, self.db_records_spec(spec), set(), cover_all=True)
        wanted = set(spec.primary_keys)
        if self._covers_all:
            key_of = self.primary_key
            others = StorageRecordsSpec(
                "primary_key",
                [Interval.everything()],
                lambda record: key_of(record) not in wanted,
            )
            return self.Adjustment(others, None, wanted, cover_all=False)
        expire = self._storage_keys(self._covered - wanted)
        return self.Adjustment(expire, self._load(wanted), wanted, cover_all=False)

    def _load(self, wanted: set[PrimaryKey]) -> DbRecordsSpec | None:
        new = tuple(wanted - self._covered)
        return QueryArgsDbRecordsSpec(self._query_some, (new,)) if new else None

    def commit_adjustment(self, adjustment: Any) -> None:
        """Take over what is covered now."""
        self._covered, self._covers_all = adjustment.primary_keys, adjustment.cover_all

    def covers(self, spec: Any) -> bool:
        """Whether all of these keys have been loaded, records that do not exist included."""
        self._check(spec)
        if self._covers_all:
            return True
        return not spec.all_primary_keys and self._covered.issuperset(spec.primary_keys)

    def reset(self) -> None:
        """Cover nothing."""
        self._covered, self._covers_all = set(), False

    def key_spec(self, *primary_keys: PrimaryKey) -> Any:
        """Return the spec of these keys."""
        return self.IndexSpec("primary_key", *primary_keys)

    def keys(self, spec: Any) -> tuple[PrimaryKey, ...] | None:
        """Return the spec's keys."""
        return None if spec.all_primary_keys else spec.primary_keys

    @property
    def everything_statement(self) -> str:
        """The query for all records."""
        return self._query_all

    def covers_record(self, record: Any) -> bool:
        """Whether the record's key is covered."""
        return self._covers_all or self.primary_key(record) in self._covered

    def combine(self, specs: Sequence[Any]) -> list[Any]:
        """Return one spec of all the keys."""
        if any(spec.all_primary_keys for spec in specs):
            return [self.IndexSpec("primary_key", all_primary_keys=True)]
        keys = dict.fromkeys(key for spec in specs for key in spec.primary_keys)
        return [self.IndexSpec("primary_key", *keys)] if keys else []

    def missing(self, spec: Any) -> tuple[Any | None, list[Any]]:
        """Split the keys into those that are covered and those that are not."""
        if spec.all_primary_keys:
            raise UnsupportedIndexOperation("which keys there are is not known")
        held = [key for key in spec.primary_keys if key in self._covered]
        rest = [key for key in spec.primary_keys if key not in self._covered]
        return (self.key_spec(*held) if held else None), [self.key_spec(*rest)] if rest else []

    def extend(self, specs: Sequence[Any]) -> Adjustment:
        """Return an adjustment that covers these keys too."""
        wanted = {key for spec in specs for key in spec.primary_keys}
        return self.Adjustment(None, self._load(wanted), self._covered | wanted, cover_all=False)

    def reduce(self, spec: Any) -> Adjustment:
        """Return an adjustment that covers these keys no longer."""
        if self._covers_all:
            raise UnsupportedIndexOperation("all keys are covered: adjust to those to keep")
        gone = set(spec.primary_keys)
        return self.Adjustment(
            self._storage_keys(gone), None, self._covered - gone, cover_all=False
        )

    def everything(self) -> Sequence[Any]:
        """Return the spec of the covered keys."""
        if self._covers_all:
            return [self.IndexSpec("primary_key", all_primary_keys=True)]
        return [self.key_spec(*self._covered)] if self._covered else []


class PrimaryKeyRangeIndexes(_OneIndex):
    """Cover a range of numeric primary keys: one index, ``primary_key``.

    ``query_range_string`` takes two arguments: the lowest key that is meant, and the lowest above
    it that is not. An adjustment expires everything and loads the whole range.

    >>> indexes = PrimaryKeyRangeIndexes(
    ...     lambda flight: flight["id"], "SELECT * FROM flights WHERE id >= $1 AND id < $2"
    ... )
    >>> indexes.IndexSpec("primary_key", ge=10, lt=20)
    records with primary keys from 10 to below 20
    """

    index_name = "primary_key"

    class IndexSpec(Indexes.IndexSpec):
        """Mean the records with keys from ``ge``, included, to ``lt``, excluded."""

        def __init__(self, index_name: str, *, ge: Real | float, lt: Real | float) -> None:
            check_index(index_name, ("primary_key",))
            super().__init__(index_name)
            self.interval = Interval(ge, lt)

        def __repr__(self) -> str:
            return f"records with primary keys from {self.interval.ge} to below {self.interval.lt}"

    class Adjustment(Adjustment):
        """Carry the intervals covered after it."""

        def __init__(
            self,
            expire_spec: StorageRecordsSpec | None,
            load_spec: DbRecordsSpec | None,
            interval: Interval,
        ) -> None:
            super().__init__(expire_spec, load_spec)
            self.interval = interval

    def __init__(self, primary_key_extractor: KeyExtractor, query_range_string: str) -> None:
        super().__init__(primary_key_extractor)
        self._query_range = query_range_string
        self._interval: Interval | None = None

    def score(self, index_name: str, record: Any) -> Score:
        """Return the primary key."""
        check_index(index_name, ("primary_key",))
        key: Any = self.primary_key(record)
        if not isinstance(key, Real) or isnan(key):
            raise TableError(f"a range index needs numbers for primary keys, not {key!r}")
        return key

    def storage_records_spec(self, spec: Any) -> StorageRecordsSpec:
        """Return the records with scores in the range."""
        self._check(spec)
        return StorageRecordsSpec("primary_key", [spec.interval])

    def db_records_spec(self, spec: Any) -> QueryArgsDbRecordsSpec:
        """Return the query for the range."""
        self._check(spec)
        return self._query(spec.interval)

    def _query(self, interval: Interval) -> QueryArgsDbRecordsSpec:
        return QueryArgsDbRecordsSpec(self._query_range, (interval.ge, interval.lt))

    def prepare_adjustment(self, spec: Any) -> PrimaryKeyRangeIndexes.Adjustment:
        """Return an adjustment that expires what is covered and loads the range."""
        self._check(spec)
        held = self._interval or Interval(0, 0)
        return self.Adjustment(
            StorageRecordsSpec("primary_key", [held]), self._query(spec.interval), spec.interval
        )

    def commit_adjustment(self, adjustment: Any) -> None:
        """Take over the range that is covered now."""
        self._interval = adjustment.interval

    def covers(self, spec: Any) -> bool:
        """Whether the range lies in the one that was loaded."""
        self._check(spec)
        return self._interval is not None and self._interval.covers(spec.interval)

    def covers_record(self, record: Any) -> bool:
        """Whether the record's key lies in the range that was loaded."""
        return self._interval is not None and self.score("primary_key", record) in self._interval

    def reset(self) -> None:
        """Cover nothing."""
        self._interval = None

    def key_spec(self, *primary_keys: PrimaryKey) -> Any:
        """Return the range of one key."""
        if len(primary_keys) != 1 or not isinstance(primary_keys[0], int):
            raise UnsupportedIndexOperation("a range index can mean one whole number at a time")
        key = primary_keys[0]
        return self.IndexSpec("primary_key", ge=key, lt=key + 1)

    def combine(self, specs: Sequence[Any]) -> list[Any]:
        """Return the ranges with those that touch made one."""
        merged = Spans.of(spec.interval for spec in specs)
        return [self.IndexSpec("primary_key", ge=one.ge, lt=one.lt) for one in merged]

    def missing(self, spec: Any) -> tuple[Any | None, list[Any]]:
        """Split the range into what is covered and what is before and behind it."""
        held = Spans.of([] if self._interval is None else [self._interval])
        inside, outside = held.split(spec.interval)
        if len(inside) > 1:
            raise UnsupportedIndexOperation("what is covered is in several pieces")
        make = self._spec
        return (make(inside[0]) if inside else None), [make(one) for one in outside]

    def extend(self, specs: Sequence[Any]) -> Adjustment:
        """Return an adjustment that covers these ranges too, if one range is what comes of it."""
        held = [] if self._interval is None else [self._interval]
        new = [spec.interval for spec in specs]
        if len(new) != 1 or len(merged := Spans.of([*held, *new])) != 1:
            raise UnsupportedIndexOperation("a range index covers one range without a gap")
        return self.Adjustment(None, self._query(new[0]), merged[0])

    def everything(self) -> Sequence[Any]:
        """Return the spec of the range that was loaded."""
        return [] if self._interval is None else [self._spec(self._interval)]

    def _spec(self, interval: Interval) -> Any:
        return self.IndexSpec("primary_key", ge=interval.ge, lt=interval.lt)
