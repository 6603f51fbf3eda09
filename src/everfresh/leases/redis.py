"""Leases over processes in Redis or Valkey: one owner per key, woken waiters, fencing tokens.

A lease is a key with the owner's token that ends by itself, unless the owner's heart beats: then a
waiter takes over. A token is larger than every one before it; what a store keeps under a token it
keeps only while that is the newest (compare M. Kleppmann, "How to do distributed locking", 2016).
Who waits is woken by a message, or by the end of the lease.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from everfresh.connect.breaker import Breaker
from everfresh.leases.shared import Hearts, Held, Taken

__all__ = ["RedisLeases"]

_ACQUIRE = """
local lease = KEYS[1] .. ':l:' .. ARGV[1]
local held = redis.call('GET', lease)
if held and string.sub(held, 1, 1) ~= '-' then return {0, redis.call('PTTL', lease)} end
-- not below the clock: a server that was emptied must not give a token out again
local now = redis.call('TIME')
local last = tonumber(redis.call('HGET', KEYS[1] .. ':c', 'token') or '0')
local token = string.format('%.0f', math.max(last + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
redis.call('HSET', KEYS[1] .. ':c', 'token', token)
redis.call('SET', lease, token, 'PX', ARGV[2])
return {token, 0}
"""
_RENEW = """
local lease = KEYS[1] .. ':l:' .. ARGV[1]
if redis.call('GET', lease) ~= ARGV[2] then return 0 end
return redis.call('PEXPIRE', lease, ARGV[3])
"""
# what is left says that this token, and every one before it, is not the newest any more
_RELEASE = """
local lease = KEYS[1] .. ':l:' .. ARGV[1]
if redis.call('GET', lease) == ARGV[2] then
  redis.call('SET', lease, '-' .. ARGV[2], 'PX', ARGV[3])
end
return redis.call('PUBLISH', KEYS[1] .. ':w', ARGV[1])
"""
_OWED = 1000  # rights to be given back when the server is back; more end by themselves
_REMEMBER = 60_000  # milliseconds for which it is remembered that a token was given back


class RedisLeases:
    """Say who may fill a key, over all processes that use one store of a Redis.

    ``client`` and ``name`` are the store's; ``seconds`` is how long a lease lasts without a
    heartbeat. What the server cannot be asked for is granted: then everybody computes for himself.
    """

    def __init__(self, client: Any, name: str, breaker: Breaker, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._client, self._name, self._breaker = client, name, breaker
        self._acquire = client.register_script(_ACQUIRE)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)
        self._owed: deque[Held] = deque(maxlen=_OWED)
        self._hearts = Hearts(self._beat, seconds / 3)
        self._ears = _Ears(client, f"{name}:w")

    def acquire(self, key: str) -> Held | Taken | None:
        """Return the right to fill a key, who has it, or None if nobody can tell."""
        self._settle()
        found = self._ask(self._acquire, key, int(self.seconds * 1000))
        if found is None:
            return None
        token, left = found
        if not int(token):
            return Taken(max(left, 1) / 1000)
        held = Held(key, int(token))
        self._hearts.add(held)
        return held

    def wait(self, key: str, seconds: float) -> None:
        """Wait until the holder of a key gives it back, or this many seconds.

        What was given back before it was listened for is asked for once more.
        """
        self._ears.wait(key, seconds, lambda: self._free(key))

    def release(self, held: Held) -> None:
        """Give a right back and wake those who wait for it."""
        self._hearts.remove(held)
        self._owed.append(held)
        self._settle()

    def _settle(self) -> None:
        """Give back what is to be given back, as soon as the server can be told."""
        with suppress(IndexError):
            while held := self._owed.popleft():
                if self._ask(self._release, held.key, held.token, _REMEMBER) is None:
                    self._owed.append(held)
                    return

    def close(self) -> None:
        """Stop the threads; what is held ends by itself."""
        self._hearts.close()
        self._ears.close()

    def _beat(self, held: Held) -> bool:
        told = self._ask(self._renew, held.key, held.token, int(self.seconds * 1000))
        return told is None or bool(told)  # a server that cannot be asked is asked again

    def _free(self, key: str) -> bool:
        held = self._try(lambda: self._client.get(f"{self._name}:l:{key}"))
        return held is None or held.startswith(b"-")

    def _ask(self, script: Any, *given: object) -> Any:
        return self._try(lambda: script(keys=[self._name], args=list(given)))

    def _try(self, call: Callable[[], Any]) -> Any:
        if not self._breaker.closed:
            return None
        try:
            found = call()
        except Exception as error:  # redis-py's, the socket's, and those of a broken answer
            self._breaker.failed(f"{type(error).__name__}: {error}")
            return None
        self._breaker.worked()
        return found


class _Ears:
    """Wake who waits for a key, from one thread with one connection that listens."""

    def __init__(self, client: Any, channel: str) -> None:
        self._client, self._channel = client, channel
        self._lock = threading.Lock()
        self._waiting: dict[str, list[threading.Event]] = {}
        self._listening = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    def wait(self, key: str, seconds: float, free: Callable[[], bool]) -> None:
        """Wait for a message about a key, unless it is ``free`` once somebody listens."""
        deadline = time.monotonic() + seconds
        woken = threading.Event()
        if self._process != os.getpid():  # a forked child has none of its parent's threads
            self._process, self._thread = os.getpid(), None
            self._lock, self._waiting = threading.Lock(), {}
            self._listening = threading.Event()
        with self._lock:
            self._waiting.setdefault(key, []).append(woken)
            self._start()
        try:
            if self._listening.wait(min(seconds, 1.0)) and free():
                return
            woken.wait(max(deadline - time.monotonic(), 0.0))
        finally:
            with self._lock:
                others = self._waiting.get(key, [])
                others.remove(woken)
                if not others:
                    self._waiting.pop(key, None)

    def close(self) -> None:
        """Stop listening."""
        self._closed = True

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=_listen, args=(weakref.ref(self),), name="everfresh-leases", daemon=True
            )
            with suppress(RuntimeError):
                self._thread.start()

    def hear(self, subscription: Any) -> bool:
        """Take the next message; return whether to go on: until nobody has waited for a while."""
        message = subscription.get_message(timeout=1.0)
        if message is not None and message["type"] == "subscribe":
            self._listening.set()
        elif message is not None:
            with self._lock:
                for woken in self._waiting.get(message["data"].decode(), ()):
                    woken.set()
        return not self._closed

    def subscribe(self) -> Any:
        """Return a new subscription."""
        subscription = self._client.pubsub()
        subscription.subscribe(self._channel)
        return subscription

    def lost(self) -> None:
        """Let everybody look for himself: messages may have been missed."""
        self._listening.clear()
        with self._lock:
            for waiting in self._waiting.values():
                for woken in waiting:
                    woken.set()


def _listen(reference: weakref.ref[_Ears]) -> None:
    """Listen until the ears are closed or dropped; a lost connection is made again."""
    subscription: Any = None
    while (ears := reference()) is not None:
        try:
            if subscription is None:
                subscription = ears.subscribe()
            if not ears.hear(subscription):
                break
        except Exception:
            ears.lost()
            subscription = None
            time.sleep(0.1)
        del ears
    if subscription is not None:
        with suppress(Exception):
            subscription.close()
