"""A store in Redis or Valkey, shared by many processes on many machines."""

from __future__ import annotations

import builtins
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from math import log
from typing import Any, TypeVar

from everfresh.connect.breaker import Breaker
from everfresh.connect.redis import connect, shown
from everfresh.errors import (
    EverfreshError,
    StoreUnavailableError,
)
from everfresh.kernel.closing import Closing
from everfresh.kernel.entry import Entry
from everfresh.kernel.ports import Clock, Codec
from everfresh.kernel.score import HalfLife, Policy
from everfresh.stores import redis_scripts as scripts
from everfresh.stores.limits import check_limit, check_size
from everfresh.stores.sealing import Seal, policy_on_server

__all__ = ["RedisStore"]

_TOUCH_LOG = 4096  # as in memory
_PAGE = 100  # entries read at once by `entries`
_LIFE = 30 * 86_400  # seconds after which what the server forgot the counts of goes by itself

T = TypeVar("T")


class RedisStore(Closing):
    """Keep entries in a Redis (6.2 or newer) or a Valkey, at most ``max_bytes`` over all processes.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``; ``name`` tells stores of one server
    apart. ``policy`` ranks as in memory, on the server. ``key`` is a secret with which values are
    signed (BLAKE2b): what was written without it is absent. ``timeout`` limits the wait for one
    answer, ``lease`` is after how long a dead process holds up nobody, in seconds. Safe to use
    from any number of threads. A got entry has no ``sources``.

    A cache part never fails its caller: `get` gives None when the server cannot be asked, and what
    is damaged counts as absent. `put`, `discard` and `clear` raise `StoreUnavailableError` then,
    and nothing has changed. A server that failed is left alone for a moment, then tried again.
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
        timeout: float = 0.5,
        lease: float = 10.0,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        check_limit(max_bytes)
        self.max_bytes = max_bytes
        self.seal = Seal(codec, key, clock, wall)
        self.url, self.name = url, f"{{{name}}}"
        self.client: Any = connect(url, timeout=timeout)
        self.breaker = Breaker()
        self.lease = lease
        self._policy = policy_on_server(policy or HalfLife())
        self._log: deque[str] = deque(maxlen=_TOUCH_LOG)
        self._scripts = {text: self.client.register_script(text) for text in _TEXTS}

    # reading ------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """Return the entry, None if it is absent, damaged or cannot be read; never raises."""
        breaker = self.breaker
        if not breaker.closed:
            return None
        try:  # not through `ask`: its calls would cost a tenth of all that is ours here
            blob = self.client.get(f"{self.name}:e:{key}")
        except Exception as error:  # redis-py's, the socket's, and those of a broken answer
            breaker.failed(f"{type(error).__name__}: {error}")
            return None
        if breaker.reason is not None:
            breaker.worked()
        if blob is None:
            return None
        entry = self._entry(key, blob)
        if entry is not None:
            self._log.append(key)
        return entry

    def entries(self) -> Iterable[Entry]:
        """Yield what is kept, as far as it can be read."""
        try:
            known = self.ask(lambda: self.client.hkeys(self._of("m")))
        except StoreUnavailableError:
            return
        keys = sorted(key.decode(errors="replace") for key in known)
        for start in range(0, len(keys), _PAGE):
            yield from self._page(keys[start : start + _PAGE])

    def _page(self, keys: Sequence[str]) -> Iterator[Entry]:
        names = [f"{self.name}:e:{key}" for key in keys]
        with suppress(StoreUnavailableError):
            for key, blob in zip(keys, self.ask(lambda: self.client.mget(names)), strict=True):
                entry = None if blob is None else self._entry(key, blob)
                if entry is not None:
                    yield entry
                elif blob is None:  # the server let it go by itself
                    self._forget(key)

    @property
    def bytes(self) -> int:
        """Bytes held now, by the entries' own count; 0 when the server cannot be asked."""
        with suppress(StoreUnavailableError):
            return int(self.ask(lambda: self.client.hget(self._of("c"), "bytes")) or 0)
        return 0

    def __len__(self) -> int:
        with suppress(StoreUnavailableError):
            return int(self.ask(lambda: self.client.hlen(self._of("m"))))
        return 0

    @property
    def trouble(self) -> str | None:
        """Why the server could not be used when it was last tried, None if it could."""
        return self.breaker.reason

    # writing ------------------------------------------------------------------

    def put(self, entry: Entry, token: int | None = None) -> Sequence[Entry]:
        """Keep an entry in place of the one with its key; return those that went for room.

        Those come without their values. With a ``token`` it is kept only while that is the newest
        for its key: else the entry itself is returned. Raises `ValueTooLargeError`, `CodecError`
        and `StoreUnavailableError`; nothing has changed then.
        """
        check_size(entry, self.max_bytes)
        blob = self.seal.close(entry)
        density = log(max(entry.cost, 1e-9)) - log(max(entry.bytes, 1))
        fence = "" if token is None else str(token)
        self.flush()
        given = (entry.key, blob, entry.bytes, repr(density), self.max_bytes, _LIFE, fence)
        gone = self.run(scripts.PUT, *self._policy, *given)
        if gone is None:
            return [entry]
        keys = [key.decode(errors="replace") for key in gone]
        return [entry if key == entry.key else Entry(key, None) for key in keys]

    def discard(self, key: str) -> Entry | None:
        """Forget a key; return what was kept. Raises `StoreUnavailableError`."""
        blob = self.run(scripts.DISCARD, *self._policy, key)
        return None if blob is None else self._entry(key, blob)

    def clear(self) -> None:
        """Forget every key. Raises `StoreUnavailableError`."""
        self.run(scripts.CLEAR, *self._policy)

    def shrink(self, max_bytes: int) -> Sequence[Entry]:
        """Let the lowest ranks go until this many bytes are left; return them, without values."""
        gone = self.run(scripts.SHRINK, *self._policy, max_bytes)
        return [Entry(key.decode(errors="replace"), None) for key in gone]

    def flush(self) -> None:
        """Tell the server which entries were asked for; forget it if that cannot be done."""
        keys = []
        with suppress(IndexError):
            while self._log:
                keys.append(self._log.popleft())
        if keys:
            with suppress(EverfreshError):
                self.run(scripts.TOUCH, *self._policy, *keys)

    def close(self) -> None:
        """Tell what was asked for and let go of the connections; what is kept stays."""
        self.flush()
        self.client.close()

    # the server ---------------------------------------------------------------

    def ask(self, call: Callable[[], T]) -> T:
        """Return what a call of the client returns; raises `StoreUnavailableError`."""
        breaker = self.breaker
        if not breaker.closed:
            raise StoreUnavailableError(f"{shown(self.url)} is left alone: {breaker.reason}")
        try:
            found = call()
        except Exception as error:  # redis-py's, the socket's, and those of a broken answer
            breaker.failed(f"{type(error).__name__}: {error}")
            raise StoreUnavailableError(f"{shown(self.url)} cannot be used now: {error}") from error
        breaker.worked()
        return found

    def run(self, text: str, *given: Any) -> Any:
        """Run one of the scripts on this store; raises `StoreUnavailableError`."""
        script = self._scripts[text]
        return self.ask(lambda: script(keys=[self.name], args=list(given)))

    def _of(self, part: str) -> str:
        return f"{self.name}:{part}"

    def _entry(self, key: str, blob: Any) -> Entry | None:
        """Return bytes as an entry; what is damaged, forged or of another key is let go of."""
        found = self.seal.open(key, blob)
        if found == "damaged":
            self._forget(key, blob)
        return found if isinstance(found, Entry) else None

    def _forget(self, key: str, *blob: Any) -> None:
        """Let a key go, if it still holds these bytes."""
        with suppress(EverfreshError):
            self.run(scripts.DISCARD, *self._policy, key, *blob)


_TEXTS = tuple(getattr(scripts, name) for name in scripts.__all__)
