"""Indexes by the attributes of records, whose queries are made from one SELECT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everfresh.errors import ConfigurationError, TableError
from everfresh.tables.byattributes import ByAttributes, Piece
from everfresh.tables.db import DbRecordsSpec, RecordParser
from everfresh.tables.indexes import Adjustment, Indexes, UnsupportedIndexOperation, check_index
from everfresh.tables.intervals import Interval, KeysRecordsSpec, StorageRecordsSpec
from everfresh.tables.ordering import BOTTOM, TOP
from everfresh.tables.queries import Queries
from everfresh.tables.spans import Spans
from everfresh.tables.types import PrimaryKey, Score

__all__ = ["AttributeIndexes"]

_KEY = "primary_key"
_AT_ONCE = 500  # parts of indexes in one query
_EVERYTHING = Interval(BOTTOM, TOP)


@dataclass(frozen=True)
class Coverage:
    """Hold what is in storage: everything, or single keys and parts of indexes.

    Parts of an index of several attributes cannot be cut: ``whole`` are the specs they come from.
    """

    everything: bool = False
    keys: frozenset[PrimaryKey] = frozenset()
    spans: Mapping[str, Spans] = field(default_factory=dict)
    whole: tuple[Any, ...] = ()

    def only(self, name: str) -> Spans | None:
        """Return the parts of this index if nothing else is covered."""
        if self.everything or self.keys or self.spans.keys() - {name}:
            return None
        return self.spans.get(name, Spans([], []))


class AttributeIndexes(Indexes):
    """Index records by their attributes; any number of indexes over the rows of one SELECT.

    ``statement`` is the SELECT without arguments that gives all records, a join or whatever it is.
    ``primary_key`` names the attribute that is the key, or several. Further keywords are indexes,
    by name; there is always one named ``primary_key``. ``dialect`` is ``"postgresql"`` or
    ``"sqlite"``. All specs are of one kind: `IndexSpec`. What is covered grows and shrinks by
    pieces, so that only what is missing is fetched.

    >>> indexes = AttributeIndexes(
    ...     "SELECT * FROM flights", "id", by_route=ByAttributes("origin", "dest"), dialect="sqlite"
    ... )
    >>> indexes.db_records_spec(indexes.IndexSpec("by_route", "JFK")).args
    ('JFK',)
    """

    class IndexSpec(Indexes.IndexSpec):
        """Mean the records with these first values, or one of some keys.

        ``ge`` and ``lt`` bound the attribute after ``values``; None is no bound, and a value that
        is NULL is within none. ``primary_keys`` are for the index ``primary_key``: keys, of which
        each is a tuple if it has several attributes. Of what is meant a read returns the first
        ``limit`` records in the order of the index, or in that order reversed.
        """

        def __init__(
            self,
            index_name: str,
            *values: Any,
            ge: Any = None,
            lt: Any = None,
            primary_keys: Sequence[PrimaryKey] | None = None,
            limit: int | None = None,
            reverse: bool = False,
        ) -> None:
            super().__init__(index_name)
            if primary_keys is not None and (values or ge is not None or lt is not None):
                raise TableError("give primary_keys, or values and bounds, not both")
            if primary_keys is not None and index_name != _KEY:
                raise TableError(f"primary_keys are of the index {_KEY!r}, not {index_name!r}")
            if limit is not None and not (type(limit) is int and limit >= 0):
                raise TableError(f"limit is a number of records, not {limit!r}")
            self.values, self.ge, self.lt = values, ge, lt
            self.primary_keys = None if primary_keys is None else tuple(primary_keys)
            self.limit, self.reverse = limit, reverse

        def __repr__(self) -> str:
            if self.primary_keys is not None:
                return f"records with primary keys {self.primary_keys}"
            shown = "".join(f" {value!r}" for value in self.values)
            low = "" if self.ge is None else f" from {self.ge!r}"
            high = "" if self.lt is None else f" to below {self.lt!r}"
            return f"records with {self.index_name}{shown}{low}{high}"

    class Adjustment(Adjustment):
        """Carry what is covered after it."""

        def __init__(
            self,
            expire_spec: StorageRecordsSpec | None,
            load_spec: DbRecordsSpec | None,
            coverage: Coverage,
        ) -> None:
            super().__init__(expire_spec, load_spec)
            self.coverage = coverage

    def __init__(
        self,
        statement: str,
        primary_key: str | Sequence[str],
        *,
        dialect: str = "postgresql",
        record_parser: RecordParser | None = None,
        **indexes: ByAttributes,
    ) -> None:
        names = (primary_key,) if isinstance(primary_key, str) else tuple(primary_key)
        if _KEY in indexes:
            raise ConfigurationError(f"the index {_KEY!r} is made from the argument of that name")
        self._by = {_KEY: ByAttributes(*names), **indexes}
        for name, by in self._by.items():
            if not isinstance(by, ByAttributes):
                raise ConfigurationError(f"the index {name!r} must be a ByAttributes, not {by!r}")
        self.statement = statement
        self._key = self._by[_KEY]
        self._single = len(names) == 1
        self._queries = Queries(statement, dialect, record_parser)
        self._coverage = Coverage()
        self._names = frozenset(self._by)

    # the scorer -------------------------------------------------------------------------

    @property
    def index_names(self) -> frozenset[str]:
        """Names of the indexes, ``primary_key`` among them."""
        return self._names

    def score(self, index_name: str, record: Any) -> Score:
        """Return the places of the record's attributes in this index."""
        check_index(index_name, self._by)
        return self._by[index_name].score(record)

    def primary_key(self, record: Any) -> PrimaryKey:
        """Return the attribute that is the key, or a tuple of them."""
        values = self._key.values(record)
        return values[0] if self._single else values

    @property
    def everything_statement(self) -> str:
        """The SELECT that the indexes are of."""
        return self.statement

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Names of the columns that are the primary key."""
        return self._key.columns

    # specs --------------------------------------------------------------------------------

    def storage_records_spec(self, spec: Any) -> StorageRecordsSpec:
        """Return the scores that the spec means."""
        keys = self.keys(spec)
        if keys is not None:
            return self._storage_keys(keys)
        return StorageRecordsSpec(spec.index_name, [self._piece(spec).interval])

    def _storage_keys(self, keys: Sequence[PrimaryKey] | frozenset[PrimaryKey]) -> KeysRecordsSpec:
        wanted, key_of = frozenset(keys), self.primary_key
        pieces = {self._key_piece(key).interval for key in wanted}
        return KeysRecordsSpec(
            _KEY,
            sorted(pieces, key=lambda one: one.ge),
            lambda record: key_of(record) in wanted,
            wanted,
        )

    def db_records_spec(self, spec: Any) -> DbRecordsSpec:
        """Return the query for what the spec means; its limit is not of the query."""
        return self._load([spec])

    def db_records_specs(self, specs: Sequence[Any]) -> list[DbRecordsSpec]:
        """Return one query for every few hundred specs."""
        return [self._load(specs[at : at + _AT_ONCE]) for at in range(0, len(specs), _AT_ONCE)]

    def _load(self, specs: Sequence[Any]) -> DbRecordsSpec:
        keys = dict.fromkeys(key for one in specs for key in self.keys(one) or ())
        pieces = [self._piece(one) for one in specs if self.keys(one) is None]
        if any(not piece.values and piece.next in (None, _EVERYTHING) for piece in pieces):
            return self._queries.all()
        return self._queries.some(self._key.columns, list(keys), pieces)

    def _piece(self, spec: Any) -> Piece:
        if isinstance(spec, _Part):
            return Piece(self._by[spec.index_name], (), spec.interval)
        check_index(spec.index_name, self._by)
        return self._by[spec.index_name].piece(spec.values, spec.ge, spec.lt)

    def _key_piece(self, key: PrimaryKey) -> Piece:
        values: Any = (key,) if self._single else key
        return self._key.piece(values, None, None)

    def keys(self, spec: Any) -> tuple[PrimaryKey, ...] | None:
        """Return the keys that the spec means, None if it means records otherwise."""
        if spec.index_name != _KEY:
            return None
        if spec.primary_keys is not None:
            return spec.primary_keys  # type: ignore[no-any-return]
        if spec.ge is not None or spec.lt is not None or len(spec.values) != len(self._key.paths):
            return None
        return spec.values if self._single else (spec.values,)

    def key_spec(self, *primary_keys: PrimaryKey) -> Any:
        """Return the spec of these keys."""
        return self.IndexSpec(_KEY, primary_keys=primary_keys)

    def combine(self, specs: Sequence[Any]) -> list[Any]:
        """Return all keys as one spec, and parts of one index that touch as one."""
        keys = dict.fromkeys(key for one in specs for key in self.keys(one) or ())
        others = [one for one in specs if self.keys(one) is None]
        combined = [self.key_spec(*keys)] if keys else []
        return [*combined, *others]

    # coverage -----------------------------------------------------------------------------

    def covers(self, spec: Any) -> bool:
        """Whether the keys, or the part of the index, have been loaded."""
        held = self._coverage
        keys = self.keys(spec)
        if keys is None:
            interval = self._piece(spec).interval
            return held.everything or self._spans(spec.index_name).covers(interval)
        if held.everything or held.keys.issuperset(keys):
            return True
        return all(map(self._covers_key, keys))

    def _covers_key(self, key: PrimaryKey) -> bool:
        held = self._coverage
        if held.everything or key in held.keys:
            return True
        spans = self._spans(_KEY)
        return bool(spans) and spans.covers(self._key_piece(key).interval)

    def reset(self) -> None:
        """Cover nothing."""
        self._coverage = Coverage()

    def covers_record(self, record: Any) -> bool:
        """Whether the record lies in something that is covered."""
        return self._within(self._coverage, record)

    def _within(self, held: Coverage, record: Any) -> bool:
        return (
            held.everything
            or self.primary_key(record) in held.keys
            or any(spans.holds(self._by[name].score(record)) for name, spans in held.spans.items())
        )

    def _spans(self, name: str) -> Spans:
        return self._coverage.spans.get(name, _NOTHING)

    def missing(self, spec: Any) -> tuple[Any | None, list[Any]]:
        """Split keys, or a part of an index of one attribute, into what is covered and what not."""
        keys = self.keys(spec)
        if keys is not None:
            kept = [key for key in keys if self._covers_key(key)]
            rest = [key for key in keys if not self._covers_key(key)]
            return (self.key_spec(*kept) if kept else None), [self.key_spec(*rest)] if rest else []
        piece = self._piece(spec)
        inside, outside = self._spans(spec.index_name).split(piece.interval)
        if not inside or not self._divisible(spec.index_name):
            return None, [spec]
        name = spec.index_name
        held = _Part(name, inside[0]) if len(inside) == 1 else None
        return held, [_Part(name, one) for one in outside]

    # adjustments ----------------------------------------------------------------------------

    def prepare_adjustment(self, spec: Any) -> AttributeIndexes.Adjustment:
        """Return an adjustment to what the spec means, that loads what is not there yet."""
        held, target = self._coverage, self._grown(Coverage(), [spec])
        if target.everything:
            return self.Adjustment(self._not_in(Coverage()), self._queries.all(), target)
        keys = self.keys(spec)
        if keys is not None:
            new = [key for key in keys if not self._covers_key(key)]
            load = self._load([self.key_spec(*new)]) if new else None
            return self.Adjustment(self._not_in(target), load, target)
        name, before = spec.index_name, held.only(spec.index_name)
        if before is None or not self._divisible(name):
            load = None if self.covers(spec) else self._load([spec])
            return self.Adjustment(self._not_in(target), load, target)
        expire = StorageRecordsSpec(name, list(before - target.spans[name]))
        parts = [_Part(name, one) for one in target.spans[name] - before]
        return self.Adjustment(expire, self._load(parts) if parts else None, target)

    def commit_adjustment(self, adjustment: Any) -> None:
        """Take over what is covered now."""
        self._coverage = adjustment.coverage

    def extend(self, specs: Sequence[Any]) -> Adjustment:
        """Return an adjustment that covers these too."""
        new = [spec for spec in specs if not self.covers(spec)]
        load = self._load(new) if new else None
        return self.Adjustment(None, load, self._grown(self._coverage, specs))

    def reduce(self, spec: Any) -> Adjustment:
        """Return an adjustment that covers the spec no longer."""
        held = self._coverage
        if held.everything:
            raise UnsupportedIndexOperation("everything is covered: adjust to what to keep")
        meant, name = self.storage_records_spec(spec), spec.index_name
        spans, whole = dict(held.spans), held.whole
        if not self._divisible(name):
            whole = tuple(one for one in whole if not _same(one, spec))
            if len(whole) == len(held.whole):
                raise UnsupportedIndexOperation(
                    f"{spec!r} is not one of the parts that are covered"
                )
            left_of = [self._piece(one).interval for one in whole if one.index_name == name]
            spans[name] = Spans.of(left_of)
        else:
            spans[name] = self._spans(name) - meant.score_intervals
        left = Coverage(keys=held.keys - set(self.keys(spec) or ()), spans=spans, whole=whole)
        within = meant.recheck_predicate
        expire = StorageRecordsSpec(
            name,
            meant.score_intervals,
            lambda record: within(record) and not self._within(left, record),
        )
        return self.Adjustment(expire, None, left)

    def _divisible(self, name: str) -> bool:
        return len(self._by[name].paths) == 1

    def everything(self) -> Sequence[Any]:
        """Return specs of all that is covered."""
        held = self._coverage
        if held.everything:
            return [self.IndexSpec(_KEY)]
        keyed = [self.key_spec(*held.keys)] if held.keys else []
        divisible = [(name, spans) for name, spans in held.spans.items() if self._divisible(name)]
        parts = [_Part(name, one) for name, spans in divisible for one in spans]
        return [*keyed, *parts, *held.whole]

    def _grown(self, held: Coverage, specs: Sequence[Any]) -> Coverage:
        keys: set[PrimaryKey] = set()
        spans, whole = dict(held.spans), held.whole
        for spec in specs:
            some = self.keys(spec)
            if some is not None:
                keys.update(some)
                continue
            piece = self._piece(spec)
            if not piece.values and piece.next in (None, _EVERYTHING):
                return Coverage(everything=True)
            name = spec.index_name
            spans[name] = spans.get(name, _NOTHING) | [piece.interval]
            if not self._divisible(name):
                whole = (*whole, spec)
        return Coverage(held.everything, held.keys | keys if keys else held.keys, spans, whole)

    def _not_in(self, target: Coverage) -> StorageRecordsSpec:
        return StorageRecordsSpec(
            _KEY, [self._whole(_KEY)], lambda record: not self._within(target, record)
        )

    def _whole(self, name: str) -> Interval:
        return Piece(self._by[name], (), None).interval


_NOTHING = Spans([], [])


def _same(one: Any, other: Any) -> bool:
    return all(
        getattr(one, name, None) == getattr(other, name, None)
        for name in ("index_name", "values", "ge", "lt", "primary_keys")
    )


class _Part(Indexes.IndexSpec):
    """Mean a part of an index by its scores; made here, where pieces are cut."""

    values = ()
    ge = lt = primary_keys = limit = None
    reverse = False

    def __init__(self, index_name: str, interval: Interval) -> None:
        super().__init__(index_name)
        self.interval = interval

    def __repr__(self) -> str:
        return f"records of {self.index_name} from {self.interval.ge} to below {self.interval.lt}"
