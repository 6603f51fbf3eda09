"""What is asked of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from everfresh.kernel.entry import TIMED, Entry
from everfresh.kernel.freshness import early_probability
from everfresh.kernel.ledger import Fill
from everfresh.kernel.plan import Source

__all__ = ["Request"]


@dataclass(slots=True, eq=False)
class Request:
    """Say what is asked and how long its answer may be kept.

    ``ttl`` and ``keep_errors`` (seconds) are fixed when an answer is kept; ``max_age`` (seconds)
    is how old a kept one may be for whoever asks now, ``grace`` for how many seconds after its end
    an answer that no change has touched still serves, ``beta`` is XFetch's. ``anew``: no kept
    answer will do. ``alone``: it joins no other's computation. ``probe`` is what the hit path looks
    up in ``shortcuts``; ``detail`` is what a surface needs to ask again, ``renew`` does it;
    ``current`` tells whether ``sources`` still hold;
    ``seal`` prepares an entry's value for being shared by hits; ``fill`` is the computation started
    for it last.
    """

    key: str
    kind: str
    label: str
    sources: tuple[Source, ...] = ()
    ttl: float | None = None
    keep_errors: float | None = None
    max_age: float | None = None
    grace: float | None = None
    beta: float | None = None
    anew: bool = False
    alone: bool = False
    shortcuts: dict[object, Entry] | None = None
    probe: object = None
    detail: object = None
    renew: Callable[[], object] | None = None
    current: Callable[[], bool] | None = None
    seal: Callable[[Entry], None] | None = None
    fill: Fill | None = None

    def takes(self, entry: Entry, now: float) -> bool:
        """Whether whoever asks at ``now`` may be given this entry."""
        if self.anew or (self.max_age is not None and now - entry.filled_at >= self.max_age):
            return False
        return entry.usable(now) or self._in_grace(entry, now)

    def ages(self, entry: Entry, now: float, chance: float) -> bool:
        """Whether a reader who was given the entry at ``now`` should have it made anew.

        ``chance`` is a random number from 0 up to 1.
        """
        if entry.deadline is None or (self.grace is None and self.beta is None):
            return False
        beta = 0.0 if self.beta is None else self.beta
        return chance < early_probability(entry.deadline - now, entry.cost, beta)

    def _in_grace(self, entry: Entry, now: float) -> bool:
        # only what has aged: a change, or one that is being committed, makes the state another
        if self.grace is None or entry.deadline is None or entry.state != TIMED:
            return False
        return now < entry.deadline + self.grace
