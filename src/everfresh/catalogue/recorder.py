"""Writing to the catalogue behind the answers: nobody waits for it, and nobody hears it fail."""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from everfresh.catalogue.batch import Audited, Batch, Filled, Gone, Record
from everfresh.catalogue.database import Catalogue
from everfresh.catalogue.hits import HitCounts
from everfresh.errors import CatalogueError
from everfresh.kernel.entry import Entry, Past
from everfresh.kernel.ports import Clock

__all__ = ["Pace", "Recorder"]

_log = logging.getLogger("everfresh.catalogue")
_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()

Touches = Callable[[], Iterable[tuple[str, int, float]]]
"""Yields (key, hits, score) of what is kept now."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Say how a recorder writes; times are in seconds.

    ``interval``: between two batches. ``batch``: records that are written without waiting for it.
    ``bound``: records held at most; beyond it the oldest are dropped and counted. ``touches``:
    between two askings for hits. ``retry``: after a failure.
    """

    interval: float = 0.2
    batch: int = 500
    bound: int = 10_000
    touches: float = 5.0
    retry: float = 1.0


class Recorder:
    """Note what happens to entries in a catalogue, in batches, from a thread of its own.

    ``touches`` yields (key, hits of the entry that is kept, score) when asked. ``database`` is the
    identity digest of the database that the entries are of. No method but `flush` and `close`
    waits, and none raises: when the catalogue cannot be written, records are held, then dropped
    and counted in ``dropped``, one warning is logged, and writing resumes by itself.

    >>> catalogue = Catalogue("sqlite://")
    >>> recorder = Recorder(catalogue)
    >>> recorder.filled(Entry("k", 1, label="SELECT 1"), "fill")
    >>> recorder.close()
    >>> from everfresh.catalogue.entries import entry
    >>> entry(catalogue, "k").label
    'SELECT 1'
    """

    def __init__(
        self,
        catalogue: Catalogue,
        touches: Touches = tuple,
        *,
        database: str = "",
        pace: Pace | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self.catalogue = catalogue
        self.dropped = 0
        self.failure: str | None = None
        self._pace = pace or Pace()
        self._touches = touches
        self._database = database
        self._clock, self._wall = clock, wall
        self._counts = HitCounts()
        self._closed = False
        self.renew()
        _recorders.add(self)

    def renew(self) -> None:
        """Start with nothing to write, as a child process does: the rest is its parent's."""
        self._queue: deque[Record] = deque()
        self._writing, self._starting = Lock(), Lock()
        self._wake = Event()
        self._thread: Thread | None = None
        self._touched_at = self._clock()

    # noting -------------------------------------------------------------------

    def filled(self, entry: Entry, status: str, digest: str | None = None) -> None:
        """Note that an entry was filled; ``digest`` is that of its encoded value, if known."""
        self._add(Filled.of(entry, status, digest))

    def gone(self, past: Past) -> None:
        """Note that an entry became stale, or was dropped; ``past.hits`` are of all its fills."""
        self._add(Gone.of(past))

    def audited(self, checked: int, stale: int) -> None:
        """Note that this many answers were checked and this many found stale."""
        self._add(Audited(checked, stale, self._clock()))

    def _add(self, record: Record) -> None:
        queue = self._queue
        queue.append(record)
        if len(queue) > self._pace.bound:
            self._drop_oldest()
        if len(queue) >= self._pace.batch and self.failure is None:
            self._wake.set()
        if self._thread is None:
            self._start()

    def _drop_oldest(self) -> None:
        with suppress(IndexError):
            while len(self._queue) > self._pace.bound:
                self._queue.popleft()
                self.dropped += 1

    # writing ------------------------------------------------------------------

    def flush(self) -> bool:
        """Write what was noted until now; return whether all of it is written."""
        return self._write(touches=True)

    def close(self) -> None:
        """Write what was noted and end the thread; the catalogue stays open."""
        if self._closed:
            return
        self._closed = True
        thread = self._thread
        self._wake.set()
        if thread is not None and thread.is_alive():
            thread.join(self._pace.retry + 10)
        self.flush()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._closed:
                return
            thread = Thread(
                target=_run, args=(weakref.ref(self),), name="everfresh-recorder", daemon=True
            )
            with suppress(RuntimeError):  # there are too many, or the interpreter ends
                thread.start()
                self._thread = thread

    def step(self) -> bool:
        """Wait for the next batch and write it; return whether to go on."""
        self._wake.wait(self._pace.interval if self.failure is None else self._pace.retry)
        self._wake.clear()
        if self._closed:
            return False
        touches = self._clock() - self._touched_at >= self._pace.touches
        if self._queue or touches:
            self._write(touches=touches)
        return True

    def _write(self, *, touches: bool) -> bool:
        with self._writing:
            records = self._take()
            batch = Batch(self._database, self._wall() - self._clock())
            batch.add(records)
            ended = {record.key: record.hits for record in records if isinstance(record, Gone)}
            new, batch.hits = self._counts.take(ended, self._asked() if touches else ())
            if batch.empty:
                return True
            try:
                with self.catalogue.writing() as connection:
                    batch.write(connection)
            except Exception as error:  # whatever it is, no caller hears of it
                self._failed(records, error)
                return False
            self._counts.told(new)
            self._recovered()
            return True

    def _take(self) -> list[Record]:
        taken: list[Record] = []
        with suppress(IndexError):  # a caller dropped the oldest meanwhile
            taken.extend(self._queue.popleft() for _ in range(len(self._queue)))
        return taken

    def _asked(self) -> list[tuple[str, int, float]]:
        self._touched_at = self._clock()
        try:
            return list(self._touches())
        except Exception:
            _log.exception("hits could not be counted")
            return []

    def _failed(self, records: list[Record], error: Exception) -> None:
        if isinstance(error, CatalogueError) and not _is_refused(error):
            self._queue.extendleft(reversed(records))
            self._drop_oldest()
        else:  # it would fail again
            self.dropped += len(records)
        if self.failure is None:
            _log.warning("nothing is recorded for now: %s", error)
        self.failure = str(error)

    def _recovered(self) -> None:
        if self.failure is not None:
            _log.info("the catalogue is written again; %d records were lost", self.dropped)
        self.failure = None


def _is_refused(error: CatalogueError) -> bool:
    """Whether the database refused what was written, rather than failed."""
    return isinstance(error.__cause__, (DataError, IntegrityError, ProgrammingError))


def _run(reference: weakref.ref[Recorder]) -> None:
    while (recorder := reference()) is not None and recorder.step():
        del recorder  # an abandoned recorder ends, and its thread with it


def _close_all() -> None:
    for recorder in list(_recorders):
        recorder.close()


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder.renew()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
