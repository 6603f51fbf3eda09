"""Answers beyond memory: written behind the reader, and proven before they are given again.

What lies in a store may be older than what is known here: another process may have kept it after it
heard less. So it is taken only if the database's own history of changes reaches back to the mark it
was stored with, and shows nothing since that touches it (PROTOCOL: "Two tiers"); under a `ttl`
rule its age alone decides. A store that fails is a miss.

Where the store's server gives leases, one process at a time computes an answer: the others wait for
what it stores, and take over one by one if it gives up or dies.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import inf
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Protocol, cast

from everfresh.changes.session import SessionFeed
from everfresh.engine.request import Request
from everfresh.engine.rows import Rows
from everfresh.errors import EverfreshError
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import Freshness
from everfresh.kernel.ledger import Fill
from everfresh.kernel.ports import Clock, Store
from everfresh.leases.shared import Held, SharedLeases

__all__ = ["RECALLED", "Durable"]

RECALLED = "kept in the store, and proven against what has changed since"
_BOUND = 1000  # entries that wait to be written; beyond it they are not kept
_PATIENCE = 30.0  # seconds for which others' computations are waited for
_Item = Entry | tuple[Held, Entry | None] | Event | None  # None ends the thread
_all: weakref.WeakSet[Durable] = weakref.WeakSet()
_log = logging.getLogger("everfresh.store")


class FencedStore(Protocol):
    """Keep entries under the newest token of their keys only."""

    def put(self, entry: Entry, token: int | None = None) -> Sequence[Entry]:
        """Keep an entry, unless the token is not the newest any more."""


class Durable:
    """Keep the answers of statements in a store and give them back where that can be proven."""

    def __init__(
        self, store: Store, feed: SessionFeed, clock: Clock, leases: SharedLeases | None = None
    ) -> None:
        self.store = store
        self.leases = leases
        self.dropped = 0
        self.waits, self.waited = 0, 0.0  # for other processes; a count lost in a race does no harm
        self.failure: str | None = None
        self._feed = feed
        self._clock = clock
        self.renew()
        _all.add(self)
        self._forgotten = -inf  # what was filled before the machine started is before 0

    def renew(self) -> None:
        """Begin with nothing to write and no thread, as a forked child must."""
        self._queue: Queue[_Item] = Queue(_BOUND)
        self._thread: Thread | None = None
        self._starting = Lock()
        self._writing = Lock()

    def obtain(self, request: Request, freshness: Freshness, fill: Fill) -> Entry | None:
        """Return the stored answer, waiting for who computes it now; else the fill holds the right.

        Nobody waits for longer than it takes a dead owner's right to end, again and again, up to
        half a minute: then it is computed without one.
        """
        found = self.recall(request, freshness)
        if found is not None or self.leases is None:
            return found
        give_up = time.monotonic() + _PATIENCE
        while (left := give_up - time.monotonic()) > 0:
            claim = self.leases.acquire(request.key)
            if claim is None:
                return None
            if isinstance(claim, Held):
                return self._once_more(request, freshness, fill, claim)
            self._wait(request.key, min(claim.seconds, left))
            found = self.recall(request, freshness)
            if found is not None:
                return found
        return None

    def _wait(self, key: str, seconds: float) -> None:
        assert self.leases is not None  # noqa: S101 - one of its leases is waited for
        started = time.monotonic()
        self.leases.wait(key, seconds)
        self.waits += 1
        self.waited += time.monotonic() - started

    def _once_more(
        self, request: Request, freshness: Freshness, fill: Fill, held: Held
    ) -> Entry | None:
        """Look again, now that nobody else can be computing it."""
        fill.held = held
        found = self.recall(request, freshness)
        if found is not None:
            self.give_back(fill)
        return found

    def deliver(self, fill: Fill, entry: Entry | None) -> None:
        """Store what was computed under a right, if it may be kept, and give the right back."""
        held, fill.held = fill.held, None
        if isinstance(held, Held):
            kept = entry if entry is not None and self._storable(entry) else None
            try:
                self._queue.put_nowait((held, kept))
            except Full:
                self._release(held)
            if self._thread is None:
                self._start()

    def give_back(self, fill: Fill) -> None:
        """Give the right of a fill back that has nothing to store."""
        held, fill.held = fill.held, None
        if isinstance(held, Held):
            self._release(held)

    def _storable(self, entry: Entry) -> bool:
        """Whether it is an answer that something could prove later."""
        provable = entry.seen is not None and self._feed.proves
        return entry.kind == "sql" and not entry.error and (provable or entry.deadline is not None)

    def _release(self, held: Held) -> None:
        if self.leases is not None:
            self.leases.release(held)

    def recall(self, request: Request, freshness: Freshness) -> Entry | None:
        """Return the stored answer if it is proven to be true now.

        The request's fill must be registered: what changes from here on is heard by it.
        """
        entry = self.store.get(request.key)
        if entry is None or entry.filled_at <= self._forgotten or not isinstance(entry.value, Rows):
            return None
        if entry.deadline is not None and self._clock() >= entry.deadline:
            return None
        if freshness.mode == "ttl" and entry.deadline is not None:
            return entry
        # commits of this process that were not looked for yet are in no history of changes
        heard = entry.seen is not None and self._feed.poll(inf)
        changes = self._feed.since(entry.seen) if heard and entry.seen is not None else None
        if changes is None:
            return None
        touched = any(source.touched_by(c) for c in changes for source in request.sources)
        return None if touched else entry

    def keep(self, entry: Entry) -> None:
        """Store an answer soon; one that nothing could prove later is not stored."""
        if not self._storable(entry):
            return
        try:
            self._queue.put_nowait(entry)
        except Full:
            self.dropped += 1
        if self._thread is None:
            self._start()

    def forget(self, keys: Iterable[str] | None = None) -> None:
        """Drop these answers, or all, before returning; what cannot be dropped is not recalled."""
        with self._writing:
            self._drop_waiting()
            try:
                if keys is None:
                    self._forgotten = self._clock()
                    self.store.clear()
                else:
                    for key in keys:
                        self.store.discard(key)
            except EverfreshError as error:
                self._forgotten = self._clock()
                self._failed(error)

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until what was given to `keep` is stored; return whether it is."""
        if self._thread is None or not self._thread.is_alive():
            return self._queue.empty()
        written = Event()
        with suppress(Full):
            self._queue.put(written, timeout=seconds)
            return written.wait(seconds)
        return False

    def close(self) -> None:
        """Store what waits, end the thread and let go of the store."""
        self.flush()
        thread = self._thread
        if thread is not None and thread.is_alive():
            with suppress(Full):
                self._queue.put(None, timeout=1.0)
                thread.join(10.0)
        if self.leases is not None:
            self.leases.close()
        self.store.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = Thread(
                    target=_write,
                    args=(weakref.ref(self), self._queue),
                    name="everfresh-store",
                    daemon=True,
                )
                with suppress(RuntimeError):  # no thread to be had: it waits, bounded
                    thread.start()
                    self._thread = thread

    def put(self, entry: Entry, held: Held | None = None) -> None:
        """Store an answer now, unless a change was faster; a store that fails is noted.

        Under a right that somebody else has by now, it is not stored.
        """
        with self._writing:
            if entry.state < 0:
                return
            try:
                if held is None:
                    self.store.put(entry)
                else:
                    cast("FencedStore", self.store).put(entry, held.token)
            except Exception as error:  # whatever it is, the thread goes on with the next
                self._failed(error)
            else:
                self.failure = None

    def hand_over(self, held: Held, entry: Entry | None) -> None:
        """Store what was computed under a right, and let others have the right."""
        try:
            if entry is not None:
                self.put(entry, held)
        finally:
            self._release(held)

    def _drop_waiting(self) -> None:
        with suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, Event):
                    item.set()
                elif isinstance(item, tuple):
                    self._release(item[0])

    def _failed(self, error: Exception) -> None:
        self.dropped += 1
        if self.failure is None:
            _log.warning("answers are not stored for now: %s", error)
        self.failure = str(error)


def _write(reference: weakref.ref[Durable], queue: Queue[_Item]) -> None:
    """Store what is queued until that is over: a cache that was dropped ends its thread."""
    while True:
        try:
            item = queue.get(timeout=1.0)
        except Empty:
            if reference() is None:
                return
            continue
        durable = reference()
        if item is None or durable is None:
            return
        if isinstance(item, Event):
            item.set()
        elif isinstance(item, Entry):
            durable.put(item)
        else:
            durable.hand_over(*item)
        del durable, item


def _after_fork() -> None:
    for durable in list(_all):
        durable.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
