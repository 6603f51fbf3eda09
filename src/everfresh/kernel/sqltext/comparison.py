"""How the two sides of a comparison compare."""

from __future__ import annotations

from typing import cast

from everfresh.kernel import affinity_postgres, affinity_sqlite
from everfresh.kernel.affinity import Domain
from everfresh.kernel.predicate import Constant
from everfresh.kernel.schema import Column
from everfresh.kernel.sqltext.operands import Side

__all__ = ["column_domain", "compared_domain", "swapped"]


def column_domain(column: Column, dialect: str) -> Domain | None:
    """Return how the values of a column compare, None if that is not known.

    >>> column_domain(Column("month", "INTEGER"), "sqlite")
    SqliteDomain(affinity='NUMERIC', collation='BINARY')
    """
    module = affinity_sqlite if dialect == "sqlite" else affinity_postgres
    return cast("Domain | None", module.column_domain(column))


def compared_domain(dialect: str, left: Side, right: Side) -> Domain | None:
    """Return how two sides compare, None if that is not known."""
    collation = left.collation or right.collation
    if dialect == "sqlite":
        return affinity_sqlite.pair_domain(_as_column(left), _as_column(right), collation)
    if collation is not None:
        return None
    if left.column is not None and right.column is not None:
        return affinity_postgres.pair_domain(left.column, right.column)
    if left.column is not None:
        return affinity_postgres.column_domain(left.column)
    return _fixed_domain(left, right)


def swapped(left: Side, right: Side) -> tuple[Side, Side]:
    """Change the sides, but for the collation: the one written first wins.

    Expects a side without a column on the left, one with a column on the right.
    """
    left, right = right, left
    if left.collation is None or right.collation is None:
        return left, right
    return Side(left.column, left.operand, left.type, right.collation), right


def _as_column(side: Side) -> Column | None:
    if side.column is not None or side.type is None:
        return side.column
    return Column("", side.type)


def _fixed_domain(left: Side, right: Side) -> Domain | None:
    """Return how two values compare on PostgreSQL if both are plain integers."""
    for side in (left, right):
        if not isinstance(side.operand, Constant) or type(side.operand.constant) is not int:
            return None
    return affinity_postgres.PostgresDomain("int")
