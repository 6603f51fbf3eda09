"""SQLite's comparisons: affinity, storage classes and the built-in collations."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from everfresh.kernel.affinity import ANY, Any, Rank, text_order
from everfresh.kernel.schema import Column

__all__ = ["SqliteDomain", "affinity", "column_domain", "literal_number", "pair_domain"]

Affinity = Literal["NUMERIC", "TEXT", "NONE"]

_NUMBER = re.compile(
    r"[ \t\n\v\f\r]*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?)[ \t\n\v\f\r]*"
)
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})


def affinity(declared: str) -> Affinity | None:
    """Return the affinity of a declared type, None where it depends on the table being STRICT.

    INTEGER, REAL and NUMERIC compare alike (https://sqlite.org/datatype3.html, section 3.1).

    >>> affinity("VARCHAR(20)"), affinity("BIGINT"), affinity(""), affinity("DATE")
    ('TEXT', 'NUMERIC', 'NONE', 'NUMERIC')
    """
    name = declared.upper()
    if name == "ANY":
        return None
    if "INT" in name:
        return "NUMERIC"
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not name or "BLOB" in name:
        return "NONE"
    return "NUMERIC"


@dataclass(frozen=True, slots=True)
class SqliteDomain:
    """Compare as SQLite does under one affinity and one built-in collation.

    >>> SqliteDomain("NUMERIC").normal(" 6.0 ") == SqliteDomain("NUMERIC").normal(6)
    True
    >>> SqliteDomain("TEXT", "NOCASE").operand("June")
    'june'
    """

    affinity: Affinity
    collation: str = "BINARY"

    def normal(self, value: object) -> object:
        """Return the normal form of a stored value."""
        kind = type(value)
        if value is None:
            return None
        if kind is bool or kind is int:
            return self._number(int(value))  # type: ignore[call-overload]
        if kind is float:
            return self._float(value)  # type: ignore[arg-type]
        if kind is str:
            return self._text(value)  # type: ignore[arg-type]
        if kind in (bytes, bytearray, memoryview):
            return bytes(value)  # type: ignore[call-overload]
        return ANY

    def operand(self, value: object) -> object:
        """Return the normal form of a literal or of a parameter as the driver binds it."""
        if type(value) is date:
            return self._text(value.isoformat())
        if type(value) is Decimal:
            number = float(value)
            return self._float(number) if math.isfinite(number) else ANY
        return self.normal(value)

    def rank(self, normal: object) -> Rank | None:
        """Return a sort key: numbers before texts before blobs."""
        if isinstance(normal, str):
            return (1, normal) if normal.isascii() else None
        if isinstance(normal, bytes):
            return (2, normal)
        return (0, normal) if isinstance(normal, (int, float)) else None

    def order(self, left: object, right: object) -> Literal[-1, 0, 1] | None:
        """Compare two normal forms by storage class, then by value."""
        if isinstance(left, str) and isinstance(right, str):
            return text_order(left, right)
        one, other = _class(left), _class(right)
        if one != other:
            return -1 if one < other else 1
        if left == right:
            return 0
        return -1 if left < right else 1  # type: ignore[operator]

    def _number(self, value: int) -> object:
        if not -(2**63) <= value < 2**63:
            return ANY
        # numbers compared with a TEXT column become text first
        return str(value) if self.affinity == "TEXT" else value

    def _float(self, value: float) -> object:
        if math.isnan(value):
            return None  # SQLite binds and stores NaN as NULL
        # how many digits a float gets as text differs between versions of SQLite
        return ANY if self.affinity == "TEXT" else value

    def _text(self, value: str) -> object:
        if self.affinity == "NUMERIC":
            number = literal_number(value)
            if number is not None:
                return number
        if self.collation == "NOCASE":
            # SQLite's NOCASE stops at a NUL character
            return ANY if "\0" in value else value.translate(_LOWER)
        return value.rstrip(" ") if self.collation == "RTRIM" else value


def literal_number(text: str) -> int | float | Any | None:
    """Return the number SQLite makes of a text, None if it is none, `ANY` if rounding is in play.

    Up to 15 digits and a power of ten up to 22 convert exactly in every version.

    >>> literal_number(" 6.50 "), literal_number("0x10"), literal_number("1e999")
    (6.5, None, ANY)
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    number, exponent = match.group(1), match.group(2)
    if number.lstrip("+-").isdigit():
        value = int(number) if len(number) < 30 else 2**63
        return value if -(2**63) <= value < 2**63 else ANY
    digits = re.sub(r"[eE].*|[^0-9]", "", number).lstrip("0")
    fraction = len(re.sub(r"[eE].*", "", number).partition(".")[2])
    power = (int(exponent) if len(exponent) < 6 else 9999) if exponent else 0
    if len(digits) > 15 or abs(power) > 22 or abs(power - fraction) > 22:
        return ANY
    return float(number)


def column_domain(column: Column) -> SqliteDomain | None:
    """Return how a column compares, None if that is not known."""
    return _domain(affinity(column.type), column.collation)


def pair_domain(
    left: Column | None, right: Column | None, collation: str | None = None
) -> SqliteDomain | None:
    """Return how two sides compare; None for a side without affinity, a plain literal.

    Affinity is applied to the other side only by numbers, or to a side that has none at all
    (`sqlite3CompareAffinity`). The left column's collation comes first.

    >>> text, number = Column("t", "TEXT"), Column("n", "INT")
    >>> pair_domain(text, None).affinity, pair_domain(text, number).affinity
    ('TEXT', 'NUMERIC')
    >>> pair_domain(text, Column("x")).affinity
    'NONE'
    """
    sides = [affinity(side.type) for side in (left, right) if side is not None]
    if None in sides:
        return None
    chosen: Affinity | None = "NUMERIC" if "NUMERIC" in sides else "NONE"
    if len(sides) == 1:
        chosen = sides[0]
    # the left column decides even when its collation is the default one; a cast is no column
    columns = [side for side in (left, right) if side is not None and side.name]
    return _domain(chosen, collation or (columns[0].collation if columns else None))


def _domain(kind: Affinity | None, collation: str | None) -> SqliteDomain | None:
    name = (collation or "BINARY").upper()
    if kind is None or name not in _COLLATIONS:
        return None
    return SqliteDomain(kind, name)


def _class(normal: object) -> int:
    return 1 if isinstance(normal, str) else 2 if isinstance(normal, bytes) else 0
