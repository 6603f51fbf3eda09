"""PostgreSQL's comparisons, for the types whose equality can be told in Python."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Final, Literal
from uuid import UUID

from everfresh.kernel.affinity import ANY, Rank, text_order
from everfresh.kernel.schema import Column

__all__ = ["NAN", "PostgresDomain", "column_domain", "family_of", "pair_domain"]

Family = Literal[
    "int",
    "numeric",
    "float8",
    "float4",
    "text",
    "bpchar",
    "bool",
    "date",
    "timestamp",
    "timestamptz",
    "uuid",
    "bytea",
]

NAN: Final = ("NaN",)
"""Normal form of NaN, which PostgreSQL holds equal to itself and greater than all numbers."""

_FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(("smallint", "integer", "int", "bigint", "int2", "int4", "int8"), "int"),
    **dict.fromkeys(("numeric", "decimal"), "numeric"),
    **dict.fromkeys(("double precision", "float8", "float", "double"), "float8"),
    **dict.fromkeys(("real", "float4"), "float4"),
    **dict.fromkeys(("text", "character varying", "varchar"), "text"),
    **dict.fromkeys(("character", "char", "bpchar"), "bpchar"),
    **dict.fromkeys(("boolean", "bool"), "bool"),
    "date": "date",
    **dict.fromkeys(("timestamp", "timestamp without time zone"), "timestamp"),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), "timestamptz"),
    "uuid": "uuid",
    "bytea": "bytea",
}
_BYTEWISE = frozenset({"C", "POSIX", "ucs_basic"})
_DETERMINISTIC = _BYTEWISE | {"default", "pg_c_utf8", "unicode"}
_EXACT: Final = 2**53  # every integer up to it is a double of its own

_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ISO_TIME = re.compile(_ISO_DATE.pattern + r"[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class PostgresDomain:
    """Compare as PostgreSQL does within one family of types.

    >>> PostgresDomain("numeric").normal(Decimal("6.00")) == PostgresDomain("numeric").operand(6)
    True
    >>> PostgresDomain("bpchar").normal("ab   ")
    'ab'
    """

    family: Family
    bytewise: bool = False  # text under the collations "C" and "POSIX"

    def normal(self, value: object) -> object:
        """Return the normal form of a stored value."""
        if value is None:
            return None
        return _STORED[self.family](value)

    def operand(self, value: object) -> object:
        """Return the normal form of a literal or of a parameter as the driver binds it."""
        if value is None:
            return None
        return _OPERANDS.get(self.family, _STORED[self.family])(value)

    def rank(self, normal: object) -> Rank | None:
        """Return a sort key; None for texts under a collation."""
        if normal is NAN:
            return (1, 0)
        if isinstance(normal, str):
            return (0, normal) if self.bytewise and normal.isascii() else None
        return (0, normal)

    def order(self, left: object, right: object) -> Literal[-1, 0, 1] | None:
        """Compare two normal forms."""
        if isinstance(left, str) and isinstance(right, str):
            return text_order(left, right) if self.bytewise else None
        one, other = self.rank(left), self.rank(right)
        if one is None or other is None:
            return None
        return 0 if one == other else -1 if one < other else 1


def _int(value: object) -> object:
    if type(value) is int:
        return value
    if type(value) is str and _INTEGER.fullmatch(value):
        return int(value)
    return ANY


def _numeric(value: object) -> object:
    if type(value) is Decimal:
        if value.is_nan():
            return NAN
        return value
    if type(value) is str and _DECIMAL.fullmatch(value):
        return Decimal(value)
    return _int(value)


def _int_operand(value: object) -> object:
    if type(value) is float:
        # against bigint PostgreSQL rounds the column to a double: alike below 2**53 only
        return value if abs(value) < _EXACT else ANY
    return _numeric(value)


def _float8(value: object) -> object:
    if type(value) is int:
        return float(value) if abs(value) <= _EXACT else ANY
    if type(value) is float:
        return NAN if value != value else value  # NaN differs from itself
    number = _numeric(value)
    if number is NAN or not isinstance(number, (int, Decimal)):
        return number
    rounded = float(number)
    return ANY if rounded in (float("inf"), float("-inf")) else rounded


def _float4(value: object) -> object:
    # drivers read 0.1::float4 as 0.1 or as 0.10000000149011612: both mean the float4
    number = _float8(value)
    if not isinstance(number, float):
        return number
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return ANY


def _float4_operand(value: object) -> object:
    # an operand is compared as a double, or rounded first if it came without a type
    return exact if (exact := _float4(value)) == _float8(value) else ANY


def _text(value: object) -> object:
    return value if type(value) is str else ANY


def _bpchar(value: object) -> object:
    return value.rstrip(" ") if type(value) is str else ANY


def _bpchar_operand(value: object) -> object:
    # 'a ' as text differs from 'a'::char(2), as char it does not
    return value if type(value) is str and not value.endswith(" ") else ANY


def _bool(value: object) -> object:
    if type(value) is str:
        return {"t": True, "true": True, "f": False, "false": False}.get(value.lower(), ANY)
    return value if type(value) is bool else ANY


def _date(value: object) -> object:
    if type(value) is str and _ISO_DATE.fullmatch(value):
        return _parsed(date.fromisoformat, value)
    return value if type(value) is date else ANY


def _timestamp(value: object) -> object:
    if type(value) is str and _ISO_TIME.fullmatch(value):
        return _parsed(datetime.fromisoformat, value)
    if type(value) is datetime and value.tzinfo is None:
        return value.replace(fold=0)
    return ANY


def _timestamp_operand(value: object) -> object:
    if type(value) is date:
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - SQL's naive midnight
    if type(value) is str and _ISO_DATE.fullmatch(value):
        return _parsed(datetime.fromisoformat, value)
    return _timestamp(value)


def _timestamptz(value: object) -> object:
    if type(value) is datetime and value.utcoffset() is not None:
        try:
            return value.astimezone(UTC)
        except OverflowError:
            return ANY
    return ANY


def _uuid(value: object) -> object:
    if type(value) is str and _UUID.fullmatch(value):
        return UUID(value)
    return value if type(value) is UUID else ANY


def _bytea(value: object) -> object:
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else ANY


def _parsed(parse: Callable[[str], object], value: str) -> object:
    try:
        return parse(value)
    except (ValueError, InvalidOperation):
        return ANY


_STORED: Final[dict[Family, Callable[[object], object]]] = {
    "int": _int,
    "numeric": _numeric,
    "float8": _float8,
    "float4": _float4,
    "text": _text,
    "bpchar": _bpchar,
    "bool": _bool,
    "date": _date,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "uuid": _uuid,
    "bytea": _bytea,
}
_OPERANDS: Final[dict[Family, Callable[[object], object]]] = {
    "int": _int_operand,
    "float4": _float4_operand,
    "bpchar": _bpchar_operand,
    "timestamp": _timestamp_operand,
}


def family_of(declared: str) -> Family | None:
    """Return the family of a type by its PostgreSQL name, None if it is not one of ours.

    >>> family_of("character varying(20)"), family_of("TIMESTAMP(3) WITH TIME ZONE")
    ('text', 'timestamptz')
    """
    if "[" in declared or '"' in declared:
        return None
    name = " ".join(re.sub(r"\([^)]*\)", " ", declared.lower()).split())
    return _FAMILIES.get(name)


def column_domain(column: Column) -> PostgresDomain | None:
    """Return how a column compares, None if that is not known."""
    family = family_of(column.type)
    if family is None:
        return None
    collation = column.collation or "default"
    if family in ("text", "bpchar") and collation not in _DETERMINISTIC:
        return None
    return PostgresDomain(family, family == "text" and collation in _BYTEWISE)


def pair_domain(left: Column, right: Column, collation: str | None = None) -> PostgresDomain | None:
    """Return how two columns compare with each other, None unless they are of one kind."""
    one, other = column_domain(left), column_domain(right)
    if collation is not None or one is None or other is None:
        return None
    if {one.family, other.family} == {"int", "numeric"}:
        return PostgresDomain("numeric")
    return one if one == other else None
