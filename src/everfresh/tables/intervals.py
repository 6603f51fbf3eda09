"""Which records of a storage are meant: intervals of scores in one index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, nextafter
from typing import Any, overload

from everfresh.errors import TableError
from everfresh.tables.types import PrimaryKey, RecheckPredicate, Score

__all__ = ["ExactIntervals", "Interval", "KeysRecordsSpec", "StorageRecordsSpec"]

_EXACT = 2**53  # from here on a float has no room between whole numbers


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold the scores from ``ge``, included, to ``lt``, excluded.

    Raises ValueError if ``ge`` is above ``lt``; equal ends make an interval that holds nothing.

    >>> 2 in Interval(1, 3), 3 in Interval(1, 3)
    (True, False)
    """

    ge: Score
    lt: Score

    def __post_init__(self) -> None:
        if not self.ge <= self.lt:
            raise TableError(f"the bounds are not in order: {self.ge!r} is above {self.lt!r}")

    @staticmethod
    def everything() -> Interval:
        """Return the interval of all finite numbers.

        >>> 10**400 in Interval.everything()
        True
        """
        return _EVERYTHING

    @staticmethod
    def only_containing(value: Score) -> Interval:
        """Return the interval that holds this number and no other that a score can be.

        >>> 2**60 + 1 in Interval.only_containing(2**60)
        False
        """
        if isinstance(value, int) and not -_EXACT < value < _EXACT:
            return Interval(value, value + 1)  # a float would reach beyond the next whole number
        return Interval(value, nextafter(value, inf))

    def __contains__(self, score: Score) -> bool:
        return bool(self.ge <= score < self.lt)

    def intersects(self, other: Interval) -> bool:
        """Whether some score lies in both.

        >>> Interval(1, 3).intersects(Interval(3, 4))
        False
        """
        _check(other)
        return bool(max(self.ge, other.ge) < min(self.lt, other.lt))

    def covers(self, other: Interval) -> bool:
        """Whether every score of the other lies in this one, as for one that is empty.

        Raises TypeError for what is no interval.

        >>> Interval(1, 3).covers(Interval(2, 3)), Interval(1, 3).covers(Interval(7, 7))
        (True, True)
        """
        _check(other)
        return bool(other.ge == other.lt or (self.ge <= other.ge and other.lt <= self.lt))


def _check(other: object) -> None:
    if not isinstance(other, Interval):
        raise TypeError(f"an Interval is needed, not {type(other).__name__}")


_EVERYTHING = Interval(-inf, inf)


class ExactIntervals(Sequence[Interval]):
    """Hold one interval for each of some scores, made when somebody looks at one.

    A storage that finds records by key does not: then a million keys cost nothing here.
    """

    def __init__(self, scores: Callable[[], Iterable[Score]]) -> None:
        self._scores = scores
        self._made: list[Interval] | None = None

    def _intervals(self) -> list[Interval]:
        if self._made is None:
            self._made = [Interval.only_containing(one) for one in sorted(set(self._scores()))]
        return self._made

    @overload
    def __getitem__(self, place: int) -> Interval: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Interval]: ...
    def __getitem__(self, place: int | slice) -> Interval | Sequence[Interval]:
        return self._intervals()[place]

    def __iter__(self) -> Iterator[Interval]:
        return iter(self._intervals())

    def __len__(self) -> int:
        return len(self._intervals())


def always_use_record(_: object) -> bool:
    """Take every record."""
    return True


@dataclass(frozen=True)
class StorageRecordsSpec:
    """Mean the records whose score in one index lies in one of the intervals.

    ``recheck_predicate`` is asked of each of these, where scores alone cannot tell. Raises
    ValueError if intervals overlap; they may touch.

    >>> StorageRecordsSpec("price", [Interval(0, 2), Interval(2, 3)]).index_name
    'price'
    """

    index_name: str
    score_intervals: Sequence[Interval]
    recheck_predicate: RecheckPredicate = always_use_record

    def __post_init__(self) -> None:
        held = [one for one in self.score_intervals if one.ge != one.lt]
        held.sort(key=lambda one: one.ge)
        if any(one.lt > other.ge for one, other in pairwise(held)):
            raise TableError(f"intervals of the index {self.index_name!r} overlap")

    always_use_record = staticmethod(always_use_record)

    @property
    def rechecks(self) -> bool:
        """Whether the predicate can leave out a record."""
        return self.recheck_predicate is not always_use_record


@dataclass(frozen=True)
class KeysRecordsSpec(StorageRecordsSpec):
    """Mean the records with these primary keys; a storage may look them up without any index."""

    primary_keys: frozenset[PrimaryKey] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        """Check nothing: intervals of single scores do not overlap."""


def held_by(intervals: Sequence[Interval], score: Any) -> bool:
    """Whether one of the intervals holds the score."""
    return any(interval.ge <= score < interval.lt for interval in intervals)
