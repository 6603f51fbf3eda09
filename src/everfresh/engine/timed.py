"""Get-or-compute by time alone: without a database behind it that could tell of changes."""

from __future__ import annotations

from dataclasses import dataclass

from everfresh.engine.board import Board
from everfresh.engine.fills import Fills
from everfresh.kernel.change import Change
from everfresh.kernel.entry import Entry
from everfresh.kernel.ledger import Fill
from everfresh.kernel.score import make_policy
from everfresh.settings import Settings
from everfresh.stores.memory import MemoryStore

__all__ = ["timed"]


@dataclass(frozen=True, slots=True)
class _NoMark:
    """Stand for having seen nothing of any feed."""

    feed: str = "none"
    position: int = 0

    def includes(self, change: Change) -> bool:
        """Never: there is no feed that tells of changes."""
        return False


class _TimedBoard(Board):
    """Keep answers whatever they are made of: only their age decides."""

    def observe(self, fill: Fill, parent: Entry | None, reason: str) -> None:
        """Ignore it: no change is heard here, so there is nothing to depend on."""

    def _depend(self, outer: Fill, entry: Entry) -> None:
        """Ignore it likewise."""

    def _hold(self, outer: Fill | None, inner: Fill) -> None:
        """Ignore it likewise."""


def timed(settings: Settings) -> Fills:
    """Return get-or-compute over a store of its own; what it keeps, no change makes stale.

    >>> from everfresh.engine.request import Request
    >>> fills = timed(Settings(max_bytes=10_000))
    >>> fills.answer(Request("key", "value", "an answer"), lambda: 42).value()
    42
    """
    policy = make_policy(settings.policy, settings.half_life)
    return Fills(_TimedBoard(MemoryStore(settings.max_bytes, policy), _NoMark, settings.clock))
