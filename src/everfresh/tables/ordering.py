"""Scores of any attribute: an order that has a place for None, for NaN and for falling orders."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import total_ordering
from typing import Any

from everfresh.tables.types import Score

__all__ = [
    "ABOVE_NULL",
    "BELOW_NULL",
    "BOTTOM",
    "MIDDLE",
    "NULL",
    "NULL_LAST",
    "TOP",
    "After",
    "Falling",
    "Limit",
    "place",
    "unplace",
]

_NEGATED = (int, float, Decimal, Fraction, timedelta)


class Limit:
    """Stand below or above all values, in the order of ``rank``; values have the rank 0."""

    __slots__ = ("name", "rank")

    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self.rank = rank

    def __lt__(self, other: object) -> bool:
        return self.rank < _rank(other)

    def __le__(self, other: object) -> bool:
        return self.rank <= _rank(other)

    def __gt__(self, other: object) -> bool:
        return self.rank > _rank(other)

    def __ge__(self, other: object) -> bool:
        return self.rank >= _rank(other)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return hash((Limit, self.rank))

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name


def _rank(other: object) -> float:
    if isinstance(other, After):
        return _rank(other.value) + 0.5 if isinstance(other.value, Limit) else 0
    return other.rank if isinstance(other, Limit) else 0


BOTTOM = Limit("BOTTOM", -9)
NULL = Limit("NULL", -2)
ABOVE_NULL = Limit("ABOVE_NULL", -1)
NAN = Limit("NAN", 1)
# in falling orders
NAN_FIRST = Limit("NAN_FIRST", -1)
BELOW_NULL = Limit("BELOW_NULL", 1)
NULL_LAST = Limit("NULL_LAST", 2)
TOP = Limit("TOP", 9)
MIDDLE = Limit("MIDDLE", 0)
"""Where the values are, among the limits."""


class After:
    """Stand right behind a value, before all that is larger: ``[v, After(v))`` holds only v.

    >>> 3 < After(3) < 3.1
    True
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < (other.value if isinstance(other, After) else other))

    def __gt__(self, other: Any) -> bool:
        if isinstance(other, After):
            return bool(other.value < self.value)
        return not self.value < other

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, After) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((After, self.value))

    def __repr__(self) -> str:
        return f"After({self.value!r})"


@total_ordering
class Falling:
    """Hold a value that sorts before smaller ones.

    >>> Falling("b") < Falling("a")
    True
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: object) -> bool:
        return bool(other.value < self.value) if isinstance(other, Falling) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Falling) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((Falling, self.value))

    def __repr__(self) -> str:
        return f"Falling({self.value!r})"


def place(value: Any, *, falling: bool = False) -> Score:
    """Return what stands for an attribute's value in a score.

    None comes first and NaN last, in falling orders the other way round, as in PostgreSQL with
    ``NULLS FIRST`` and SQLite.

    >>> sorted([place(3), place(None), place(1)])
    [NULL, 1, 3]
    >>> sorted([place(n, falling=True) for n in (3, None, 1)])
    [-3, -1, NULL_LAST]
    """
    if value is None:
        return NULL_LAST if falling else NULL
    if value != value:
        return NAN_FIRST if falling else NAN
    if not falling:
        return value
    return -value if isinstance(value, _NEGATED) else Falling(value)


def unplace(score: Score) -> Any:
    """Return the value that has this place in a falling order."""
    return score.value if isinstance(score, Falling) else -score
