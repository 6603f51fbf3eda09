"""An entry as bytes that any shared store can keep, and back."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgspec

from everfresh.errors import CodecError
from everfresh.kernel.entry import Entry
from everfresh.kernel.mark import HistoryMark, SeenMark, SnapshotMark
from everfresh.kernel.ports import Codec

__all__ = ["Packed", "checksum", "digest_of", "pack", "read", "unpack"]


class Packed(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Hold all that a row keeps of an entry; times are wall-clock seconds."""

    kind: str
    label: str
    seen: tuple[str, str, int | str, float | None] | None  # a snapshot as PostgreSQL writes it
    filled_at: float
    cost: float
    size: int
    deadline: float | None
    parents: tuple[str, ...]
    origin: str
    reason: str
    error: bool
    hits: int
    digest: str
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Packed)


def digest_of(data: bytes) -> str:
    """Return the digest that tells whether two encoded values are the same, 40 hex characters.

    >>> digest_of(b"one") == digest_of(b"one"), len(digest_of(b"one"))
    (True, 40)
    """
    return blake2b(data, digest_size=20).hexdigest()


def checksum(key: str, body: bytes) -> int:
    """Return what tells a damaged row, or one found under another's key, from a whole one."""
    return crc32(body, crc32(key.encode()))


def pack(entry: Entry, codec: Codec, to_wall: float) -> tuple[str, bytes]:
    """Return the digest and the body of an entry's row; raises `CodecError`.

    ``to_wall`` is what the clock of the process lacks to the wall clock, in seconds.
    """
    data = codec.encode(entry.value)
    seen, deadline, digest = entry.seen, entry.deadline, digest_of(data)
    packed = Packed(
        kind=entry.kind,
        label=entry.label,
        seen=None if seen is None else _packed(seen),
        filled_at=entry.filled_at + to_wall,
        cost=entry.cost,
        size=entry.bytes,
        deadline=None if deadline is None else deadline + to_wall,
        parents=entry.parents,
        origin=entry.origin,
        reason=entry.reason,
        error=entry.error,
        hits=entry.hits,
        digest=digest,
        data=data,
    )
    try:
        return digest, _encoder.encode(packed)
    except (UnicodeError, TypeError, ValueError) as error:
        raise CodecError(f"what is known of this entry cannot be stored: {error}") from None


def _packed(seen: SeenMark) -> tuple[str, str, int | str, float | None]:
    if isinstance(seen, SnapshotMark):
        return seen.feed, seen.history, str(seen), None
    return seen.feed, seen.history, seen.position, seen.stamp


@lru_cache(256)  # what is stored at about the same time has the same mark
def _mark(seen: tuple[str, str, int | str, float | None]) -> SeenMark | None:
    feed, history, position, stamp = seen
    if isinstance(position, int):
        return HistoryMark(feed, history, position, stamp)
    try:
        return SnapshotMark.parse(feed, history, position)
    except ValueError:
        return None  # damaged: nothing is proven by it


def read(body: bytes) -> Packed:
    """Return what a row keeps; raises `CodecError` for a body that `pack` did not make."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CodecError(f"this row is damaged: {error}") from None


def unpack(key: str, packed: Packed, value: Any, now: float, to_wall: float) -> Entry:
    """Return the entry of a row on the clock of this process; it was never filled after ``now``.

    If the wall clock was set back meanwhile, the time that is left is that of a new entry.
    """
    seen = packed.seen
    filled_at = min(packed.filled_at - to_wall, now)
    deadline = packed.deadline
    if deadline is not None:
        deadline = min(deadline - to_wall, now + deadline - packed.filled_at)
    return Entry(
        key,
        value,
        packed.kind,
        packed.label,
        (),
        None,
        None if seen is None else _mark(seen),
        filled_at,
        packed.cost,
        packed.size,
        deadline,
        packed.parents,
        packed.origin,
        packed.reason,
        packed.error,
        None,
        hits=packed.hits,
    )
