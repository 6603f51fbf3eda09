"""Keys: a canonical, typed, role-tagged digest of what was asked.

Every value is written as a tag, a length and a payload, so that no two different values share an
encoding (the encoding is prefix-free), and the bytes are hashed with BLAKE2b-160 (RFC 7693).
Nothing depends on `hash()`, on `repr()` or on memory addresses: a key is the same in every process.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from hashlib import blake2b
from pathlib import PurePath
from typing import Any
from uuid import UUID

from everfresh.errors import UnkeyableError

__all__ = ["PLAIN", "canonical", "digest", "plain_digest"]

_MAX_DEPTH = 100  # far above what people nest by hand; four frames of the stack each

Path = tuple[Any, object] | None


def digest(kind: str, **roles: object) -> str:
    """Return the key of what was asked: 40 hexadecimal characters.

    ``kind`` names the family (``"sql"``, ``"call"``); each role's name is part of the key, so
    equal values in other roles give other keys. Raises `UnkeyableError`, naming the place, for a
    value of an unknown type or one that contains itself.

    >>> digest("sql", statement="SELECT 1", parameters={})
    '8f6fcca84bb5b601a480d1ea1310673d1e978070'
    >>> digest("call", args=(1,)) == digest("call", args=(True,))
    False
    """
    return blake2b(canonical((kind, roles)), digest_size=20).hexdigest()


PLAIN = frozenset({int, str, bool, bytes, type(None)})
"""Types whose equal values, given the same exact type, are the same: no -0.0, zones or contents."""


def plain_digest(prefix: str, values: Mapping[str, object]) -> str | None:
    """Return the key of named values of the types in `PLAIN`; None if there are others.

    For these types `repr` is exact and canonical, and four times as fast as `canonical`.

    >>> plain_digest("a", {"m": 1}) == plain_digest("a", {"m": True})
    False
    >>> plain_digest("a", {"m": 1.0}) is None
    True
    """
    if not all(type(value) in PLAIN for value in values.values()):
        return None
    try:
        text = f"{prefix}{sorted(values.items(), key=_name_of)!r}"
    except ValueError:  # an integer of more digits than the interpreter prints
        return None
    return blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=20, person=b"plain"
    ).hexdigest()


def canonical(value: object) -> bytes:
    """Return the canonical bytes of a value; equal bytes mean the same type and the same value.

    Dictionaries and sets are written in the order of their elements' bytes, lists and tuples in
    their own. Raises `UnkeyableError`.

    >>> canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
    True
    >>> canonical(1) == canonical(1.0)
    False
    """
    try:
        return _Encoder().encode(value, None)
    except RecursionError:
        raise UnkeyableError("the value is nested too deeply for the stack that is left") from None


class _Encoder:
    """Write one value; remembers the containers on the way down to refuse cycles."""

    def __init__(self) -> None:
        self._above: set[int] = set()

    def encode(self, value: object, path: Path) -> bytes:
        cls = type(value)
        atom = _ATOMS.get(cls)
        if atom is not None:
            return atom(value)
        return self._encode_nested(value, cls, path)

    def _encode_nested(self, value: object, cls: type, path: Path) -> bytes:
        if id(value) in self._above:
            raise UnkeyableError(f"{_where(path)} contains itself ({_name(cls)}): it has no key")
        if len(self._above) >= _MAX_DEPTH:
            raise UnkeyableError(f"{_where(path)} is nested more than {_MAX_DEPTH} deep")
        self._above.add(id(value))
        try:
            return self._encode_container(value, cls, path)
        finally:
            self._above.discard(id(value))

    def _encode_container(self, value: Any, cls: type, path: Path) -> bytes:
        if cls is tuple or cls is list:
            return _frame(cls.__name__, self._items(value, path))
        if cls is dict:
            return _frame("dict", sorted(self._pairs(value.items(), path)))
        if cls is set or cls is frozenset:
            return _frame(cls.__name__, sorted(self._items(value, path)))
        hook = getattr(cls, "__everfresh_key__", None)
        if hook is not None:
            return _frame("hook", [_text(_name(cls)), self.encode(hook(value), path)])
        return self._encode_class(value, cls, path)

    def _encode_class(self, value: Any, cls: type, path: Path) -> bytes:
        if isinstance(value, enum.Enum):
            member = value.name or self.encode(value.value, path)  # a Flag may have no name
            parts = [_text(member) if isinstance(member, str) else member]
        elif dataclasses.is_dataclass(value):
            fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            parts = self._pairs(fields, path)
        elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
            parts = self._pairs(zip(cls._fields, value, strict=True), path)
        elif hasattr(cls, "__struct_fields__"):
            parts = self._pairs(((n, getattr(value, n)) for n in cls.__struct_fields__), path)
        elif isinstance(value, PurePath):
            parts = [_text(str(value))]
        else:
            return _frame("foreign", self._foreign(value, cls, path))
        return _frame("class", [_text(_name(cls)), *parts])

    def _foreign(self, value: Any, cls: type, path: Path) -> list[bytes]:
        """Write numpy and Arrow values, when those libraries are what made them."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
            if value.dtype.hasobject:
                raise UnkeyableError(f"{_where(path)} is a numpy array of objects: make it a list")
            shape = self.encode(tuple(value.shape), path)
            return [_text("numpy"), _text(value.dtype.str), shape, value.tobytes()]
        arrow = sys.modules.get("pyarrow")
        if arrow is not None and isinstance(value, arrow.Scalar):
            return [_text("arrow"), _text(str(value.type)), self.encode(value.as_py(), path)]
        raise UnkeyableError(
            f"{_where(path)} is of type {_name(cls)}, which has no canonical form for a key. Pass "
            f"a plain value, or give the class a method __everfresh_key__() that returns one."
        )

    def _items(self, items: Iterable[object], path: Path) -> list[bytes]:
        return [self.encode(item, (path, n)) for n, item in enumerate(items)]

    def _pairs(self, pairs: Iterable[tuple[object, object]], path: Path) -> list[bytes]:
        return [
            _joined(self.encode(name, (path, name)), self.encode(item, (path, name)))
            for name, item in pairs
        ]


def _joined(name: bytes, item: bytes) -> bytes:
    return len(name).to_bytes(8, "big") + name + item


def _where(path: Path) -> str:
    """Write a path out; it is kept as a linked list because it is needed for errors only."""
    steps = []
    while path is not None:
        path, step = path
        steps.append(f"[{step!r}]")
    return "value" + "".join(reversed(steps))


def _name_of(pair: tuple[str, object]) -> str:
    return pair[0]


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _frame(tag: str, parts: Iterable[bytes]) -> bytes:
    out = bytearray(tag.encode())
    out += b"("
    for part in parts:
        out += len(part).to_bytes(8, "big")
        out += part
    out += b")"
    return bytes(out)


def _text(value: str) -> bytes:
    # surrogatepass: lone surrogates come out of os.fsdecode and must not raise
    return b"str:" + value.encode("utf-8", "surrogatepass")


def _zone(zone: tzinfo | None) -> str:
    if zone is None:
        return ""
    name = getattr(zone, "key", None)  # zoneinfo.ZoneInfo
    if name is not None:
        return f"zone:{name}"
    if isinstance(zone, timezone):
        return f"offset:{zone.utcoffset(None)}"
    raise UnkeyableError(
        f"the time zone {zone!r} of type {_name(type(zone))} has no canonical form: use "
        f"zoneinfo.ZoneInfo or datetime.timezone"
    )


def _moment(value: datetime | time) -> bytes:
    text = value.replace(tzinfo=None).isoformat()
    return f"{type(value).__name__}:{text}:{value.fold}:{_zone(value.tzinfo)}".encode()


def _float(value: float) -> bytes:
    return b"float:nan" if value != value else b"float:" + value.hex().encode()


def _decimal(value: Decimal) -> bytes:
    return f"decimal:{value.as_tuple()}".encode()


_ATOMS: Mapping[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"none",
    type(...): lambda _: b"ellipsis",
    bool: lambda v: b"bool:1" if v else b"bool:0",
    int: lambda v: b"int:%x" % v,
    float: _float,
    complex: lambda v: b"complex:" + _float(v.real) + b"," + _float(v.imag),
    str: _text,
    bytes: lambda v: b"bytes:" + v,
    bytearray: lambda v: b"bytearray:" + bytes(v),
    memoryview: lambda v: b"memoryview:" + v.format.encode() + b":" + v.tobytes(),
    Decimal: _decimal,
    Fraction: lambda v: b"fraction:%x/%x" % (v.numerator, v.denominator),
    datetime: _moment,
    time: _moment,
    date: lambda v: b"date:" + v.isoformat().encode(),
    timedelta: lambda v: b"timedelta:%d,%d,%d" % (v.days, v.seconds, v.microseconds),
    UUID: lambda v: b"uuid:" + v.bytes,
    range: lambda v: b"range:%x,%x,%x" % (v.start, v.stop, v.step),
}
