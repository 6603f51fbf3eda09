"""What ties storage and database together: indexes, and what they cover.

The document's part of an index (`Indexes`) is what a program of its own may subclass. The methods
after ``covers`` are hooks that a subclass may leave alone; the ready-made indexes have them, and
with them a table can do more: read by key, fetch only what is missing, refresh in few statements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from everfresh.errors import EverfreshError, TableError
from everfresh.tables.db import DbRecordsSpec
from everfresh.tables.intervals import StorageRecordsSpec
from everfresh.tables.types import PrimaryKey, Score

__all__ = ["Adjustment", "Indexes", "RecordScorer", "UnsupportedIndexOperation"]


class UnsupportedIndexOperation(EverfreshError, NotImplementedError):  # noqa: N818
    """Represent an operation that an index does not support."""


class Adjustment:
    """Say which records to expire and which to load, either of which may be None.

    Subclasses may look at the records by `observe_expired` and `observe_loaded`; a record may be
    shown more than once.
    """

    def __init__(
        self, expire_spec: StorageRecordsSpec | None, load_spec: DbRecordsSpec | None
    ) -> None:
        self.expire_spec = expire_spec
        self.load_spec = load_spec

    def __repr__(self) -> str:
        return f"an adjustment that expires {self.expire_spec} and loads {self.load_spec}"

    def observe_expired(self, record: Any) -> None:
        """Look at a record that is about to be expired."""

    def observe_loaded(self, record: Any) -> None:
        """Look at a record that is about to be loaded."""


class RecordScorer(ABC):
    """Know a record's primary key and its place in each index."""

    @property
    @abstractmethod
    def index_names(self) -> frozenset[str]:
        """Names of the indexes."""

    @abstractmethod
    def score(self, index_name: str, record: Any) -> Score:
        """Return where the record stands in an index; raises ValueError for what has no place."""

    @abstractmethod
    def primary_key(self, record: Any) -> PrimaryKey:
        """Return the record's primary key; raises ValueError if it has none."""


class Indexes(RecordScorer):
    """Translate what is asked for into specs for storage and database; know what is in storage."""

    class IndexSpec:
        """Mean a set of records by one index; subclasses add arguments."""

        def __init__(self, index_name: str) -> None:
            self.index_name = index_name

        def __repr__(self) -> str:
            return f"all records of the index {self.index_name!r}"

    @abstractmethod
    def storage_records_spec(self, spec: Any) -> StorageRecordsSpec:
        """Return which records of the storage are meant."""

    @abstractmethod
    def db_records_spec(self, spec: Any) -> DbRecordsSpec:
        """Return which records of the database are meant."""

    @abstractmethod
    def prepare_adjustment(self, spec: Any) -> Adjustment:
        """Return what to do so that just these records are in storage; changes nothing."""

    @abstractmethod
    def commit_adjustment(self, adjustment: Adjustment) -> None:
        """Note that an adjustment was done: `covers` answers accordingly from here on."""

    @abstractmethod
    def covers(self, spec: Any) -> bool:
        """Whether the records meant, those that do not exist included, are in storage.

        It may be False where that is not certain.
        """

    # hooks --------------------------------------------------------------------

    def reset(self) -> None:
        """Cover nothing: the storage was emptied."""

    @property
    def everything_statement(self) -> str | None:
        """The SELECT without parameters whose rows are all the records there can be."""
        return None

    @property
    def key_columns(self) -> tuple[str, ...] | None:
        """Names of the columns of that SELECT that are the primary key, None if not known."""
        return None

    def key_spec(self, *primary_keys: PrimaryKey) -> Any:
        """Return the spec of the records with these primary keys.

        Raises `UnsupportedIndexOperation` where none of the indexes is by primary key.
        """
        raise UnsupportedIndexOperation("these indexes cannot mean records by their primary key")

    def keys(self, spec: Any) -> tuple[PrimaryKey, ...] | None:
        """Return the primary keys that the spec means, None if it means records otherwise."""
        return None

    def covers_record(self, record: Any) -> bool | None:
        """Whether the record, as it is, belongs into storage; None if that cannot be told."""
        return None

    def combine(self, specs: Sequence[Any]) -> list[Any]:
        """Return fewer specs that mean the same records together."""
        return list(specs)

    def db_records_specs(self, specs: Sequence[Any]) -> list[DbRecordsSpec]:
        """Return what to get from the database for several specs, in few queries if possible."""
        return [self.db_records_spec(spec) for spec in specs]

    def missing(self, spec: Any) -> tuple[Any | None, list[Any]]:
        """Split a spec into what is covered and specs of what is not.

        The first is None where nothing is covered, or what is cannot be meant by one spec. Raises
        `UnsupportedIndexOperation` where the parts cannot be told apart.
        """
        raise UnsupportedIndexOperation("what is missing cannot be told")

    def extend(self, specs: Sequence[Any]) -> Adjustment:
        """Return an adjustment that covers these too, and expires nothing."""
        raise UnsupportedIndexOperation("these indexes cannot cover more piece by piece")

    def reduce(self, spec: Any) -> Adjustment:
        """Return an adjustment that covers these no longer, and loads nothing."""
        raise UnsupportedIndexOperation("these indexes cannot cover less piece by piece")

    def everything(self) -> Sequence[Any]:
        """Return specs of all that is covered now."""
        raise UnsupportedIndexOperation("these indexes cannot say what they cover")

    def matches(self, spec: Any, record: Any) -> bool:
        """Whether the spec means this record."""
        meant = self.storage_records_spec(spec)
        score = self.score(meant.index_name, record)
        inside = any(one.ge <= score < one.lt for one in meant.score_intervals)
        return inside and bool(meant.recheck_predicate(record))


def check_index(name: str, known: Iterable[str]) -> None:
    """Raise ValueError unless the index exists."""
    if name not in known:
        raise TableError(f"there is no index {name!r}: use one of {', '.join(sorted(known))}")
