"""Conditions as tests on one row: the truth values that each may still have.

A test returns a set of truth values as bits. The protocol's *unknown* is the full set; a row may
be left alone only if the set does not hold `TRUE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from everfresh.kernel.affinity import ANY

__all__ = [
    "ABSENT",
    "FALSE",
    "NULL",
    "TRUE",
    "UNKNOWN",
    "Always",
    "And",
    "Condition",
    "Constant",
    "IsTruth",
    "Not",
    "NullRejecting",
    "Operand",
    "Or",
    "Parameter",
    "Row",
]

TRUE: Final = 1
FALSE: Final = 2
NULL: Final = 4
UNKNOWN: Final = TRUE | FALSE | NULL
ABSENT: Final = object()

Row = Mapping[str, object]
Values = frozenset[object]


class Condition(Protocol):
    """Test a row; immutable. Before `bind` it may still name parameters."""

    def bind(self, parameters: Row) -> Condition:
        """Return the condition with these parameter values put in."""

    def test(self, row: Row) -> int:
        """Return the set of truth values the condition may have on the row."""

    def anchors(self) -> dict[str, Values]:
        """Return, by column, the normal forms one of which a row must have to pass."""


def _and(left: int, right: int) -> int:
    result = (left | right) & FALSE
    if left & TRUE and right & TRUE:
        result |= TRUE
    if (left & NULL and right & (NULL | TRUE)) or (right & NULL and left & TRUE):
        result |= NULL
    return result


def _not(value: int) -> int:
    return value & NULL | (value & TRUE) << 1 | (value & FALSE) >> 1


_AND: Final = tuple(tuple(_and(left, right) for right in range(8)) for left in range(8))
_NOT: Final = tuple(_not(value) for value in range(8))


@dataclass(frozen=True, slots=True)
class Always:
    """Have the same truth values for every row; ``Always(UNKNOWN)`` judges none."""

    values: int

    def bind(self, parameters: Row) -> Condition:
        """Return itself."""
        return self

    def test(self, row: Row) -> int:
        """Return the truth values."""
        return self.values

    def anchors(self) -> dict[str, Values]:
        """Return nothing: no column decides."""
        return {}

    def __str__(self) -> str:
        return {TRUE: "TRUE", FALSE: "FALSE", NULL: "NULL"}.get(self.values, "…")


@dataclass(frozen=True, slots=True)
class And:
    """Hold if all parts hold.

    >>> And((Always(UNKNOWN), Always(FALSE))).test({}) == FALSE
    True
    """

    parts: tuple[Condition, ...]

    def bind(self, parameters: Row) -> Condition:
        """Return the conjunction of the bound parts."""
        return And(tuple(part.bind(parameters) for part in self.parts))

    def test(self, row: Row) -> int:
        """Return the truth values by SQL's three-valued AND."""
        result = TRUE
        for part in self.parts:
            result = _AND[result][part.test(row)]
            if result == FALSE:
                break
        return result

    def anchors(self) -> dict[str, Values]:
        """Return the anchors of every part; what two parts ask of a column must both hold."""
        found: dict[str, Values] = {}
        for part in self.parts:
            for column, values in part.anchors().items():
                found[column] = found[column] & values if column in found else values
        return found

    def __str__(self) -> str:
        shown = [text for part in self.parts if (text := str(part)) != "…"]
        return " AND ".join(shown) or "…"


@dataclass(frozen=True, slots=True)
class Or:
    """Hold if one part holds."""

    parts: tuple[Condition, ...]

    def bind(self, parameters: Row) -> Condition:
        """Return the disjunction of the bound parts."""
        return Or(tuple(part.bind(parameters) for part in self.parts))

    def test(self, row: Row) -> int:
        """Return the truth values by SQL's three-valued OR."""
        result = TRUE  # of the negation, by De Morgan
        for part in self.parts:
            result = _AND[result][_NOT[part.test(row)]]
        return _NOT[result]

    def anchors(self) -> dict[str, Values]:
        """Return what all parts that can hold at all ask of one column, united."""
        open_parts = [part.anchors() for part in self.parts if not _never(part)]
        if not open_parts:
            return {}
        shared = set.intersection(*(set(anchors) for anchors in open_parts))
        return {
            column: frozenset().union(*(anchors[column] for anchors in open_parts))
            for column in shared
        }

    def __str__(self) -> str:
        shown = [str(part) for part in self.parts if not _never(part)]
        return f"({' OR '.join(shown)})" if len(shown) != 1 else shown[0]


def _never(part: Condition) -> bool:
    return isinstance(part, Always) and not part.values & TRUE


@dataclass(frozen=True, slots=True)
class Not:
    """Hold if the part is false.

    >>> Not(Always(UNKNOWN)).test({}) == UNKNOWN
    True
    """

    part: Condition

    def bind(self, parameters: Row) -> Condition:
        """Return the negation of the bound part."""
        return Not(self.part.bind(parameters))

    def test(self, row: Row) -> int:
        """Return the truth values by SQL's NOT: of unknown it is unknown."""
        return _NOT[self.part.test(row)]

    def anchors(self) -> dict[str, Values]:
        """Return nothing: a negation allows most values."""
        return {}

    def __str__(self) -> str:
        return f"NOT {self.part}"


@dataclass(frozen=True, slots=True)
class IsTruth:
    """Hold if the part has one of the given truth values: ``x IS TRUE``, ``x IS NOT FALSE``."""

    part: Condition
    among: int

    def bind(self, parameters: Row) -> Condition:
        """Return the same test of the bound part."""
        return IsTruth(self.part.bind(parameters), self.among)

    def test(self, row: Row) -> int:
        """Return true, false or both, never NULL."""
        values = self.part.test(row)
        return (TRUE if values & self.among else 0) | (FALSE if values & ~self.among else 0)

    def anchors(self) -> dict[str, Values]:
        """Return the part's anchors if the part has to be true."""
        return self.part.anchors() if self.among == TRUE else {}

    def __str__(self) -> str:
        name = {TRUE: "TRUE", FALSE: "FALSE", NULL: "UNKNOWN"}.get(self.among)
        if name:
            return f"{self.part} IS {name}"
        missing = {TRUE: "TRUE", FALSE: "FALSE", NULL: "UNKNOWN"}[UNKNOWN & ~self.among]
        return f"{self.part} IS NOT {missing}"


class _NullRow(dict[str, object]):
    def get(self, key: str, default: object = None) -> None:
        return None


_ALL_NULL: Final = _NullRow()


@dataclass(frozen=True, slots=True)
class NullRejecting:
    """Use a condition on the null-supplied side of an outer join, if it rejects the NULL row.

    Otherwise a row that fails it could still take a NULL row out of the answer.
    """

    part: Condition

    def bind(self, parameters: Row) -> Condition:
        """Return the bound condition if it cannot hold for a row of NULLs, else unknown."""
        bound = self.part.bind(parameters)
        return Always(UNKNOWN) if bound.test(_ALL_NULL) & TRUE else bound

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: only the bound condition has anchors."""
        return {}

    def __str__(self) -> str:
        return str(self.part)


class Operand(Protocol):
    """Stand for a value known once parameters are."""

    def value(self, parameters: Row) -> object:
        """Return the Python value, `ANY` if it is not known."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Stand for a literal."""

    constant: object

    def value(self, parameters: Row) -> object:
        """Return the literal's value."""
        return self.constant


@dataclass(frozen=True, slots=True)
class Parameter:
    """Stand for a bound parameter, perhaps cast or negated on its way."""

    name: str
    through: tuple[Callable[[object], object], ...] = ()

    def value(self, parameters: Row) -> object:
        """Return the parameter's value, `ANY` if it was not given."""
        value = parameters.get(self.name, ANY)
        for step in self.through:
            if value is ANY:
                break
            value = step(value)
        return value
