"""The pruning thread: stoppable, and it keeps nothing alive."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX, Lock, Thread, current_thread
from typing import Protocol
from weakref import ref

__all__ = ["Pruner"]


class Prunable(Protocol):
    """Have something to prune."""

    def prune(self) -> int:
        """Let go of what is too old; return how many went."""


class Pruner:
    """Prune a cache every so many seconds, for as long as anybody else holds it.

    ``seconds`` may change; None is for never. ``farewell`` is called when the cache was dropped
    without being closed; it must not hold the cache.
    """

    def __init__(
        self, cache: Prunable, seconds: float | None, farewell: Callable[[], object]
    ) -> None:
        # garbage collection may come at any point, even inside an Event that is being set:
        # the put of a SimpleQueue is the one signal that may be sent from there
        self._signals: SimpleQueue[None] = SimpleQueue()
        signal = self._signals.put
        self._cache = ref(cache, lambda _: signal(None))
        self._seconds = seconds
        self._farewell = farewell
        self._stopped = False
        self._thread: Thread | None = None
        self._starting = Lock()

    @property
    def seconds(self) -> float | None:
        """Seconds between two rounds."""
        return self._seconds

    @seconds.setter
    def seconds(self, value: float | None) -> None:
        self._seconds = value
        self._signals.put(None)

    def ensure(self) -> None:
        """Start the thread unless it runs; after a fork the child has none."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        with self._starting:
            thread = self._thread
            if self._stopped or (thread is not None and thread.is_alive()):
                return
            self._thread = Thread(target=self._run, name="everfresh-micro-prune", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter shuts down, or has no room for more threads
                self._thread = None

    def stop(self) -> None:
        """End the thread and wait for its end."""
        with self._starting:
            self._stopped = True
            thread = self._thread
        self._signals.put(None)
        if thread is not None and thread is not current_thread():
            thread.join()

    def _run(self) -> None:
        while self._wait():
            cache = self._cache()
            if cache is not None:
                cache.prune()
            del cache
        if not self._stopped:
            self._farewell()

    def _wait(self) -> bool:
        """Wait until a round is due; return whether there is still something to prune."""
        while not self._stopped and self._cache() is not None:
            seconds = self._seconds
            try:
                self._signals.get(timeout=None if seconds is None else min(seconds, TIMEOUT_MAX))
            except Empty:
                return True
        return False
