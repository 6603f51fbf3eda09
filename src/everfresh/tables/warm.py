"""Keep a table's records in a file, for the next process: they are proven before they are used."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from everfresh.engine.following import PackedMark
from everfresh.errors import CodecError

__all__ = ["Saved", "read", "write"]

_MAGIC = b"everfresh table 1\n"


class Saved(msgspec.Struct, array_like=True):
    """Hold what a file says: of which table and spec, when, and the records as they were then."""

    statement: str
    columns: tuple[str, ...]
    spec: str
    mark: PackedMark
    kind: str
    records: bytes


def pack(records: Sequence[Any]) -> tuple[str, bytes]:
    """Return the kind of records and the records as bytes; raises `CodecError` if they change.

    Dictionaries and tuples of plain values, dataclasses and msgspec Structs can be kept.
    """
    kind = _kind(type(records[0])) if records else ""
    try:
        data = msgspec.msgpack.encode(list(records))
        if unpack(kind, data, type(records[0]) if records else None) == list(records):
            return kind, data
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise CodecError(f"these records cannot be kept in a file: {error}") from error
    raise CodecError("these records cannot be kept in a file: they come back as something else")


def unpack(kind: str, data: bytes, record: type | None) -> list[Any]:
    """Return records of this kind; raises `CodecError` if ``record`` is not the class they had."""
    if kind in ("", "dict"):
        return msgspec.msgpack.decode(data)  # type: ignore[no-any-return]
    if kind == "tuple":
        return [tuple(one) for one in msgspec.msgpack.decode(data)]
    if record is None or _kind(record) != kind:
        raise CodecError(f"the file has records of {kind}, which this table has not")
    return msgspec.msgpack.decode(data, type=list[record])  # type: ignore[valid-type]


def _kind(record: type) -> str:
    if record in (dict, tuple):
        return record.__name__
    if issubclass(record, msgspec.Struct) or dataclasses.is_dataclass(record):
        return f"{record.__module__}.{record.__qualname__}"
    raise CodecError(f"records of {record.__name__} cannot be kept in a file")


def write(path: Path, saved: Saved) -> None:
    """Put a file in place, whole or not at all."""
    body = msgspec.msgpack.encode(saved)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.blake2b(body, digest_size=20).digest() + body)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def read(path: Path) -> Saved | None:
    """Return what a file holds, None if there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + 20
    body = data[start:]
    digest = hashlib.blake2b(body, digest_size=20).digest()
    if data[:start] != _MAGIC + digest:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Saved)
    except msgspec.MsgspecError:
        return None
