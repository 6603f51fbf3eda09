"""A store in PostgreSQL, for those who have that server and want no other."""

from __future__ import annotations

import builtins
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import log

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from everfresh.connect.redis import shown
from everfresh.connect.wire import Row, conninfo
from everfresh.connect.wires import SCHEMA, Wires
from everfresh.errors import ConfigurationError, ConnectionFailedError, StoreUnavailableError
from everfresh.kernel.closing import Closing
from everfresh.kernel.entry import Entry
from everfresh.kernel.ports import Clock, Codec
from everfresh.kernel.score import HalfLife, Policy
from everfresh.stores.limits import check_limit, check_size
from everfresh.stores.postgres_sql import made
from everfresh.stores.sealing import Seal, policy_on_server

__all__ = ["PostgresStore"]

_TOUCH_LOG = 4096  # as in memory
_PAGE = 100  # entries read at once by `entries`


class PostgresStore(Closing):
    """Keep entries in a PostgreSQL, at most ``max_bytes`` over all processes.

    ``url`` names the database, in whose schema ``everfresh_store`` the tables are made; ``name``
    tells stores of one database apart. Unless they are ``logged``, which costs the server more,
    they are empty after a crash. The rest is as in `stores.redis.RedisStore`.
    """

    def __init__(
        self,
        url: str,
        max_bytes: int = 1 << 30,
        policy: Policy | None = None,
        codec: Codec | None = None,
        *,
        name: str = "everfresh",
        key: builtins.bytes | None = None,
        logged: bool = False,
        timeout: float = 2.0,
        lease: float = 10.0,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        check_limit(max_bytes)
        try:
            self.parameters = conninfo(make_url(url))
        except (ArgumentError, ValueError):
            raise ConfigurationError(f"{shown(url)} is no URL of a PostgreSQL") from None
        self.max_bytes = max_bytes
        self.seal = Seal(codec, key, clock, wall)
        self.url, self.name, self.lease = url, name, lease
        self._wires = Wires(self.parameters, timeout, made(logged=logged))
        self._policy = policy_on_server(policy or HalfLife())
        self._log: deque[str] = deque(maxlen=_TOUCH_LOG)

    # reading ------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """Return the entry, None if it is absent, damaged or cannot be read; never raises."""
        found = self._read("encode(body, 'hex')", "AND key = $2", key)
        entry = self._entry(key, found[0][0]) if found else None
        if entry is not None:
            self._log.append(key)
        return entry

    def entries(self) -> Iterable[Entry]:
        """Yield what is kept, as far as it can be read."""
        last, page = "", f'AND key COLLATE "C" > $2 ORDER BY key COLLATE "C" LIMIT {_PAGE}'
        while rows := self._read("encode(body, 'hex'), key", page, last):
            for body, key in rows:
                last = key or ""
                entry = self._entry(last, body)
                if entry is not None:
                    yield entry

    @property
    def bytes(self) -> int:
        """Bytes held now, by the entries' own count; 0 when the server cannot be asked."""
        found = self._read("coalesce(sum(bytes), 0)")
        return int(found[0][0] or 0) if found else 0

    def __len__(self) -> int:
        found = self._read("count(*)")
        return int(found[0][0] or 0) if found else 0

    @property
    def trouble(self) -> str | None:
        """Why the server could not be used when it was last tried, None if it could."""
        return self._wires.breaker.reason

    def _read(self, what: str, where: str = "", *given: str) -> list[Row]:
        with suppress(StoreUnavailableError):
            return self._ask(f"SELECT {what} FROM {SCHEMA}.kept WHERE store = $1 {where}", *given)
        return []

    # writing ------------------------------------------------------------------

    def put(self, entry: Entry, token: int | None = None) -> Sequence[Entry]:
        """Keep an entry in place of the one with its key; return those that went for room.

        Those come without their values. With a ``token`` it is kept only while that is the newest
        for its key: else the entry itself is returned. Raises `ValueTooLargeError`, `CodecError`
        and `StoreUnavailableError`; nothing has changed then.
        """
        check_size(entry, self.max_bytes)
        blob = self.seal.close(entry).hex()
        density = log(max(entry.cost, 1e-9)) - log(max(entry.bytes, 1))
        fence = None if token is None else str(token)
        self.flush()
        gone = self._ask(
            f"SELECT unnest(CASE WHEN put IS NULL THEN ARRAY[$4] ELSE put END)"
            f" FROM {SCHEMA}.put_1($1, $2, $3, $4, decode($5, 'hex'), $6, $7, $8, $9) put",
            *(*self._policy, entry.key, blob, str(entry.bytes), repr(density)),
            *(str(self.max_bytes), fence),
        )
        return [entry if key == entry.key else Entry(key or "", None) for (key,) in gone]

    def discard(self, key: str) -> Entry | None:
        """Forget a key; return what was kept. Raises `StoreUnavailableError`."""
        found = self._forget(key)
        return self._entry(key, found[0][0], forget=False) if found else None

    def clear(self) -> None:
        """Forget every key. Raises `StoreUnavailableError`."""
        self._ask(f"DELETE FROM {SCHEMA}.kept WHERE store = $1")

    def shrink(self, max_bytes: int) -> Sequence[Entry]:
        """Let the lowest ranks go until this many bytes are left; return them, without values."""
        gone = self._ask(f"SELECT unnest({SCHEMA}.shrink_1($1, $2, NULL))", str(max_bytes))
        return [Entry(key or "", None) for (key,) in gone]

    def flush(self) -> None:
        """Tell the server which entries were asked for; forget it if that cannot be done."""
        keys = []
        with suppress(IndexError):
            while self._log:
                keys.append(self._log.popleft())
        if keys:
            array = "{" + ",".join(f'"{key}"' for key in keys if key.isalnum()) + "}"
            with suppress(StoreUnavailableError):
                self._ask(f"SELECT {SCHEMA}.touch_1($1, $2, $3, $4)", *self._policy, array)

    def close(self) -> None:
        """Tell what was asked for and let go of the connections; what is kept stays."""
        self.flush()
        self._wires.close()

    # the server ---------------------------------------------------------------

    def _ask(self, statement: str, *given: str | None) -> list[Row]:
        try:
            with self._wires.lend() as wire:
                return wire.rows(statement, self.name, *given, prepare=True)
        except ConnectionFailedError as error:
            raise StoreUnavailableError(f"{shown(self.url)} cannot be used now: {error}") from error

    def _entry(self, key: str, body: str | None, *, forget: bool = True) -> Entry | None:
        """Return bytes as an entry; what is damaged, forged or of another key is let go of."""
        found = self.seal.open(key, builtins.bytes.fromhex(body or ""))
        if found == "damaged" and forget:
            with suppress(StoreUnavailableError):
                self._forget(key, body or "")
        return found if isinstance(found, Entry) else None

    def _forget(self, key: str, *body: str) -> list[Row]:
        same = "AND body = decode($3, 'hex')" if body else ""
        return self._ask(
            f"DELETE FROM {SCHEMA}.kept WHERE store = $1 AND key = $2 {same}"
            " RETURNING encode(body, 'hex')",
            *(key, *body),
        )
