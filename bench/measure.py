"""Take medians of alternating rounds."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """One row: `ratio` is ours ÷ peer, and holds when it is at most `goal`."""

    name: str
    ours: float
    peer: float
    unit: str
    goal: float

    @property
    def ratio(self) -> float:
        if not self.peer:
            return math.inf if self.ours else 0.0
        return self.ours / self.peer

    @property
    def holds(self) -> bool:
        return self.ratio <= self.goal

    def to_dict(self) -> dict:
        return {**asdict(self), "ratio": self.ratio, "holds": self.holds}

    def line(self) -> str:
        mark = "ok  " if self.holds else "MISS"
        return (
            f"{mark} {self.name}: {self.ours:.4g} against {self.peer:.4g} {self.unit}, "
            f"ratio {self.ratio:.3g} (goal at most {self.goal:.3g})"
        )


def timed(call: Callable[[], object], times: int) -> float:
    """Return the microseconds per call of one round."""
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - started) / times * 1e6
    finally:
        gc.enable()


def medians(calls: dict[str, Callable[[], object]], times: int, rounds: int) -> dict[str, float]:
    """Return the median microseconds per call of each; the calls alternate within each round."""
    for call in calls.values():
        timed(call, min(times, 1000))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(timed(call, times))
    return {name: statistics.median(values) for name, values in taken.items()}


async def timed_async(call: Callable[[], Awaitable[object]], times: int) -> float:
    """Return the microseconds per awaited call of one round."""
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in range(times):
            await call()
        return (time.perf_counter() - started) / times * 1e6
    finally:
        gc.enable()


async def medians_async(
    calls: dict[str, Callable[[], Awaitable[object]]], times: int, rounds: int
) -> dict[str, float]:
    """Return what `medians` does, in the event loop that runs."""
    for call in calls.values():
        await timed_async(call, min(times, 1000))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(await timed_async(call, times))
    return {name: statistics.median(values) for name, values in taken.items()}
