"""What a hit costs, beside the peers' own decorators and regions."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import cachebox
import cachetools
import sqlalchemy as sa
from dogpile.cache import make_region

from bench.data import ONE_ROW, flights
from bench.measure import Result, medians

TIMES = 50_000


def run(rounds: int) -> Iterator[Result]:
    with flights() as cache:
        yield from sql_hit(cache, rounds)
        yield from cached_hit(cache, rounds)
        yield from micro_hit(cache, rounds)


def sql_hit(cache, rounds):
    region = make_region().configure("dogpile.cache.memory")

    def ask(month):
        with cache.engine.connect() as connection:
            return connection.execute(sa.text(ONE_ROW), {"m": month}).fetchall()

    def dogpile():
        return region.get_or_create(f"{ONE_ROW}|m=6", ask, creator_args=((6,), {}))

    assert tuple(cache.sql(ONE_ROW, m=6)[0]) == tuple(dogpile()[0])
    taken = medians({"ours": lambda: cache.sql(ONE_ROW, m=6), "dogpile": dogpile}, TIMES, rounds)
    name = "cache.sql hit / dogpile.cache memory get_or_create"
    yield Result(name, taken["ours"], taken["dogpile"], "µs", 1 / 3)


def cached_hit(cache, rounds):
    def double(n):
        return n * 2

    ours = cache.cached(double)
    ours_ttl = cache.cached(ttl=600)(double)
    tools = cachetools.cached(cachetools.TTLCache(1000, 600), lock=threading.Lock())(double)
    box = cachebox.cached(cachebox.Cache(1000))(double)
    calls = {
        "ours": lambda: ours(21),
        "ours_ttl": lambda: ours_ttl(21),
        "cachetools": lambda: tools(21),
        "cachebox": lambda: box(21),
    }
    taken = medians(calls, TIMES, rounds)
    unit = "µs"
    yield Result(
        "cache.cached hit / cachetools TTL decorator with a lock",
        taken["ours"],
        taken["cachetools"],
        unit,
        0.6,
    )
    yield Result(
        "cache.cached hit / cachebox decorator", taken["ours"], taken["cachebox"], unit, 1.6
    )


def micro_hit(cache, rounds):
    from bench.peers import document_micro
    from everfresh.micro import QueryCache

    with QueryCache(cache.engine, threshold=600) as ours:
        theirs = document_micro.QueryCache(ours.db, threshold=600)
        assert tuple(ours.one(ONE_ROW, {"m": 6})) == tuple(theirs.one(ONE_ROW, {"m": 6}))
        parameters = {"m": 6}
        calls = {
            "ours": lambda: ours.one(ONE_ROW, parameters),
            "document": lambda: theirs.one(ONE_ROW, parameters),
        }
        taken = medians(calls, TIMES, rounds)
        name = "QueryCache.one hit / the document's design"
        yield Result(name, taken["ours"], taken["document"], "µs", 1.0)
