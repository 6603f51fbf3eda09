"""Tell listeners of changes, numbered in the order their outcomes became known."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from everfresh.kernel.change import Change
from everfresh.kernel.ports import Listener

__all__ = ["FUTURE", "Flux", "Publisher", "SessionMark"]

FUTURE = 2**63 - 1
"""Position of a change whose outcome is not known yet: no mark includes it."""


@dataclass(frozen=True, slots=True)
class SessionMark:
    """Hold how many commits of this process a reader had seen; local to the process."""

    feed: str
    position: int

    def includes(self, change: Change) -> bool:
        """Whether a reader with this mark had seen this change."""
        return change.position <= self.position


@dataclass(slots=True, eq=False)
class Flux:
    """Hold what `Publisher.begin` announced until `Publisher.end` says how it went."""

    changes: Sequence[Change]
    tokens: dict[int, object] = field(default_factory=dict)


class Publisher:
    """Number changes and hand them to every listener."""

    def __init__(self, feed: str) -> None:
        self._feed = feed
        self._lock = threading.Lock()  # never held over I/O
        self._sequence = 0
        self._mark = SessionMark(feed, 0)
        self.upheavals = 0  # commits that may have changed anything, the schema too
        self._listeners: tuple[Listener, ...] = ()

    @property
    def sequence(self) -> int:
        """How many commits have been reported."""
        return self._sequence

    def subscribe(self, listener: Listener) -> None:
        """Report every change from now on to this listener."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def mark(self) -> SessionMark:
        """Return what a reader that starts now will have seen at least."""
        return self._mark

    def begin(self, changes: Sequence[Change]) -> Flux:
        """Put the touched sources in flux, before the commit reaches the database."""
        flux = Flux(tuple(replace(change, position=FUTURE) for change in changes))
        for listener in self._listeners:
            flux.tokens[id(listener)] = listener.begin(flux.changes)
        return flux

    def end(self, flux: Flux, *, committed: bool, changes: Sequence[Change] | None = None) -> None:
        """Lift the flux; ``changes`` replaces what `begin` was told."""
        happened = flux.changes if changes is None else changes
        if committed:
            with self._lock:
                self.upheavals += any(change.table is None for change in happened)
                self._sequence += 1
                self._mark = SessionMark(self._feed, self._sequence)
                position = self._sequence
            happened = tuple(replace(change, position=position) for change in happened)
        for listener in self._listeners:
            token = flux.tokens.pop(id(listener), self)
            if token is self:
                # It subscribed while the commit was under way: what it read since may be older.
                token = listener.begin(happened)
            listener.end(token, committed=committed, changes=happened)

    def report(self, changes: Sequence[Change]) -> None:
        """Tell of a commit that is over already."""
        self.end(self.begin(changes), committed=True)

    def lost(self, reason: str) -> None:
        """Make everything the feed covers unproven; what was read before is older than its end."""
        with self._lock:
            self._sequence += 1
            self._mark = SessionMark(self._feed, self._sequence)
        for listener in self._listeners:
            listener.lost(reason)
