"""What everfresh's own processes write to a PostgreSQL that has no triggers, told through Redis.

Before its COMMIT a process notes in a stream which transaction will have changed which tables. The
database alone says which transactions have ended (`pg_current_snapshot`); one of these that nobody
noted was somebody else's, and makes everything stale. So the log need not be complete, nor in any
order, and what was noted but rolled back does no harm.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec

from everfresh.connect.breaker import Breaker
from everfresh.kernel.change import Change

__all__ = ["RedisLog"]

_LENGTH = 100_000  # transactions that the stream keeps
_REMEMBERED = 10_000  # transactions that a process keeps, in case they are asked for late
_PROOF = 16


class RedisLog:
    """Note the transactions of this process, and find those of the others.

    ``client``, ``name`` and ``breaker`` are those of the store beside it; ``key`` signs what is
    noted. What cannot be noted is somebody else's transaction to the others.
    """

    def __init__(self, client: Any, name: str, breaker: Breaker, key: bytes | None = None) -> None:
        self._client, self._stream, self._breaker = client, f"{name}:t", breaker
        self._key = key or b""
        self._last = "$"
        self._known: OrderedDict[tuple[str, int], list[Change]] = OrderedDict()

    def begin(self) -> None:
        """Read from now on."""
        with suppress(Exception):
            newest = self._client.xrevrange(self._stream, count=1)
            self._last = newest[0][0].decode() if newest else "0-0"

    def note(self, history: str, transaction: int, changes: Sequence[Change]) -> None:
        """Tell the others what a transaction will have changed; before it commits."""
        tables = [change.table for change in changes]
        body = msgspec.msgpack.encode((history, transaction, tables))
        if not self._breaker.closed:
            return
        try:
            fields = {b"b": body, b"p": self._proof(body)}
            self._client.xadd(self._stream, fields, maxlen=_LENGTH, approximate=True)
        except Exception as error:  # redis-py's, the socket's
            self._breaker.failed(f"{type(error).__name__}: {error}")

    def find(self, history: str, transactions: Iterable[int]) -> dict[int, list[Change]]:
        """Return what those of these transactions have changed that were noted."""
        wanted = set(transactions)
        if any((history, number) not in self._known for number in wanted):
            self._read()
        found = {number: self._known.get((history, number)) for number in wanted}
        return {number: changes for number, changes in found.items() if changes is not None}

    def _read(self) -> None:
        if not self._breaker.closed:
            return
        try:
            while read := self._client.xread({self._stream: self._last}, count=1000):
                for place, fields in read[0][1]:
                    self._last = place.decode()
                    self._take(fields.get(b"b", b""), fields.get(b"p", b""))
        except Exception as error:  # redis-py's, the socket's, and what a broken answer causes
            self._breaker.failed(f"{type(error).__name__}: {error}")

    def _take(self, body: bytes, proof: bytes) -> None:
        if not hmac.compare_digest(proof, self._proof(body)):
            return  # not of one of ours
        try:
            history, number, tables = _decoder.decode(body)
        except msgspec.MsgspecError:
            return
        told = [Change(table, history=history, sequence=number) for table in tables]
        self._known[history, number] = told
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _proof(self, body: bytes) -> bytes:
        return blake2b(body, digest_size=_PROOF, key=self._key).digest()


_decoder = msgspec.msgpack.Decoder(tuple[str, int, list[str | None]])
