"""What a hit costs in an event loop, beside cashews' decorator in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import cashews

import everfresh
from bench.data import ONE_ROW, flights
from bench.measure import Result, medians_async

TIMES = 20_000


def run(rounds: int) -> Iterator[Result]:
    with flights() as blocking:
        url = str(blocking.engine.url)
        yield from asyncio.run(measured(url, rounds))


async def measured(url: str, rounds: int) -> list[Result]:
    peer = cashews.Cache()
    peer.setup("mem://")
    async with everfresh.open_async(url) as cache:

        async def double(n):
            return n * 2

        async def ask(month):
            return await cache.sql(ONE_ROW, m=month)

        ours, theirs = cache.cached(double), peer(ttl=600)(double)
        asked = peer(ttl=600)(ask)
        assert await ours(21) == await theirs(21) == 42
        assert tuple((await cache.sql(ONE_ROW, m=6))[0]) == tuple((await asked(6))[0])
        calls = {
            "sql": lambda: cache.sql(ONE_ROW, m=6),
            "cashews_sql": lambda: asked(6),
            "cached": lambda: ours(21),
            "cashews": lambda: theirs(21),
        }
        taken = await medians_async(calls, TIMES, rounds)
    await peer.close()
    unit, goal = "µs", 1 / 3
    return [
        Result(
            "await cache.sql hit / cashews decorator of the query",
            taken["sql"],
            taken["cashews_sql"],
            unit,
            goal,
        ),
        Result(
            "await cache.cached hit / cashews decorator",
            taken["cached"],
            taken["cashews"],
            unit,
            goal,
        ),
    ]
