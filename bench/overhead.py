"""What the cache costs where it never hits: a query of about 1 ms, other parameters each time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import sqlalchemy as sa

from bench.data import flights
from bench.measure import Result, medians

STATEMENT = "SELECT sum(arr_delay) AS total FROM flights WHERE arr_delay <> :n AND month < :n + 100"


def run(rounds: int) -> Iterator[Result]:
    with flights(11_500) as cache:
        numbers = count(1)
        clause = sa.text(STATEMENT)

        def plain():
            with cache.engine.connect() as connection:
                return connection.execute(clause, {"n": next(numbers)}).fetchall()

        def ours():
            return cache.sql(STATEMENT, n=next(numbers))

        taken = medians({"ours": ours, "plain": plain}, 300, rounds)
        assert cache.stats().hits == 0
        name = "a miss of cache.sql / the query alone"
        yield Result(name, taken["ours"] / 1000, taken["plain"] / 1000, "ms", 1.1)
