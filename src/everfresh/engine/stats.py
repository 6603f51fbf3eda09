"""Counters of one cache and the figures made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from everfresh.kernel.entry import Entry

__all__ = ["Counters", "Stats", "figures"]

_REASONS = 100  # different bypass reasons that are counted apart; the rest count as "other"


@dataclass(slots=True)
class Counters:
    """Count what happened.

    Changed under the engine's lock, but for bypasses, where a count lost in a race does no harm.
    """

    fills: int = 0
    refreshes: int = 0
    joined: int = 0
    voided: int = 0
    errors: int = 0
    invalidated: int = 0
    evicted: int = 0
    recalled: int = 0
    cutoffs: int = 0
    retired_hits: int = 0
    retired_seconds_saved: float = 0.0
    bypasses: Counter[str] = field(default_factory=Counter)

    def bypass(self, reason: str) -> None:
        """Count a bypass under its reason."""
        known = reason in self.bypasses or len(self.bypasses) < _REASONS
        self.bypasses[reason if known else "other"] += 1


@dataclass(frozen=True, slots=True)
class Stats:
    """Hold the figures of a cache since it was opened.

    ``bytes`` and ``limit`` are bytes, ``seconds_saved`` is what the hits would have cost;
    ``recalled`` counts answers found in the store beyond memory, ``cutoffs`` those that were kept
    because their parts came out the same, ``voided`` computations whose
    source changed meanwhile, ``joined`` callers that shared the computation of another.
    ``lease_waits`` counts waits for other processes' computations, ``lease_seconds`` their time.
    ``lag`` is how many seconds ago other writers were last heard, None where there are none;
    ``troubles`` says which parts of the cache cannot be used now, and why.
    """

    entries: int
    bytes: int
    limit: int
    hits: int
    fills: int
    refreshes: int
    bypasses: dict[str, int]
    joined: int
    voided: int
    errors: int
    invalidated: int
    evicted: int
    recalled: int
    cutoffs: int
    seconds_saved: float
    hit_ratio: float
    lease_waits: int = 0
    lease_seconds: float = 0.0
    lag: float | None = None
    troubles: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)


def figures(counters: Counters, kept: Sequence[Entry], limit: int) -> Stats:
    """Return the figures of a cache that counted this and keeps these entries."""
    hits = counters.retired_hits + sum(entry.hits for entry in kept)
    asked = hits + counters.recalled + counters.cutoffs + counters.fills + counters.refreshes
    asked += sum(counters.bypasses.values())
    saved = counters.retired_seconds_saved + sum(entry.hits * entry.cost for entry in kept)
    return Stats(
        entries=len(kept),
        bytes=sum(entry.bytes for entry in kept),
        limit=limit,
        hits=hits,
        fills=counters.fills,
        refreshes=counters.refreshes,
        bypasses=dict(counters.bypasses),
        joined=counters.joined,
        voided=counters.voided,
        errors=counters.errors,
        invalidated=counters.invalidated,
        evicted=counters.evicted,
        recalled=counters.recalled,
        cutoffs=counters.cutoffs,
        seconds_saved=saved,
        hit_ratio=(hits + counters.recalled) / asked if asked else 0.0,
    )
