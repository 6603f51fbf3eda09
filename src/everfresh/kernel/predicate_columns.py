"""Conditions that look at a column: comparisons, lists, NULL tests, truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from everfresh.kernel.affinity import ANY, Domain
from everfresh.kernel.interval import Interval
from everfresh.kernel.predicate import (
    ABSENT,
    FALSE,
    NULL,
    TRUE,
    UNKNOWN,
    Always,
    Condition,
    Operand,
    Row,
    Values,
)

__all__ = [
    "ColumnPair",
    "Compared",
    "Exactly",
    "IsNull",
    "Listed",
    "Member",
    "Operator",
    "Ordered",
    "Truth",
    "compared_truth",
    "truth_of",
]

Operator = Literal["=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT"]

_HOLDS: Final[dict[str, tuple[int, ...]]] = {
    "=": (0,),
    "<>": (-1, 1),
    "<": (-1,),
    "<=": (-1, 0),
    ">": (1,),
    ">=": (0, 1),
}


def compared_truth(operator: str, domain: Domain, left: object, right: object) -> int:
    """Compare two normal forms as SQL does."""
    if left is ANY or right is ANY:
        return UNKNOWN
    if operator in ("IS", "IS NOT"):
        return TRUE if (left == right) is (operator == "IS") else FALSE
    if left is None or right is None:
        return NULL
    if operator in ("=", "<>"):
        return TRUE if (left == right) is (operator == "=") else FALSE
    order = domain.order(left, right)
    if order is None:
        return UNKNOWN & ~NULL
    return TRUE if order in _HOLDS[operator] else FALSE


def _shown(value: object) -> str:
    if value is None:
        return "NULL"
    return repr(value) if isinstance(value, (str, bytes)) else str(value)


@dataclass(frozen=True, slots=True)
class Compared:
    """Compare a column with a literal or parameter; `bind` makes the test of it."""

    operator: Operator
    column: str
    domain: Domain
    operand: Operand
    anchored: bool = True  # the comparison is the column's own equality

    def bind(self, parameters: Row) -> Condition:
        """Return the test against the operand's value."""
        raw = self.operand.value(parameters)
        value = ANY if raw is ANY else self.domain.operand(raw)
        if value is ANY:
            return Always(UNKNOWN)
        if self.operator in ("IS", "IS NOT"):
            wanted = self.operator == "IS"
            return Exactly(self.column, self.domain, value, wanted, self.anchored)
        if value is None:
            return Always(NULL)
        if self.operator == "=":
            return Member(self.column, self.domain, frozenset({value}), anchored=self.anchored)
        return Ordered(self.column, self.domain, self.operator, value)

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: only the bound condition has anchors."""
        return {}


@dataclass(frozen=True, slots=True)
class Listed:
    """Look a column up in a list of literals and parameters; `bind` makes the test of it."""

    column: str
    domain: Domain
    operands: tuple[Operand, ...]
    anchored: bool = True

    def bind(self, parameters: Row) -> Condition:
        """Return the test; a parameter that is a list counts as its elements."""
        values: set[object] = set()
        for operand in self.operands:
            raw = operand.value(parameters)
            many = raw if isinstance(raw, (list, tuple, set, frozenset)) else (raw,)
            values.update(ANY if one is ANY else self.domain.operand(one) for one in many)
        if ANY in values:
            return Always(UNKNOWN)
        has_null = None in values
        values.discard(None)
        if not values:
            return Always(NULL if has_null else FALSE)
        return Member(self.column, self.domain, frozenset(values), has_null, self.anchored)

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: only the bound condition has anchors."""
        return {}


@dataclass(frozen=True, slots=True)
class _Bound:
    """Hold what the tests of one column share; nothing in them is left to bind."""

    column: str
    domain: Domain

    def bind(self, parameters: Row) -> Condition:
        """Return itself."""
        return self  # type: ignore[return-value]

    def anchors(self) -> dict[str, Values]:
        """Return nothing unless the test asks for equality."""
        return {}

    def _normal(self, row: Row) -> object:
        value = row.get(self.column, ABSENT)
        return ANY if value is ABSENT else self.domain.normal(value)


@dataclass(frozen=True, slots=True)
class Member(_Bound):
    """Hold if the column equals one of the values: ``=`` and ``IN``."""

    values: Values
    has_null: bool = False
    anchored: bool = True

    def test(self, row: Row) -> int:
        """Return the truth values of ``column IN (values)``."""
        value = self._normal(row)
        if value is ANY:
            return UNKNOWN
        if value is None:
            return NULL
        if value in self.values:
            return TRUE
        return NULL if self.has_null else FALSE

    def anchors(self) -> dict[str, Values]:
        """Return the values."""
        return {self.column: self.values} if self.anchored else {}

    def __str__(self) -> str:
        shown = sorted(_shown(value) for value in self.values)
        if len(shown) == 1 and not self.has_null:
            return f"{self.column} = {shown[0]}"
        return f"{self.column} IN ({', '.join(shown + ['NULL'] * self.has_null)})"


@dataclass(frozen=True, slots=True)
class Exactly(_Bound):
    """Hold if the column is (not) the value, NULL being a value like any other."""

    value: object
    wanted: bool
    anchored: bool = True

    def test(self, row: Row) -> int:
        """Return the truth values of ``column IS [NOT] DISTINCT FROM value``."""
        value = self._normal(row)
        if value is ANY:
            return UNKNOWN
        return TRUE if (value == self.value) is self.wanted else FALSE

    def anchors(self) -> dict[str, Values]:
        """Return the value if it is asked for."""
        wanted = self.anchored and self.wanted
        return {self.column: frozenset({self.value})} if wanted else {}

    def __str__(self) -> str:
        sign = "IS NOT DISTINCT FROM" if self.wanted else "IS DISTINCT FROM"
        return f"{self.column} {sign} {_shown(self.value)}"


@dataclass(frozen=True, slots=True)
class Ordered(_Bound):
    """Hold if the column stands in an order to the value: ``<>``, ``<``, ``<=``, ``>``, ``>=``."""

    operator: Operator
    value: object

    def test(self, row: Row) -> int:
        """Return the truth values of ``column operator value``."""
        return compared_truth(self.operator, self.domain, self._normal(row), self.value)

    def interval(self) -> Interval | None:
        """Return the ranks that can pass, None if they are not one interval."""
        rank = self.domain.rank(self.value)
        if rank is None or self.operator == "<>":
            return None
        return Interval.above(rank) if self.operator in (">", ">=") else Interval.below(rank)

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {_shown(self.value)}"


@dataclass(frozen=True, slots=True)
class ColumnPair(_Bound):
    """Hold if two columns of one row compare: ``arrived > due``."""

    operator: Operator
    other: str

    def test(self, row: Row) -> int:
        """Return the truth values of ``column operator other``."""
        value = row.get(self.other, ABSENT)
        other = ANY if value is ABSENT else self.domain.normal(value)
        return compared_truth(self.operator, self.domain, self._normal(row), other)

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.other}"


@dataclass(frozen=True, slots=True)
class IsNull:
    """Hold if the column is NULL."""

    column: str
    anchored: bool = True

    def bind(self, parameters: Row) -> Condition:
        """Return itself."""
        return self

    def test(self, row: Row) -> int:
        """Return true or false, unknown if the column is absent from the image."""
        value = row.get(self.column, ABSENT)
        if value is ABSENT or (isinstance(value, float) and math.isnan(value)):
            return UNKNOWN & ~NULL
        return TRUE if value is None else FALSE

    def anchors(self) -> dict[str, Values]:
        """Return NULL."""
        return {self.column: frozenset({None})} if self.anchored else {}

    def __str__(self) -> str:
        return f"{self.column} IS NULL"


@dataclass(frozen=True, slots=True)
class Truth:
    """Hold if the column itself does: ``WHERE active``."""

    column: str

    def bind(self, parameters: Row) -> Condition:
        """Return itself."""
        return self

    def test(self, row: Row) -> int:
        """Return the truth values of a boolean or a number; of other things unknown."""
        return truth_of(row.get(self.column, ABSENT))

    def anchors(self) -> dict[str, Values]:
        """Return nothing: many numbers are true."""
        return {}

    def __str__(self) -> str:
        return self.column


def truth_of(value: object) -> int:
    """Return the truth values of one SQL value.

    >>> truth_of(None) == NULL, truth_of(0) == FALSE, truth_of("yes") == UNKNOWN
    (True, True, True)
    """
    if value is None:
        return NULL
    if type(value) in (bool, int, float) and value == value:  # not NaN
        return TRUE if value else FALSE
    return UNKNOWN
