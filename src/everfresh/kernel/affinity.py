"""How a column's database compares values: equality, order and normal forms, by dialect.

A `Domain` stands for one column's SQL comparison. Its normal form is a hashable Python value such
that two values are equal in SQL exactly if their normal forms are; what has none is `ANY`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, Protocol

__all__ = ["ANY", "Any", "Domain", "Rank", "text_order"]


class Any(Enum):
    """Type of the sentinel `ANY`."""

    ANY = "ANY"

    def __repr__(self) -> str:
        return self.value


ANY: Final = Any.ANY
"""Stands for a value whose SQL comparison cannot be foretold: it may equal anything."""

Rank = tuple[int, object]


class Domain(Protocol):
    """Compare values as one column's SQL type and collation do; frozen and hashable."""

    def normal(self, value: object) -> object:
        """Return the normal form of a value stored in the column, `ANY` if it has none."""

    def operand(self, value: object) -> object:
        """Return the normal form of a literal or parameter compared with the column."""

    def rank(self, normal: object) -> Rank | None:
        """Return a sort key of a normal form, None where the order depends on more than it."""

    def order(self, left: object, right: object) -> Literal[-1, 0, 1] | None:
        """Compare two normal forms, neither NULL; None if the order is not known."""


def text_order(left: str, right: str) -> Literal[-1, 0, 1] | None:
    r"""Compare two texts byte by byte, None if that depends on the encoding of the database.

    Every encoding orders the first 256 code points alike, UTF-16 the others by its code units.

    >>> text_order("ab", "b"), text_order("a", "a"), text_order("z", "\u20ac")
    (-1, 0, None)
    """
    for one, other in zip(left, right, strict=False):
        if one != other:
            if one > "\xff" or other > "\xff":
                return None
            return -1 if one < other else 1
    return 0 if len(left) == len(right) else -1 if len(left) < len(right) else 1
