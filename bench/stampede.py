"""Many callers at cold keys: how many queries reach the database, and whether hits wait."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from bench.data import ONE_ROW, flights
from bench.measure import Result, timed


def run(rounds: int) -> Iterator[Result]:
    with flights() as cache:
        cache.sql("SELECT 1 AS ready")
        queries = []
        sa.event.listen(
            cache.engine, "before_cursor_execute", lambda *args: queries.append(args[2])
        )
        sa.event.listen(cache.engine, "before_cursor_execute", lambda *args: time.sleep(0.05))
        for keys in (1, 50):
            queries.clear()
            threads(cache, keys)
            asked = sum("flights" in query for query in queries)
            yield Result(
                f"queries of 100 threads at {keys} cold key(s)", asked, keys, "queries", 1.0
            )
        for keys in (1, 50):
            yield Result(
                f"computations of 1,000 tasks at {keys} cold key(s)",
                tasks(cache, keys),
                keys,
                "computations",
                1.0,
            )
        yield hit_meanwhile(cache, rounds)


def threads(cache, keys):
    cache.invalidate(None)
    barrier = threading.Barrier(100)

    def ask(n):
        barrier.wait()
        return cache.sql(ONE_ROW, m=n % keys)

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(ask, range(100)))


def tasks(cache, keys):
    calls = []

    @cache.cached
    async def compute(n):
        calls.append(n)
        await asyncio.sleep(0.01)
        return n

    async def main():
        await asyncio.gather(*(compute(n % keys) for n in range(1000)))

    asyncio.run(main())
    return len(calls)


def hit_meanwhile(cache, rounds):
    """A hit while another key is being filled (the fill waits, it does not compute)."""
    release = threading.Event()

    @cache.cached
    def compute(n):
        if n:
            release.wait()
        return n

    compute(0)
    quiet = statistics.median(timed(lambda: compute(0), 5000) for _ in range(rounds))
    filler = threading.Thread(target=compute, args=(1,))
    filler.start()
    busy = statistics.median(timed(lambda: compute(0), 5000) for _ in range(rounds))
    release.set()
    filler.join()
    return Result("a hit while another key is filled / otherwise", busy, quiet, "µs", 1.3)
