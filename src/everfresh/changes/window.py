"""The changes that were heard lately, by which a mark from elsewhere can be judged."""

from __future__ import annotations

from collections.abc import Sequence

from everfresh.kernel.change import Change
from everfresh.kernel.mark import SnapshotMark

__all__ = ["Window"]

_LENGTH = 10_000  # changes that are remembered; beyond, all are forgotten at once


class Window:
    """Remember every change that a snapshot did not see, from the one it began with.

    >>> window = Window()
    >>> window.begin(SnapshotMark("outbox", "a1", 5, 5))
    >>> now = SnapshotMark("outbox", "a1", 6, 6)
    >>> window.add([Change("public.t", history="a1", sequence=5)], now)
    >>> [change.table for change in window.since(SnapshotMark("outbox", "a1", 5, 5))]
    ['public.t']
    >>> window.since(SnapshotMark("outbox", "a1", 4, 4)) is None  # it reaches further back
    True
    """

    def __init__(self) -> None:
        # replaced whole, and what is in it is only ever added to: who reads takes no lock
        self._held: tuple[SnapshotMark | None, list[Change]] = (None, [])

    def begin(self, mark: SnapshotMark) -> None:
        """Forget all; from now on every change that this snapshot does not see is added."""
        self._held = (mark, [])

    def add(self, changes: Sequence[Change], mark: SnapshotMark) -> None:
        """Take the changes that were heard up to ``mark``."""
        _, held = self._held
        if len(held) + len(changes) > _LENGTH:
            self.begin(mark)
        else:
            held.extend(changes)

    def since(self, mark: SnapshotMark) -> list[Change] | None:
        """Return what a reader with this mark had not seen, None if it began before the window."""
        begun, held = self._held
        if begun is None or not mark.follows(begun):
            return None
        return [change for change in held if not mark.includes(change)]
