"""What a hit costs while a thread watches for other writers, beside one that need not look."""

from __future__ import annotations

from collections.abc import Iterator

from bench.data import ONE_ROW, flights
from bench.measure import Result, medians

TIMES = 50_000


def run(rounds: int) -> Iterator[Result]:
    with flights() as watched, flights() as alone:
        watched.track()
        alone.proof.close()
        alone.proof.until = None  # as where nobody else can write
        assert watched.proof.until is not None
        functions = [cache.cached(double) for cache in (watched, alone)]
        calls = {
            "watched": lambda: watched.sql(ONE_ROW, m=6),
            "alone": lambda: alone.sql(ONE_ROW, m=6),
            "watched_function": lambda: functions[0](21),
            "function": lambda: functions[1](21),
        }
        taken = medians(calls, TIMES, rounds)
        name = "hit while a poller watches / one without"
        yield Result(f"cache.sql {name}", taken["watched"], taken["alone"], "µs", 1.1)
        ours, peer = taken["watched_function"], taken["function"]
        yield Result(f"cache.cached {name}", ours, peer, "µs", 1.1)


def double(n):
    return n * 2
