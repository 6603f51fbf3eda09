"""An entry: one kept answer, its history and its one mutable state slot.

The state is an integer so that a hit costs one comparison. Writers change it under one lock:

======================  =========================================================
``FRESH`` (0)           serve it
``n``, ``TIMED + n``    ``n`` commits that touch it are between their start and end
``TIMED``               serve it until its deadline
``STALE``               a change touched it; absorbing: a refill makes a new entry
``DROPPED``             evicted or forgotten; absorbing
``UNPROVEN``            a change touched only its parts; a refill may find them the same
======================  =========================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from everfresh.kernel.change import Change
from everfresh.kernel.mark import SeenMark
from everfresh.kernel.plan import Source
from everfresh.kernel.ports import Mark

__all__ = [
    "DROPPED",
    "FRESH",
    "STALE",
    "TIMED",
    "UNPROVEN",
    "Entry",
    "Part",
    "Past",
    "Standing",
    "enter_flux",
    "leave_flux",
]

FRESH = 0
TIMED = 1 << 30
STALE = -1
DROPPED = -2
UNPROVEN = -3


@dataclass(frozen=True, slots=True)
class Part:
    """Hold what an answer had read: its key, its value's digest then, and how to ask for it."""

    key: str
    digest: str
    renew: Callable[[], object]


@dataclass(slots=True)
class Standing:
    """Hold what an eviction policy knows of an entry; `rank` only grows while it is kept.

    It outlives the entry in logs of touches, which must not keep values alive: ``kept`` tells.
    """

    cost: float = 0.0
    size: int = 0
    rank: float = 0.0
    weight: float = 0.0
    kept: bool = False


@dataclass(slots=True, eq=False)
class Entry:
    """Hold one kept answer. All but the last six fields stay as they were published.

    ``cost`` is in seconds, ``bytes`` in bytes, ``filled_at`` and ``deadline`` in seconds of the
    cache's monotonic clock. ``mark`` is of this process's feed, ``seen`` of the database's own
    history, None where it keeps none. ``own`` are the ``sources`` that are not
    its parts', ``upstream`` the parts. ``request`` is what a surface needs to ask again.
    """

    key: str
    value: object
    kind: str = "value"
    label: str = ""
    sources: tuple[Source, ...] = ()
    mark: Mark | None = None
    seen: SeenMark | None = None
    filled_at: float = 0.0
    cost: float = 0.0
    bytes: int = 0
    deadline: float | None = None
    parents: tuple[str, ...] = ()
    origin: str = "fill"
    reason: str = ""
    error: bool = False
    request: object = None
    own: tuple[Source, ...] = ()
    upstream: tuple[Part, ...] = ()
    digest: str | None = None
    state: int = FRESH
    hits: int = 0
    known: bool = False  # that it was outdated: it is in the memory of what went
    standing: Standing = field(init=False)
    shortcuts: list[tuple[dict[object, Entry], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.standing = Standing(self.cost, self.bytes)
        if self.deadline is not None:
            self.state = TIMED

    def usable(self, now: float) -> bool:
        """Whether a reader that starts at ``now`` may be given the value.

        >>> Entry("k", 1).usable(0.0), Entry("k", 1, deadline=5.0).usable(5.0)
        (True, False)
        """
        state = self.state
        return state == FRESH or (
            state == TIMED and self.deadline is not None and now < self.deadline
        )


def enter_flux(entry: Entry) -> None:
    """Count one more commit in progress that touches the entry."""
    if entry.state >= 0:
        entry.state += 1


def leave_flux(entry: Entry) -> None:
    """Count one commit less; an absorbing state stays."""
    if entry.state > 0 and entry.state != TIMED:
        entry.state -= 1


@dataclass(frozen=True, slots=True)
class Past:
    """Hold what stays of an entry when its value goes: stale is not absent.

    ``change`` is what made it stale; None when it was dropped for room or on request.
    """

    key: str
    kind: str
    label: str
    reason: str
    change: Change | None
    at: float
    cost: float
    hits: int
    fills: int
