"""What a change costs: it touches 10 of the kept entries, however many there are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import sqlalchemy as sa

from bench.data import flights
from bench.measure import Result

STATEMENT = "SELECT :copy AS copy, arr_delay FROM flights WHERE id = :id"
COPIES = 10


def run(rounds: int) -> Iterator[Result]:
    few = measure(1_000, rounds)
    many = measure(100_000, rounds)
    yield Result("a change that touches 10 of 100,000 kept entries", many, 1000.0, "µs", 1.0)
    yield Result("the same / with 1,000 kept", many, few, "µs", 2.0)


def measure(kept: int, rounds: int) -> float:
    """Return the median microseconds that a commit spends in the cache."""
    with flights(kept // COPIES, max_bytes=1 << 30) as cache:
        for row in range(kept // COPIES):
            for copy in range(COPIES):
                cache.sql(STATEMENT, copy=copy, id=row)
        assert cache.stats().entries == kept
        spent = []
        begin, end = cache.board.begin, cache.board.end

        def timed(call, *args, **options):
            started = time.perf_counter()
            result = call(*args, **options)
            spent[-1] += (time.perf_counter() - started) * 1e6
            return result

        cache.board.begin = lambda *a, **o: timed(begin, *a, **o)
        cache.board.end = lambda *a, **o: timed(end, *a, **o)
        for number in range(rounds):
            spent.append(0.0)
            with cache.engine.begin() as connection:
                update = sa.text("UPDATE flights SET arr_delay = arr_delay + 1 WHERE id = :id")
                connection.execute(update, {"id": number})
            assert cache.stats().entries == kept - COPIES
            for copy in range(COPIES):
                cache.sql(STATEMENT, copy=copy, id=number)
        return statistics.median(spent)
