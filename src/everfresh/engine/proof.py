"""Until when what is kept is known to be true although others may write to the database.

What this process commits is heard at once. Other writers are asked about: by a thread at an
interval of milliseconds, and by a reader itself where the last good answer is too old for it. A
thread alone would not do: a process that was stopped wakes up with hits (PROTOCOL: "Entries and
the hit path"), so every hit compares the clock with ``until``.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from threading import Event, Thread

from everfresh.changes.session import SessionFeed
from everfresh.changes.sqlite_watch import SqliteWatch
from everfresh.errors import EverfreshError
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import Freshness
from everfresh.kernel.plan import Source
from everfresh.kernel.ports import Clock
from everfresh.settings import SUSPENDED_TOO

__all__ = ["HISTORY", "Proof", "writers_clock"]

HISTORY = 100_000  # rows of the change table that stay; what was read before is unproven
_TIDY = 60.0  # seconds between two prunings


def writers_clock(feed: SessionFeed, clock: Clock) -> Clock:
    """Return the clock that hits compare with the last look at the other writers.

    Whoever writes to a SQLite file runs on this machine and is suspended with it, so time that
    passed meanwhile has heard no commit: there the monotonic clock is as right as one that goes
    on, and costs a hit a third of it. A clock that was chosen by hand is left alone.
    """
    here = isinstance(feed.watch, SqliteWatch)
    return time.monotonic if here and clock is SUSPENDED_TOO else clock


class Proof:
    """Know how old the last good look at the other writers is, and look again.

    ``until`` is what hits compare with ``clock``, in its seconds: None where nobody else can
    write unheard, or where the cache's freshness does not ask for it.
    """

    def __init__(
        self, feed: SessionFeed, clock: Clock, freshness: Freshness, interval: float
    ) -> None:
        self.freshness = freshness
        self.looks = 0
        self._feed = feed
        self.clock = clock
        self._interval = interval
        self._last = -inf
        self._tidied = clock()
        self._process = os.getpid()
        self._stop = Event()
        needed = feed.watch is not None and freshness.mode != "ttl"
        self.until: float | None = -inf if needed else None
        if needed and freshness.mode == "bounded":
            self.confirm()
        self._start()

    def confirm(self, definitions: float = 0.0) -> bool:
        """Hear everything that was committed before now; return whether that is certain.

        What tables and grants are is looked at too, if that was longer than ``definitions`` seconds
        ago.
        """
        started = self.clock()
        self.looks += 1
        if not self._feed.poll(definitions):
            return False
        self._last = max(self._last, started)
        if self.until is not None and self.freshness.mode == "bounded":
            self.until = self._last + self.freshness.seconds
        return True

    def objection(self, freshness: Freshness, sources: Iterable[Source] = ()) -> str | None:
        """Return why nothing kept may answer under this freshness now, None if it may.

        Under ``strict`` what others have committed is heard first, and so it is under ``bounded``
        where the last look was too long ago. Call it before the entry is looked at.
        """
        watch = self._feed.watch
        if watch is None or freshness.mode == "ttl":
            return None
        for source in sources:
            if source.table is not None and not watch.covers(source.table):
                return f"other writers of {source.table} are not heard: its file is attached"
        if freshness.mode == "bounded" and self.clock() < self._last + freshness.seconds:
            return None
        if self._process != os.getpid():  # a forked child has none of its parent's threads
            self._process = os.getpid()
            self._start()
        return None if self.confirm() else f"other writers cannot be heard: {watch.reason}"

    @property
    def lag(self) -> float | None:
        """Seconds since the start of the last good look, None where none is needed."""
        return None if self._feed.watch is None else self.clock() - self._last

    def means(self, entry: Entry) -> str:
        """Say in a few words what proves that this entry is true."""
        timed = self.freshness.mode == "ttl" and self._feed.watch is not None
        if timed or not entry.sources:
            return "not proven by a feed"
        watch = self._feed.watch
        known = watch is not None and watch.mode != "none"
        return f"session feed, {watch.means}" if watch is not None and known else "session feed"

    def tidy(self) -> None:
        """Prune the change table now and then, so that it does not grow for ever."""
        now, watch = self.clock(), self._feed.watch
        if watch is None or watch.mode != "tracked" or now < self._tidied + _TIDY:
            return
        self._tidied = now
        with suppress(EverfreshError):  # a writer is busy: the next time
            watch.prune(HISTORY)

    @property
    def pause(self) -> Callable[[Event], bool]:
        """Return what waits until the next look is due, and holds nothing of this object."""
        watch, interval, bound = self._feed.watch, self._interval, self.freshness.seconds
        if watch is None:
            return lambda stop: stop.wait(interval)
        return lambda stop: watch.wait(stop, interval, bound)

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()

    def _start(self) -> None:
        if self.until is None or self.freshness.mode != "bounded":
            return
        thread = Thread(
            target=_look,
            args=(weakref.ref(self), self._stop),
            name="everfresh-watch",
            daemon=True,
        )
        with suppress(RuntimeError):  # no thread to be had: the readers look themselves
            thread.start()


def _look(reference: weakref.ref[Proof], stop: Event) -> None:
    while (proof := reference()) is not None:
        wait = proof.pause
        del proof  # while it waits, the cache may be dropped
        if wait(stop):
            return
        if (proof := reference()) is not None:
            proof.confirm(proof.freshness.seconds / 2)
            proof.tidy()
