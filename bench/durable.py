"""What a get from a file costs, beside diskcache's: the same answer kept in both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import diskcache

from bench.measure import Result, medians
from everfresh.engine.rows import make_rows, make_shared_rows
from everfresh.kernel.entry import Entry
from everfresh.kernel.mark import HistoryMark
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.sqlite import SqliteStore

CODEC = ChoosingCodec(make=make_rows, make_shared=make_shared_rows)  # as the cache's own store
COLUMNS = ("id", "carrier", "delay", "day", "distance")


def run(rounds: int) -> Iterator[Result]:
    with (
        tempfile.TemporaryDirectory() as folder,
        SqliteStore(Path(folder) / "ours.db", codec=CODEC) as ours,
        diskcache.Cache(Path(folder) / "theirs") as theirs,
    ):
        for number in range(2000):  # neither file is one page deep
            keep(ours, theirs, f"{number:040x}", 1)
        for count, what in ((1, "one row"), (100, "100 rows")):
            yield get(ours, theirs, count, what, rounds)


def get(ours, theirs, count, what, rounds):
    key = "f" * 40
    keep(ours, theirs, key, count)
    assert ours.get(key).value == theirs.get(key)
    calls = {"ours": lambda: ours.get(key), "diskcache": lambda: theirs.get(key)}
    taken = medians(calls, 5000 // count + 1000, rounds)
    name = f"SqliteStore.get of {what} / diskcache get"
    return Result(name, taken["ours"], taken["diskcache"], "µs", 1.0)


def keep(ours, theirs, key, count):
    rows = [(n, "UA", n / 3, "2013-06-01", n * 7) for n in range(count)]
    rows = make_rows(COLUMNS, rows)
    label = "SELECT id, carrier, delay, day, distance FROM flights WHERE month = :m"
    seen = HistoryMark("outbox", "a1b2c3d4", 12345)
    ours.put(Entry(key, rows, "sql", label, bytes=rows.nbytes, cost=0.01, seen=seen))
    theirs.set(key, rows)
