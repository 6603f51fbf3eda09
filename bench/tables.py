"""Cached tables beside the `tablecache` package, on the same records, in one event loop."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from bench.measure import Result
from everfresh import tables
from everfresh.tables.local import LocalStorageTable
from everfresh.testing.servers import postgres_server, valkey_server

COUNT = 100_000


def run(rounds: int) -> Iterator[Result]:
    if sys.version_info < (3, 12):
        print(
            "     tables: tablecache needs Python 3.12: make bench PYTHON=python3.12 VENV=.venv312"
        )
        return
    from bench.peers import table_cache

    peers = {"ours": OURS, "peer": table_cache.PEER}
    for story in (loading, reading, invalidating, adjusting, holding, refreshing, in_redis):
        yield from asyncio.run(story(peers, rounds))
    yield from synchronous(rounds)
    yield from asyncio.run(scaling(rounds))


def record(number: int) -> dict[str, Any]:
    return {"id": number, "name": f"N{number}", "v": number * 2}


def key(row: dict[str, Any]) -> int:
    return row["id"]


class Kind:
    """Make tables of one package over the same source."""

    def __init__(self, module: Any, local: Any) -> None:
        self.module, self.local = module, local

    def source(self, rows: list[Any]) -> Any:
        class Source(self.module.DbAccess):
            async def get_records(self, records_spec: Any) -> AsyncIterator[Any]:
                if records_spec.query == "all":
                    for row in rows[:COUNT]:
                        yield row
                elif records_spec.query == "some":
                    for number in records_spec.args[0]:
                        yield rows[number]
                else:
                    low, high = map(int, records_spec.args)
                    for row in rows[low:high]:
                        yield row

        return Source()

    def by_key(self, rows: list[Any], db: Any = None, queries: tuple = ("all", "some")) -> Any:
        indexes = self.module.PrimaryKeyIndexes(key, *queries)
        return self.module.CachedTable(indexes, db or self.source(rows), self.local(indexes))

    def by_range(self, rows: list[Any]) -> Any:
        indexes = self.module.PrimaryKeyRangeIndexes(key, "range")
        return self.module.CachedTable(indexes, self.source(rows), self.local(indexes))

    async def settled(self, table: Any) -> None:
        """Wait until a change is all in place; ours is when it returns."""


OURS = Kind(tables, LocalStorageTable)


async def medians_of(
    calls: dict[str, Callable[[], Awaitable[object]]], times: int, rounds: int
) -> dict[str, float]:
    """Return the median microseconds per awaited call; the calls alternate within each round."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            gc.collect()
            gc.disable()
            started = time.perf_counter()
            for _ in range(times):
                await call()
            taken[name].append((time.perf_counter() - started) / times * 1e6)
            gc.enable()
    return {name: statistics.median(values) for name, values in taken.items()}


async def loading(peers: dict[str, Kind], rounds: int) -> list[Result]:
    rows = [record(n) for n in range(COUNT)]

    def load(kind: Kind) -> Callable[[], Awaitable[None]]:
        return lambda: kind.by_key(rows).load("primary_key", all_primary_keys=True)

    calls = {name: load(kind) for name, kind in peers.items()}
    taken = await medians_of(calls, 1, min(rounds, 5))
    ours, peer = (taken[name] / COUNT for name in ("ours", "peer"))
    return [Result("load of 100,000 records, each / tablecache", ours, peer, "µs", 1 / 3)]


async def reading(peers: dict[str, Kind], rounds: int) -> list[Result]:
    rows = [record(n) for n in range(COUNT)]
    keyed, ranged = {}, {}
    for name, kind in peers.items():
        keyed[name], ranged[name] = kind.by_key(rows), kind.by_range(rows)
        await keyed[name].load("primary_key", all_primary_keys=True)
        await ranged[name].load("primary_key", ge=0, lt=COUNT)
    point = {n: (lambda t=t: t.get_first_record("primary_key", 777)) for n, t in keyed.items()}

    async def iterate(table: Any) -> None:
        async for _ in table.get_records("primary_key", ge=5000, lt=6000):
            pass

    async def listed(table: Any) -> list[Any]:
        return [row async for row in table.get_records("primary_key", ge=5000, lt=6000)]

    lists = {
        "ours": lambda: ranged["ours"].get_records_list("primary_key", ge=5000, lt=6000),
        "peer": lambda: listed(ranged["peer"]),
    }
    iterators = {n: (lambda t=t: iterate(t)) for n, t in ranged.items()}
    found = []
    for what, calls, times, goal in (
        ("one record by primary key, await", point, 2000, 1 / 5),
        ("a range of 1,000 records, as a list", lists, 50, 1 / 5),
        ("a range of 1,000 records, async iterator", iterators, 50, 1 / 2),
    ):
        taken = await medians_of(calls, times, rounds)
        found.append(Result(f"{what} / tablecache", taken["ours"], taken["peer"], "µs", goal))
    return found


async def invalidating(peers: dict[str, Kind], rounds: int) -> list[Result]:
    rows = [record(n) for n in range(COUNT)]
    pending, idle = OURS.by_key(rows), OURS.by_key(rows)
    for table in (pending, idle):
        await table.load("primary_key", all_primary_keys=True)
    for number in range(1000):
        spec = pending.indexes.IndexSpec("primary_key", number * 7)
        pending.invalidate_records([spec], [spec])
    calls = {
        "pending": lambda: pending.get_first_record("primary_key", 50_001),
        "idle": lambda: idle.get_first_record("primary_key", 50_001),
    }
    taken = await medians_of(calls, 5000, rounds)
    name = "one record by primary key with 1,000 invalidations pending / with none"
    return [Result(name, taken["pending"], taken["idle"], "µs", 1.1)]


async def adjusting(peers: dict[str, Kind], rounds: int) -> list[Result]:
    rows = [record(n) for n in range(2 * COUNT)]
    low, high = range(COUNT), range(COUNT // 2, COUNT + COUNT // 2)

    async def once(kind: Kind) -> tuple[float, float, float]:
        table = kind.by_key(rows)
        await table.load("primary_key", *low)
        idle = await latency(table, asyncio.sleep(0.3))
        started = time.perf_counter()

        async def change() -> float:
            await table.adjust("primary_key", *high)
            await kind.settled(table)
            return time.perf_counter() - started

        taken: list[float] = []
        busy = await latency(table, change(), taken)
        return taken[0], idle, busy

    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in peers}
    for _ in range(min(rounds, 3)):
        for name, kind in peers.items():
            found[name].append(await once(kind))
    ours, peer = (statistics.median(one[0] for one in found[n]) * 1e3 for n in ("ours", "peer"))
    idle, busy = (statistics.median(one[at] for one in found["ours"]) * 1e3 for at in (1, 2))
    return [
        Result("adjust -50,000 +50,000, read meanwhile / tablecache", ours, peer, "ms", 1 / 3),
        Result("p99 of a read each millisecond, while adjusting / idle", busy, idle, "ms", 3),
    ]


async def latency(table: Any, work: Awaitable[Any], result: list[Any] | None = None) -> float:
    """Return the 99th percentile of seconds from when a read is due until it is answered."""
    running = asyncio.ensure_future(work)
    seen: list[float] = []
    keys = random.Random(1).choices(range(COUNT // 2, COUNT), k=100_000)
    at = 0
    while not running.done():
        due = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        at += 1
        await table.get_first_record("primary_key", keys[at])
        seen.append(time.perf_counter() - due + 0.001)
    if result is not None:
        result.append(await running)
    return statistics.quantiles(seen, n=100)[98]


async def holding(peers: dict[str, Kind], rounds: int) -> list[Result]:
    rows = [record(n) for n in range(COUNT)]
    held = {}
    for name, kind in peers.items():
        table = kind.by_range(rows)
        gc.collect()
        tracemalloc.start()
        await table.load("primary_key", ge=0, lt=COUNT)
        gc.collect()
        held[name] = tracemalloc.get_traced_memory()[0] / COUNT
        tracemalloc.stop()
    name = "bookkeeping of a record, one index / tablecache"
    return [Result(name, held["ours"], held["peer"], "bytes", 1)]


async def refreshing(peers: dict[str, Kind], rounds: int) -> list[Result]:
    from bench.peers import table_cache
    from everfresh.tables.postgres import PostgresAccess

    accesses = {"ours": PostgresAccess, "peer": table_cache.PostgresAccess}
    with postgres_server() as server:
        server.execute("CREATE TABLE t (id integer PRIMARY KEY, name text, v integer)")
        server.execute("INSERT INTO t SELECT n, 'N' || n, n * 2 FROM generate_series(0, 99999) n")
        server.execute("CREATE EXTENSION pg_stat_statements")
        dsn = server.url.replace("+psycopg", "")
        queries = ("SELECT * FROM t", "SELECT * FROM t WHERE id = ANY ($1)")
        taken: dict[str, list[float]] = {name: [] for name in peers}
        asked = 0
        async with accesses["ours"](dsn=dsn) as ours, accesses["peer"](dsn=dsn) as peer:
            made = {}
            for name, db in (("ours", ours), ("peer", peer)):
                made[name] = peers[name].by_key([], db, queries)
                await made[name].load("primary_key", all_primary_keys=True)
            for _ in range(min(rounds, 5)):
                for name, table in made.items():
                    indexes = table.indexes if name == "ours" else table_cache.indexes_of(table)
                    started = time.perf_counter()
                    for number in range(1000):
                        spec = indexes.IndexSpec("primary_key", number * 3)
                        table.invalidate_records([spec], [spec])
                    await table.refresh_invalid()
                    await peers[name].settled(table)
                    taken[name].append((time.perf_counter() - started) * 1e3)
            counting = Counting(ours)
            table = OURS.by_key([], counting, queries)
            await table.load("primary_key", all_primary_keys=True)
            counting.asked = 0
            for number in range(1000):
                spec = table.indexes.IndexSpec("primary_key", number * 3)
                table.invalidate_records([spec], [spec])
            await table.refresh_invalid()
            asked = counting.asked
    ours_ms, peer_ms = (statistics.median(taken[name]) for name in ("ours", "peer"))
    what = "1,000 invalidations of a row, then refresh from PostgreSQL"
    return [
        Result(f"{what} / tablecache", ours_ms, peer_ms, "ms", 1 / 10),
        Result(f"{what}: statements / three", asked, 3, "statements", 1),
    ]


class Counting(tables.DbAccess):
    """Count the queries of another access."""

    def __init__(self, access: Any) -> None:
        self.access, self.asked = access, 0

    def get_records(self, records_spec: Any) -> Any:
        self.asked += 1
        return self.access.get_records(records_spec)

    async def get_records_list(self, records_spec: Any) -> list[Any]:
        self.asked += 1
        return await self.access.get_records_list(records_spec)


async def in_redis(peers: dict[str, Kind], rounds: int) -> list[Result]:
    import asyncpg
    import redis.asyncio

    from bench.peers import table_cache
    from everfresh.tables import redis as ours_in_redis

    count = 10_000
    rows = [record(n) for n in range(count)]
    found = []
    with valkey_server() as valkey, postgres_server() as server:
        server.execute("CREATE TABLE t (id integer PRIMARY KEY, name text, v integer)")
        server.execute("INSERT INTO t SELECT n, 'N' || n, n * 2 FROM generate_series(0, 9999) n")
        client = redis.asyncio.Redis.from_url(valkey.url)
        made: dict[str, dict[str, Any]] = {"point": {}, "range": {}}
        for name, module in (("ours", ours_in_redis), ("peer", table_cache.redis)):

            def stored(indexes: Any, module: Any = module, name: str = name) -> Any:
                return module.RedisTable(
                    client,
                    table_name=f"{name}{id(indexes)}",
                    record_scorer=indexes,
                    primary_key_codec=module.UnsignedInt32Codec(),
                    attribute_codecs={
                        "id": module.UnsignedInt32Codec(),
                        "name": module.StringCodec(),
                        "v": module.SignedInt64Codec(),
                    },
                )

            kind = type(peers[name])(peers[name].module, stored)
            made["point"][name] = kind.by_key(rows)
            await made["point"][name].load("primary_key", *range(count))
            made["range"][name] = kind.by_range(rows)
            await made["range"][name].load("primary_key", ge=0, lt=count)

        async def ranged(table: Any) -> list[Any]:
            return [row async for row in table.get_records("primary_key", ge=5000, lt=6000)]

        calls = {
            n: (lambda t=t: t.get_first_record("primary_key", 777))
            for n, t in made["point"].items()
        }
        taken = await medians_of(calls, 200, rounds)
        found.append(
            Result("Redis: one record / tablecache", taken["ours"], taken["peer"], "µs", 1 / 3)
        )
        point = made["point"]["ours"]
        connection = await asyncpg.connect(server.url.replace("+psycopg", ""))
        calls = {
            "ours": lambda: point.get_first_record("primary_key", 777),
            "peer": lambda: connection.fetchrow("SELECT * FROM t WHERE id = $1", 777),
        }
        taken = await medians_of(calls, 200, rounds)
        name = "Redis: one record / asyncpg by primary key"
        found.append(Result(name, taken["ours"], taken["peer"], "µs", 1))
        calls = {n: (lambda t=t: ranged(t)) for n, t in made["range"].items()}
        taken = await medians_of(calls, 10, rounds)
        name = "Redis: a range of 1,000 records / tablecache"
        found.append(Result(name, taken["ours"], taken["peer"], "µs", 1 / 3))
        await connection.close()
        await client.aclose()
    return found


def synchronous(rounds: int) -> Iterator[Result]:
    class Wrapped:
        def __init__(self, rows: dict[int, Any]) -> None:
            self.rows = rows

        def get(self, number: int) -> Any:
            return self.rows.get(number)

    rows = [record(n) for n in range(COUNT)]
    table, wrapped = OURS.by_key(rows), Wrapped({row["id"]: row for row in rows})
    asyncio.run(table.load("primary_key", all_primary_keys=True))
    taken: dict[str, list[float]] = {"ours": [], "dict": []}
    for _ in range(rounds):
        for name, get in (("ours", table.get), ("dict", wrapped.get)):
            started = time.perf_counter()
            for _ in range(100_000):
                get(777)
            taken[name].append((time.perf_counter() - started) * 10)
    ours, theirs = (statistics.median(taken[name]) for name in ("ours", "dict"))
    yield Result("table.get / a method that wraps dict.get", ours, theirs, "µs", 2.5)


async def scaling(rounds: int) -> list[Result]:
    """Compare the cost of an operation on a million records with that on ten thousand."""
    made = {}
    for count in (10_000, 1_000_000):
        rows = [record(n) for n in range(count)]
        table = OURS.by_range(rows)
        await table.load("primary_key", ge=0, lt=count)
        made[count] = table
    picks = {count: random.Random(2).sample(range(2000, count - 2000), 500) for count in made}

    def calls(operation: Callable[[Any, int], Awaitable[object]]) -> dict[str, Any]:
        async def all_of(table: Any, numbers: list[int]) -> None:
            for number in numbers:
                await operation(table, number)

        return {str(c): (lambda t=t, c=c: all_of(t, picks[c])) for c, t in made.items()}

    async def point(table: Any, number: int) -> None:
        table.get(number)

    async def ranged(table: Any, number: int) -> None:
        await table.get_records_list("primary_key", ge=number, lt=number + 1000)

    async def put(table: Any, number: int) -> None:
        await table.storage_table.put_record({"id": number, "name": "new", "v": 1})

    async def refresh(table: Any, number: int) -> None:
        spec = table.indexes.IndexSpec("primary_key", ge=number, lt=number + 1)
        table.invalidate_records([spec], [spec])
        await table.refresh_invalid()

    found = []
    for what, operation, times in (
        ("one record", point, 10),
        ("a range of 1,000", ranged, 1),
        ("replacing one record", put, 1),
        ("invalidating and refreshing one record", refresh, 1),
    ):
        taken = await medians_of(calls(operation), times, rounds)
        small, large = (taken[str(count)] / 500 for count in made)
        found.append(Result(f"{what} of 1,000,000 / of 10,000", large, small, "µs", 2))
    return found
