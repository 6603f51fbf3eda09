"""Eviction policies: which kept entry is worth least per byte.

A policy gives each entry a rank that only grows while the entry is kept, so a heap that is
corrected when its top is popped always finds the true minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log, log1p
from typing import Protocol

from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Standing

__all__ = ["Gdsf", "HalfLife", "Lru", "Policy", "make_policy"]


class Policy(Protocol):
    """Rank entries; the one with the lowest rank goes first."""

    def touch(self, standing: Standing, touches: int) -> None:
        """Note that the entry was asked for, as touch number ``touches`` of its pool."""

    def evicted(self, standing: Standing) -> None:
        """Note that the entry went to make room."""


def _log_add(a: float, b: float) -> float:
    """Return ``log(exp(a) + exp(b))`` without overflow."""
    low, high = (a, b) if a < b else (b, a)
    return high + log1p(exp(low - high))


def _density(standing: Standing) -> float:
    """Return log(seconds per byte); nothing counts as the smallest amount there is."""
    return log(max(standing.cost, 1e-9)) - log(max(standing.size, 1))


class HalfLife:
    """Score by compute seconds per byte, weighted by touches that fade with a half-life.

    For touch ``n`` of the pool the entry's multiplier grows by ``(1 + ln2/H)**n``; score =
    multiplier x seconds / bytes (the scorer of the `cachey` package). Kept as a logarithm: the
    plain form overflows at about a million touches for H = 1000.

    >>> policy, old, new = HalfLife(half_life=10), Standing(1.0, 100), Standing(1.0, 100)
    >>> policy.touch(old, 1)
    >>> policy.touch(new, 2_000_000)
    >>> old.rank < new.rank
    True
    """

    def __init__(self, half_life: float = 1000.0) -> None:
        if not half_life > 0:
            raise ConfigurationError(f"half_life must be above 0 touches, not {half_life!r}")
        self.growth = log1p(log(2) / half_life)

    def touch(self, standing: Standing, touches: int) -> None:
        """Add this touch's weight, which is more than that of every earlier one."""
        gain = touches * self.growth
        known = standing.weight
        standing.weight = _log_add(known, gain) if known else gain
        standing.rank = standing.weight + _density(standing)

    def evicted(self, standing: Standing) -> None:
        """Nothing to note."""


class Gdsf:
    """Greedy-Dual-Size-Frequency: rank = L + touches x cost / size, L the rank of the last to go.

    Source: L. Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency
    caching policy", HP Labs 1998.
    """

    def __init__(self) -> None:
        self._floor = 0.0

    def touch(self, standing: Standing, touches: int) -> None:
        """Count the touch on top of the floor as it is now."""
        standing.weight += 1
        standing.rank = self._floor + standing.weight * exp(_density(standing))

    def evicted(self, standing: Standing) -> None:
        """Raise the floor to the rank of what went."""
        self._floor = max(self._floor, standing.rank)


class Lru:
    """Least recently used first."""

    def touch(self, standing: Standing, touches: int) -> None:
        """Note when it was asked for."""
        standing.rank = float(touches)

    def evicted(self, standing: Standing) -> None:
        """Nothing to note."""


def make_policy(name: str, half_life: float = 1000.0) -> Policy:
    """Return the policy of this name: ``half_life``, ``gdsf`` or ``lru``.

    >>> type(make_policy("lru")).__name__
    'Lru'
    """
    makers: dict[str, Callable[[], Policy]] = {
        "half_life": lambda: HalfLife(half_life),
        "gdsf": Gdsf,
        "lru": Lru,
    }
    if name not in makers:
        raise ConfigurationError(f"unknown policy {name!r}: use one of {', '.join(makers)}")
    return makers[name]()
