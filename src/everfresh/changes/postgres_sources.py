"""Where the rows that others change are heard: from the outbox, or from a replication slot."""

from __future__ import annotations

from contextlib import suppress
from threading import Event
from typing import Protocol

from everfresh.changes import postgres_tracking
from everfresh.changes.postgres_look import Look, look, look_at_log, read_changes
from everfresh.changes.postgres_slot import Slot
from everfresh.changes.postgres_tables import Installed, examine, examine_publication
from everfresh.changes.postgres_wake import Listener
from everfresh.connect.wire import Wire
from everfresh.errors import ConnectionFailedError, EverfreshError
from everfresh.kernel.change import Change
from everfresh.kernel.mark import SnapshotMark

__all__ = ["OutboxSource", "SlotSource", "Source"]

_FLUSHED = 0.05  # seconds in which a server that is busy has written its log to disk
_SOON, _AWAKE = 0.01, 5  # seconds between looks after a notification, and how many


class Source(Protocol):
    """Hear changes; ``means`` says how, in a word for receipts.

    ``early``: a change may be told of before every later snapshot sees it. ``remembers``: what was
    before the last looks can be asked for. ``tracking`` is the module that puts it into a database.
    """

    means: str
    early: bool
    remembers: bool
    tracking: postgres_tracking.Ways

    def begin(self, wire: Wire, parameters: str) -> Installed:
        """Make ready, and read what is tracked; called before the snapshot to begin with."""

    def look(self, wire: Wire, at: SnapshotMark, found: Installed, defined: str | None) -> Look:
        """Take a snapshot, with what ``changes`` needs to tell what is new in it."""

    def changes(
        self, wire: Wire, seen: Look, at: SnapshotMark, found: Installed, limit: int
    ) -> list[Change] | None:
        """Return what is new in a look, None if some of it is not known."""

    def wait(
        self, parameters: str, found: Installed, stop: Event, interval: float, bound: float
    ) -> bool:
        """Wait until it is time to look again; return whether it is over."""

    def close(self) -> None:
        """Let go of connections of its own."""

    def forget(self) -> None:
        """Leave the connections of a parent process to it."""


class OutboxSource:
    """Read the outbox; a notification of a writer wakes, where writers may notify."""

    means = "outbox"
    early = False
    remembers = True
    tracking = postgres_tracking.OUTBOX

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self._awake = 0  # looks without waiting for a notification

    def begin(self, wire: Wire, parameters: str) -> Installed:
        """Read what is tracked."""
        return examine(wire)

    def look(self, wire: Wire, at: SnapshotMark, found: Installed, defined: str | None) -> Look:
        """Take a snapshot, and the rows of the outbox that are new in it."""
        return look(wire, at, outbox=bool(found.tracked), defined=defined)

    def changes(
        self, wire: Wire, seen: Look, at: SnapshotMark, found: Installed, limit: int
    ) -> list[Change] | None:
        """Return the changes that these rows tell of."""
        return read_changes(wire, seen, at, found.tables, limit)

    def wait(
        self, parameters: str, found: Installed, stop: Event, interval: float, bound: float
    ) -> bool:
        """Wait for a notification, where there are any."""
        if not found.listens:
            return stop.wait(interval)
        try:
            if self.listener is None:
                self.listener = Listener(parameters)
            # not all who commit give a notification of their own: look again soon after one
            pause = _SOON if self._awake else max(interval, bound / 4)
            heard = self.listener.wait(stop, pause)
        except EverfreshError:
            self.listener = None
            return stop.wait(interval)
        self._awake = _AWAKE if heard else max(self._awake - 1, 0)
        return stop.is_set()

    def close(self) -> None:
        """Leave the listener to the thread that waits on it."""

    def forget(self) -> None:
        """Begin without a listener."""
        self.listener = None


class SlotSource:
    """Decode the server's log through a temporary replication slot: no triggers."""

    means = "replication slot"
    early = True
    remembers = False
    tracking = postgres_tracking.PUBLICATION

    def __init__(self) -> None:
        self._slot: Slot | None = None

    def begin(self, wire: Wire, parameters: str) -> Installed:
        """Make a slot, if there is a publication; what is committed from now on comes from it."""
        self.close()
        found = examine_publication(wire)
        if found.tracked:
            self._slot = Slot(parameters)
        return found

    def look(self, wire: Wire, at: SnapshotMark, found: Installed, defined: str | None) -> Look:
        """Take a snapshot, and the position in the log behind what it sees."""
        if self._slot is not None and self._slot.lost:
            raise ConnectionFailedError("the replication slot was lost")
        return look_at_log(wire, at, defined=defined)

    def changes(
        self, wire: Wire, seen: Look, at: SnapshotMark, found: Installed, limit: int
    ) -> list[Change] | None:
        """Wait for the decoder to get there; return what it has brought."""
        if self._slot is None:
            return []
        if not self._slot.reaches(seen.position, _FLUSHED):
            # only what is on disk is decoded: what an open transaction has written waits in memory
            with suppress(ConnectionFailedError):
                wire.rows("SELECT pg_logical_emit_message(false, 'everfresh', '')")
        near = seen.snapshot.xmax
        return self._slot.take(seen.position, found.tables, at.history, near, limit)

    def wait(
        self, parameters: str, found: Installed, stop: Event, interval: float, bound: float
    ) -> bool:
        """Wait until something was decoded."""
        slot = self._slot
        if slot is None:
            return stop.wait(interval)
        slot.woken.wait(max(interval, bound / 4))
        slot.woken.clear()
        return stop.is_set()

    def close(self) -> None:
        """End the slot."""
        slot, self._slot = self._slot, None
        if slot is not None:
            with suppress(OSError):
                slot.close()

    def forget(self) -> None:
        """Leave the parent's slot to it."""
        self._slot = None
