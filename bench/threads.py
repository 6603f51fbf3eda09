"""Wall seconds ÷ all hits with 8 threads, beside that with 1."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator

from bench.data import ONE_ROW, flights
from bench.measure import Result

HITS = 40_000


def run(rounds: int) -> Iterator[Result]:
    from everfresh.micro import QueryCache

    with flights() as cache, QueryCache(cache.engine, threshold=600) as micro:

        @cache.cached
        def double(n):
            return n * 2

        parameters = {"m": 6}
        calls = {
            "cache.sql": lambda: cache.sql(ONE_ROW, m=6),
            "cache.cached": lambda: double(21),
            "QueryCache": lambda: micro.one(ONE_ROW, parameters),
        }
        for name, call in calls.items():
            call()
            one = statistics.median(per_hit(call, 1) for _ in range(rounds))
            eight = statistics.median(per_hit(call, 8) for _ in range(rounds))
            yield Result(f"{name} hit with 8 threads / with 1", eight, one, "µs", 1.3)


def per_hit(call: Callable[[], object], threads: int) -> float:
    """Return wall microseconds ÷ all hits."""
    each = HITS // threads
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(each):
            call()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - started) / (each * threads) * 1e6
