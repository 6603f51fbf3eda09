"""The sides of a comparison: columns, literals, parameters, and casts of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from sqlglot import exp

from everfresh.kernel.affinity import ANY
from everfresh.kernel.affinity_postgres import NAN, Family, PostgresDomain
from everfresh.kernel.affinity_sqlite import literal_number
from everfresh.kernel.predicate import Constant, Operand, Parameter
from everfresh.kernel.schema import Column

__all__ = ["Side", "constant_side"]


@dataclass(frozen=True, slots=True)
class Side:
    """Hold one side of a comparison: a column of the table, or a value known at binding.

    ``type`` is the declared type of the column, or that of a SQLite cast, which gives a value an
    affinity. ``collation`` is the one written out with COLLATE.
    """

    column: Column | None = None
    operand: Operand | None = None
    type: str | None = None
    collation: str | None = None


def constant_side(node: Any, dialect: str) -> Side | None:
    """Return the side for a literal or parameter, perhaps negated or cast; None for the rest.

    >>> constant_side(exp.Neg(this=exp.Literal.number(5)), "sqlite").operand
    Constant(constant=-5)
    """
    if isinstance(node, exp.Paren):
        return constant_side(node.this, dialect)
    if isinstance(node, exp.Neg):
        inner = constant_side(node.this, dialect)
        return None if inner is None else _through(inner, _negated)
    if isinstance(node, exp.Cast):
        return _cast(node, dialect)
    operand = _simple(node, dialect)
    return None if operand is None else Side(operand=operand)


def _simple(node: Any, dialect: str) -> Operand | None:
    if isinstance(node, exp.Placeholder):
        return Parameter(node.this) if isinstance(node.this, str) else None
    if isinstance(node, exp.Null):
        return Constant(None)
    if isinstance(node, exp.Boolean):
        return Constant(bool(node.this) if dialect == "postgresql" else int(node.this))
    if isinstance(node, exp.HexString) and dialect == "sqlite":
        return Constant(_blob(node.this))
    if isinstance(node, exp.Literal):
        return Constant(node.this if node.is_string else _number(node.this, dialect))
    return None


def _blob(digits: object) -> object:
    try:
        return bytes.fromhex(str(digits))
    except ValueError:
        return ANY


def _number(text: str, dialect: str) -> object:
    if len(text) > 40:
        return ANY
    if dialect == "sqlite":
        number = literal_number(text)
        return ANY if number is None else number
    try:
        return int(text) if text.isdigit() else Decimal(text)
    except ArithmeticError:
        return ANY


def _negated(value: object) -> object:
    if type(value) in (int, float, Decimal) and value not in (-(2**63), 0):
        return -value  # type: ignore[operator]
    return value if value is None else ANY


def _through(side: Side, step: Callable[[object], object]) -> Side:
    operand = side.operand
    if isinstance(operand, Parameter):
        return replace(side, operand=replace(operand, through=(*operand.through, step)))
    value = operand.value({}) if operand is not None else ANY
    return replace(side, operand=Constant(value if value is ANY else step(value)))


_SQLITE_CASTS: Final = {"INT": int, "INTEGER": int, "BIGINT": int, "TEXT": str, "VARCHAR": str}
_POSTGRES_CASTS: Final[dict[str, Family]] = {
    "SMALLINT": "int",
    "INT": "int",
    "BIGINT": "int",
    "DECIMAL": "numeric",
    "DOUBLE": "float8",
    "TEXT": "text",
    "VARCHAR": "text",
    "BOOLEAN": "bool",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
    "UUID": "uuid",
}


def _cast(node: exp.Cast, dialect: str) -> Side | None:
    inner = constant_side(node.this, dialect)
    to = node.args["to"]
    extra = any(value for name, value in node.args.items() if name not in ("this", "to"))
    if inner is None or extra or to.expressions or to.args.get("nested"):
        return None
    name = getattr(to.this, "name", "")
    if dialect == "sqlite":
        kind = _SQLITE_CASTS.get(name)
        if kind is None:
            return None
        return replace(_through(inner, _Only(kind)), type="TEXT" if kind is str else "INTEGER")
    family = _POSTGRES_CASTS.get(name)
    return None if family is None else _through(inner, _Into(family))


@dataclass(frozen=True, slots=True)
class _Only:
    """Let a value through that the cast leaves as it is."""

    kind: type

    def __call__(self, value: object) -> object:
        return value if value is None or type(value) is self.kind else ANY


_RESULTS: Final[dict[Family, tuple[type, ...]]] = {"int": (int,), "numeric": (int, Decimal)}


@dataclass(frozen=True, slots=True)
class _Into:
    """Cast a value to a PostgreSQL type where that loses nothing."""

    family: Family

    def __call__(self, value: object) -> object:
        result = PostgresDomain(self.family).operand(value)
        wanted = _RESULTS.get(self.family)
        if result is NAN or (wanted and result is not None and type(result) not in wanted):
            return ANY
        if type(value) is float and self.family != "float8":
            return ANY
        return result
