"""Classes of the user's own in the default codec: registered by hand, never imported by name."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, TypeVar

from everfresh.errors import CodecError, ConfigurationError
from everfresh.stores.codec import register

__all__ = ["register_class"]

_CODE = 21
_known: dict[str, type] = {}

T = TypeVar("T", bound=type)


def register_class(cls: T) -> T:
    """Let the default codec carry a dataclass or an enum; usable as a decorator.

    Bytes from a shared store name the class; only one that this process registered is made from
    them. Raises `ConfigurationError` for other classes and for two of one name.

    >>> from everfresh.stores.codec import MessagePackCodec
    >>> @register_class
    ... @dataclasses.dataclass
    ... class Point:
    ...     x: int
    >>> MessagePackCodec().decode(MessagePackCodec().encode([Point(3)]))
    [Point(x=3)]
    """
    name = f"{cls.__module__}.{cls.__qualname__}"
    if not dataclasses.is_dataclass(cls) and not issubclass(cls, enum.Enum):
        raise ConfigurationError(f"{name} is neither a dataclass nor an enum")
    if _known.get(name, cls) is not cls:
        raise ConfigurationError(f"another class named {name} is registered")
    _known[name] = cls
    register(_CODE, cls, _pack, _unpack)
    return cls


def _pack(value: Any) -> list[object]:
    cls = type(value)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(value, enum.Enum):
        return [name, value.name]
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return [name, fields]


def _unpack(data: Any) -> object:
    name, content = data
    cls: Any = _known.get(name)
    if cls is None:
        raise CodecError(f"the class {name!r} is not registered here: use register_class")
    if isinstance(content, str):
        return cls[content]
    value = cls.__new__(cls)  # fields as they were: no __init__ or __post_init__ runs on them
    for field in dataclasses.fields(cls):
        object.__setattr__(value, field.name, content[field.name])
    return value
