"""Where a reader stood in a database's own history of changes.

Unlike the mark of one process's session feed it means the same in every process and after a
restart, so it can be stored beside a value. There are two kinds: a position, where writers are
serialised (SQLite), and a snapshot, where they are not (PostgreSQL).
"""

from __future__ import annotations

from dataclasses import dataclass

from everfresh.kernel.change import Change

__all__ = ["HistoryMark", "SeenMark", "SnapshotMark", "meet"]


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


@dataclass(frozen=True, slots=True)
class SnapshotMark:
    """Hold which transactions of a PostgreSQL database a reader's snapshot saw.

    ``xmin``, ``xmax`` and ``running`` are those of ``pg_current_snapshot()``: what is below
    ``xmax`` and not ``running`` has ended and is seen. Neither a number nor a position in the log
    would do: transactions become visible in another order than they get either.

    >>> mark = SnapshotMark("outbox", "a1", 10, 13, frozenset({10}))
    >>> [mark.sees(number) for number in (9, 10, 11, 13)]
    [True, False, True, False]
    """

    feed: str
    history: str
    xmin: int
    xmax: int
    running: frozenset[int] = frozenset()

    @property
    def position(self) -> int:
        """A number below which everything is seen."""
        return self.xmin

    def sees(self, transaction: int) -> bool:
        """Whether a transaction is visible in the snapshot, if it committed."""
        return transaction < self.xmax and transaction not in self.running

    def includes(self, change: Change) -> bool:
        """Whether a reader with this mark had seen this change."""
        return self.history == change.history and self.sees(change.sequence)

    def follows(self, other: SnapshotMark) -> bool:
        """Whether it sees all that another one sees, as a later one does.

        >>> one = SnapshotMark("outbox", "a1", 5, 9, frozenset({5, 7}))
        >>> one.follows(one), one.follows(SnapshotMark("outbox", "a1", 7, 9, frozenset({7})))
        (True, False)
        """
        if self.history != other.history or self.xmax < other.xmax:
            return False
        return all(n >= other.xmax or n in other.running for n in self.running)

    def __str__(self) -> str:
        """Return the snapshot as PostgreSQL writes and reads it."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    @classmethod
    def parse(cls, feed: str, history: str, text: str) -> SnapshotMark:
        """Return the mark of a snapshot as PostgreSQL writes it; raises `ValueError`.

        >>> str(SnapshotMark.parse("outbox", "a1", "10:13:10,12"))
        '10:13:10,12'
        """
        xmin, xmax, running = text.split(":")
        return cls(
            feed,
            history,
            int(xmin),
            int(xmax),
            frozenset(map(int, filter(None, running.split(",")))),
        )


SeenMark = HistoryMark | SnapshotMark


def meet(one: SeenMark | None, other: SeenMark | None) -> SeenMark | None:
    """Return the mark of a reader who had seen only what both had; None stands for nothing.

    >>> meet(HistoryMark("outbox", "a1", 7), HistoryMark("outbox", "a1", 5)).position
    5
    >>> one = SnapshotMark("outbox", "a1", 10, 13, frozenset({10}))
    >>> str(meet(one, SnapshotMark("outbox", "a1", 8, 12, frozenset({8}))))
    '8:12:8,10'
    """
    if one is None or other is None or one.history != other.history:
        return None
    if isinstance(one, SnapshotMark) and isinstance(other, SnapshotMark):
        xmax = min(one.xmax, other.xmax)
        running = frozenset(n for n in one.running | other.running if n < xmax)
        return SnapshotMark(one.feed, one.history, min(one.xmin, other.xmin), xmax, running)
    return one if one.position <= other.position else other
