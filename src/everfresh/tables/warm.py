"""Keep a table's records in a file, for the next process: they are proven before they are used."""

from __future__ import annotations

import asyncio
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
from everfresh.errors import CodecError, ConfigurationError
from everfresh.tables.db import DbAccess
from everfresh.tables.following import Follower
from everfresh.tables.upkeep import Upkeep

__all__ = ["WarmCopy"]

_MAGIC = b"everfresh table 1\n"


class Saved(msgspec.Struct, array_like=True):
    """Hold what a file says: of which table and spec, when, and the records as they were then."""

    statement: str
    columns: tuple[str, ...]
    spec: str
    mark: PackedMark
    kind: str
    records: bytes


class WarmCopy:
    """Read and write the copy of one table, which follows a feed."""

    def __init__(self, path: str | Path, follower: Follower | None, db: DbAccess) -> None:
        if follower is None:
            raise ConfigurationError("a file can be proven by a feed only: give cache= with warm=")
        self._path = Path(path)
        self._follower = follower
        self._record: type | None = getattr(db, "record", None)

    async def records(self, spec: Any) -> list[Any] | None:
        """Return the records of the file, if they are those meant and it is told what changed."""
        saved = await asyncio.to_thread(read, self._path)
        if saved is None or (saved.statement, saved.columns) != self._follower.identity:
            return None
        if saved.spec != repr(spec):
            return None
        try:
            records = await asyncio.to_thread(unpack, saved.kind, saved.records, self._record)
        except (CodecError, ValueError):
            return None
        return records if await self._follower.catch_up(saved.mark) else None

    async def save(self, upkeep: Upkeep) -> bool:
        """Write the file; return whether what is kept could be proven."""
        async with upkeep.lock:
            mark = await self._follower.seen()
            if mark is None or self._follower.committing:
                return False
            await upkeep.refresh()  # all that the mark has seen was marked here
            snapshot, spec = upkeep.snapshot, repr(upkeep.spec)
        if snapshot is None:
            return False
        records = list(snapshot.records())
        await asyncio.to_thread(self._write, spec, mark, records)
        return True

    def _write(self, spec: str, mark: PackedMark, records: list[Any]) -> None:
        kind, data = pack(records)
        write(self._path, Saved(*self._follower.identity, spec, mark, kind, data))


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
