"""Where a reader stood in a database's own history of changes.

Unlike the mark of one process's session feed it means the same in every process and after a
restart, so it can be stored beside a value.
"""

from __future__ import annotations

from dataclasses import dataclass

from everfresh.kernel.change import Change

__all__ = ["HistoryMark", "meet"]


@dataclass(frozen=True, slots=True)
class HistoryMark:
    """Hold how far a reader had seen a history of numbered changes.

    ``history`` names the numbering: it changes whenever positions stop being comparable, as when
    the change table is made anew or the schema is altered. ``stamp`` is the time in the row at
    ``position``: a file that was put back from a copy gives its numbers out again, at other times.

    >>> mark = HistoryMark("outbox", "a1", 7)
    >>> mark.includes(Change("main.t", history="a1", sequence=7))
    True
    >>> mark.includes(Change("main.t", history="b2", sequence=7))
    False
    """

    feed: str
    history: str
    position: int
    stamp: float | None = None

    def includes(self, change: Change) -> bool:
        """Whether a reader with this mark had seen this change."""
        return self.history == change.history and change.sequence <= self.position


def meet(one: HistoryMark | None, other: HistoryMark | None) -> HistoryMark | None:
    """Return the mark of a reader who had seen only what both had; None stands for nothing.

    >>> meet(HistoryMark("outbox", "a1", 7), HistoryMark("outbox", "a1", 5)).position
    5
    """
    if one is None or other is None or one.history != other.history:
        return None
    return one if one.position <= other.position else other
