"""A dashboard under single-row commits: database time, over-invalidation, stale answers.

Time is simulated: every simulated second the dashboard asks its questions five times, and the
writer commits 1, 10 or 100 changes of one random flight in between. Each strategy sees the same
questions and changes; every answer is compared with the database.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cachetools

from bench.data import flights
from bench.measure import Result

ROWS = 20_000
SECONDS = 8
BY_CARRIER = (
    "SELECT carrier, count(*) AS flights, avg(arr_delay) AS delay FROM flights "
    "WHERE month = :m GROUP BY carrier"
)
LATE = "SELECT count(*) AS late FROM flights WHERE month = :m AND arr_delay > 60"
OVERALL = "SELECT max(arr_delay) AS worst FROM flights"
QUESTIONS = [(text, {"m": m}) for m in range(1, 13) for text in (BY_CARRIER, LATE)]
QUESTIONS.append((OVERALL, {}))
WRITE = "UPDATE flights SET arr_delay = ? WHERE id = ?"
_CHILD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
for line in sys.stdin:
    delay, flight = line.split()
    with connection:
        connection.execute(sys.argv[2], (float(delay), int(flight)))
    print("done", flush=True)
"""


@dataclass
class Outcome:
    """What one strategy spent on the same run."""

    spent: float = 0.0
    refilled: int = 0
    unchanged: int = 0
    stale: int = 0
    asked: int = 0

    @property
    def over_invalidation(self) -> float:
        return self.unchanged / self.refilled if self.refilled else 0.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(rounds: int) -> Iterator[Result]:
    for writer in (by_this_process, by_another):
        for rate in (1, 10, 100):
            rows, tables, timed = (play(s, writer, rate) for s in (by_row, by_table, by_time))
            assert rows.stale == tables.stale == 0
            what = f"dashboard, {rate} writes/s {writer.__name__.replace('_', ' ')}"
            spent, without = rows.spent * 1000, direct(rows.asked) * 1000
            yield Result(f"{what}: database time / without a cache", spent, without, "ms", 1.0)
            against = tables.spent * 1000
            yield Result(f"{what}: database time / table-level", spent, against, "ms", 1.0)
            yield Result(
                f"{what}: refilled but unchanged / table-level",
                rows.over_invalidation,
                tables.over_invalidation,
                "of refills",
                1.0,
            )
            yield Result(
                f"{what}: stale answers / 5 s TTL", rows.stale, timed.stale, "answers", 0.0
            )


def direct(asked: int) -> float:
    """Return the seconds that so many questions take without a cache."""
    with flights(ROWS) as cache:
        taken = []
        for text, parameters in QUESTIONS * 5:
            started = time.perf_counter()
            cache.reader.fill(cache.reader.prepare(text), parameters)
            taken.append(time.perf_counter() - started)
    return sum(taken) / len(taken) * asked


def play(strategy: Callable, writer: Callable, rate: int) -> Outcome:
    """Run one strategy against one writer; the first asking of all is not counted."""
    chance, outcome, clock = random.Random(rate), Outcome(), Clock()
    with flights(ROWS, clock=clock, freshness="strict") as cache:
        cache.track()
        ask, before = strategy(cache), {}
        with writer(cache) as write:
            for n, question in enumerate(schedule(chance, rate)):
                clock.now += 1 / (5 * len(QUESTIONS) + rate)
                if question is None:
                    write(chance.random() * 120 - 20, chance.randrange(ROWS))
                else:
                    judge(cache, ask, *question, before, outcome, counted=n > 2 * len(QUESTIONS))
    return outcome


def schedule(chance: random.Random, rate: int) -> Iterator[tuple[str, dict] | None]:
    yield from QUESTIONS
    for _ in range(SECONDS):
        second = [*QUESTIONS * 5, *[None] * rate]
        chance.shuffle(second)
        yield from second


def judge(cache, ask, text, parameters, before, outcome, *, counted):
    answer, seconds = ask(text, parameters)
    truth = plain(cache, text, parameters)
    key = (text, *parameters.values())
    if counted:
        outcome.asked += 1
        outcome.spent += seconds
        outcome.stale += answer != truth
        if seconds:
            outcome.refilled += 1
            outcome.unchanged += before.get(key) == answer
    if seconds:
        before[key] = answer


def plain(cache, text, parameters):
    return [tuple(row) for row in cache.reader.bypass(cache.reader.prepare(text), parameters)]


# strategies: each returns rows and the seconds that the database took, 0 for a hit


def by_row(cache):
    def ask(text, parameters):
        rows = cache.sql(text, parameters)
        receipt = rows.receipt
        return [tuple(r) for r in rows], 0.0 if receipt.status == "hit" else receipt.cost

    return ask


def by_table(cache):
    @cache.cached(depends_on="flights")
    def kept(text, *values):
        started = time.perf_counter()
        rows = plain(cache, text, {"m": values[0]} if values else {})
        kept.seconds = time.perf_counter() - started
        return rows

    def ask(text, parameters):
        kept.seconds = 0.0
        return kept(text, *parameters.values()), kept.seconds

    return ask


def by_time(cache):
    kept = cachetools.TTLCache(10_000, 5, timer=cache.settings.clock)

    def ask(text, parameters):
        key, seconds = (text, *parameters.values()), 0.0
        if key not in kept:
            started = time.perf_counter()
            kept[key] = plain(cache, text, parameters)
            seconds = time.perf_counter() - started
        return kept[key], seconds

    return ask


# writers


class by_this_process:  # noqa: N801 - named as the result shows it
    def __init__(self, cache):
        self.cache = cache

    def __enter__(self):
        return self.write

    def write(self, delay, flight):
        with self.cache.engine.begin() as connection:
            connection.exec_driver_sql(WRITE, (delay, flight))

    def __exit__(self, *error):
        return None


class by_another:  # noqa: N801
    def __init__(self, cache):
        path = cache.engine.url.database
        self.child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, path, WRITE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self.write

    def write(self, delay, flight):
        self.child.stdin.write(f"{delay} {flight}\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "done\n"

    def __exit__(self, *error):
        self.child.stdin.close()
        self.child.wait(10)
        self.child.stdout.close()
