"""What leases over processes have in common: who holds one, and the hearts that keep it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Hearts", "Held", "SharedLeases", "Taken"]


@dataclass(frozen=True, slots=True)
class Held:
    """Hold the right to fill a key: later ones of the key have larger tokens."""

    key: str
    token: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Say that somebody else fills the key, and when his right ends if his heart stops: seconds."""

    seconds: float


class SharedLeases(Protocol):
    """Say who may fill a key, over processes; every method copes with a server that is gone."""

    def acquire(self, key: str) -> Held | Taken | None:
        """Return the right to fill a key, who has it, or None if nobody can tell."""

    def wait(self, key: str, seconds: float) -> None:
        """Wait until the holder of a key gives it back, or this many seconds."""

    def release(self, held: Held) -> None:
        """Give a right back and wake those who wait for it."""

    def close(self) -> None:
        """Stop what runs in the background."""


_all: weakref.WeakSet[Hearts] = weakref.WeakSet()


class Hearts:
    """Let the hearts of what is held beat, from one thread that ends when nothing is held.

    ``beat`` renews one and says whether it is held still, every ``interval`` seconds.
    """

    def __init__(self, beat: Callable[[Held], bool], interval: float) -> None:
        self._beat, self.interval = beat, interval
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Begin with nothing held: what a parent process holds lives and dies with it."""
        self._lock = threading.Lock()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def add(self, held: Held) -> None:
        """Keep a lease from ending."""
        with self._lock:
            self._held.add(held)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=_run,
                    args=(weakref.ref(self), self._stop, self.interval),
                    name="everfresh-hearts",
                    daemon=True,
                )
                with suppress(RuntimeError):  # no thread to be had: it may end early
                    self._thread.start()

    def remove(self, held: Held) -> None:
        """Let a lease end."""
        with self._lock:
            self._held.discard(held)

    def close(self) -> None:
        """Stop."""
        self._stop.set()

    def beat(self) -> None:
        """Renew all that is held; forget what somebody else has taken over."""
        with self._lock:
            held = list(self._held)
        for each in held:
            if not self._beat(each):
                self.remove(each)


def _run(reference: weakref.ref[Hearts], stop: threading.Event, interval: float) -> None:
    while not stop.wait(interval):
        hearts = reference()
        if hearts is None:
            return
        hearts.beat()
        del hearts


def _after_fork() -> None:
    for hearts in list(_all):
        hearts.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
