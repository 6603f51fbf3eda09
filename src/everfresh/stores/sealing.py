"""Entries as bytes that lie where others may write: whole, of their key, and signed."""

from __future__ import annotations

import hmac
import time
from hashlib import blake2b
from typing import Literal

from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Entry
from everfresh.kernel.ports import Clock, Codec
from everfresh.kernel.score import Gdsf, HalfLife, Policy
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.packing import pack, read, unpack

__all__ = ["Seal", "policy_on_server"]

_PROOF = 16  # bytes before a body


class Seal:
    """Turn entries into bytes and back; ``key`` signs them (BLAKE2b), and others' are refused.

    ``damaged`` counts what was not whole, not of its key or not signed with ours, ``unreadable``
    what is whole but not for this process: of another codec, or an unknown class.

    >>> seal = Seal()
    >>> blob = seal.close(Entry("a", [1, 2]))
    >>> seal.open("a", blob).value, seal.open("b", blob)
    ([1, 2], 'damaged')
    """

    def __init__(
        self,
        codec: Codec | None = None,
        key: bytes | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        if key is not None and not 16 <= len(key) <= 64:
            raise ConfigurationError("the key that values are signed with has 16 to 64 bytes")
        self.damaged = self.unreadable = 0
        self._codec: Codec = codec or ChoosingCodec()
        self._key = key or b""
        self._clock, self._wall = clock, wall

    def close(self, entry: Entry) -> bytes:
        """Return an entry as bytes; raises `CodecError` for a value the codec does not carry."""
        _, body = pack(entry, self._codec, self._wall() - self._clock())
        return self._proof(entry.key, body) + body

    def open(self, key: str, blob: bytes) -> Entry | Literal["damaged", "unreadable"]:
        """Return bytes that lay under a key as an entry, or why they are none; never raises."""
        proof, body = blob[:_PROOF], blob[_PROOF:]
        if not hmac.compare_digest(proof, self._proof(key, body)):
            self.damaged += 1
            return "damaged"
        now = self._clock()
        try:
            packed = read(body)
            value = self._codec.decode(packed.data)
        except Exception:  # whatever a decoder makes of bytes that are not meant for it
            self.unreadable += 1
            return "unreadable"
        return unpack(key, packed, value, now, self._wall() - now)

    def _proof(self, key: str, body: bytes) -> bytes:
        named = b"%d:%b:%b" % (len(key), key.encode(), body)
        return blake2b(named, digest_size=_PROOF, key=self._key).digest()


def policy_on_server(policy: Policy) -> tuple[str, str]:
    """Return the name of a policy and its growth, as the stores' servers are told them.

    >>> policy_on_server(Gdsf())
    ('gdsf', '0')
    """
    if isinstance(policy, HalfLife):
        return "half_life", repr(policy.growth)
    return ("gdsf" if isinstance(policy, Gdsf) else "lru"), "0"
