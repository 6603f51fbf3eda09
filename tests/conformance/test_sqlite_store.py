"""The SQLite store under the conformance suites, and what only it promises."""

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from everfresh.engine.rows import make_rows
from everfresh.errors import CodecError, ConfigurationError, UnknownURLError, ValueTooLargeError
from everfresh.kernel.entry import TIMED, Entry
from everfresh.kernel.mark import HistoryMark
from everfresh.kernel.score import HalfLife, make_policy
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.memory import MemoryStore
from everfresh.stores.sqlite import SqliteStore
from everfresh.stores.urls import StoreOptions, make_store
from everfresh.testing.conformance import SharedStoreConformance, StoreConformance


class OnOneFile:
    policy = "half_life"

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        self.folder, self.opened = tmp_path, []
        yield
        for store in self.opened:
            store.close()

    def make(self, max_bytes):
        path = self.folder / f"{len(self.opened)}.db"
        self.opened.append(SqliteStore(path, max_bytes, make_policy(self.policy)))
        return self.opened[-1]

    def reopen(self, store):
        path = store._file.path
        self.opened.append(SqliteStore(path, store.max_bytes, make_policy(self.policy)))
        return self.opened[-1]


class TestHalfLife(OnOneFile, StoreConformance, SharedStoreConformance):
    pass


class TestGdsf(OnOneFile, StoreConformance, SharedStoreConformance):
    policy = "gdsf"


class TestLru(OnOneFile, StoreConformance, SharedStoreConformance):
    policy = "lru"


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


def entry(key, size=10, cost=1.0, value="v"):
    return Entry(key, value, bytes=size, cost=cost)


def statements(store):
    """What the idle connections are asked from now on."""
    seen = []
    for connection in store._file.idle:
        connection.set_trace_callback(seen.append)
    return seen


def test_what_a_row_keeps(path):
    codec = ChoosingCodec(make=make_rows)
    clock, wall = Clock(100.0), Clock(5000.0)
    kept = Entry(
        "k",
        make_rows(("a", "b"), [(1, "x"), (None, "y")]),
        kind="sql",
        label="SELECT a, b FROM t",
        seen=HistoryMark("outbox", "a1", 7),
        filled_at=90.0,
        cost=2.5,
        bytes=300,
        deadline=120.0,
        parents=("p1", "p2"),
        origin="refresh",
        reason="outdated",
    )
    with SqliteStore(path, codec=codec, clock=clock, wall=wall) as store:
        store.put(kept)
        digest = store.digest("k")
    clock, wall = Clock(7.0), Clock(5004.0)  # another process, another monotonic clock
    with SqliteStore(path, codec=codec, clock=clock, wall=wall) as store:
        found = store.get("k")
        assert store.digest("k") == digest
    same = ("key", "value", "kind", "label", "seen", "cost", "bytes", "parents", "origin", "reason")
    assert [getattr(found, n) for n in same] == [getattr(kept, n) for n in same]
    assert (found.filled_at, found.deadline) == (pytest.approx(-7.0), pytest.approx(23.0))
    assert (found.state, found.sources) == (TIMED, ())
    assert found.usable(22.9)
    assert not found.usable(23.1)


def test_a_wall_clock_set_back_makes_nothing_live_longer_than_anew(path):
    clock, wall = Clock(0.0), Clock(5000.0)
    with SqliteStore(path, clock=clock, wall=wall) as store:
        store.put(Entry("k", 1, bytes=1, deadline=60.0))
        wall.now = 1000.0
        found = store.get("k")
    assert (found.filled_at, found.deadline) == (0.0, 60.0)


def test_the_digest_is_of_the_value_alone(path):
    with SqliteStore(path) as store:
        store.put(Entry("a", [1, 2], label="one", bytes=1))
        store.put(Entry("b", [1, 2], label="two", bytes=1))
        store.put(Entry("c", [1, 2.0], bytes=1))
        assert store.digest("a") == store.digest("b") != store.digest("c")
        assert store.digest("absent") is None


def test_a_value_the_codec_does_not_carry_leaves_all_as_it_was(path):
    with SqliteStore(path, max_bytes=20) as store:
        store.put(entry("a"))
        with pytest.raises(CodecError):
            store.put(Entry("a", object(), bytes=20))
        assert store.get("a").value == "v"


def test_no_hit_writes(path):
    with SqliteStore(path) as store:
        store.put(entry("a"))
        seen = statements(store)
        for _ in range(100):
            store.get("a")
        assert len(seen) == 100
        assert all(text.startswith("SELECT") for text in seen)


def test_hits_are_written_behind_in_a_constant_number_of_statements(path):
    with SqliteStore(path) as store:
        store.put(entry("a"))
        for _ in range(100):
            store.get("a")
        seen = statements(store)
        store.flush()
        assert len(seen) < 8
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT hits FROM kept").fetchall() == [(100,)]
        assert raw.execute("SELECT touches FROM pool").fetchall() == [(101,)]


@pytest.mark.parametrize("policy", ["half_life", "gdsf", "lru"])
def test_the_same_go_as_from_memory(path, policy):
    """The order of eviction is that of the reference store, through reopenings."""
    sizes = [3 + n * 7 % 17 for n in range(60)]
    costs = [0.1 + n * 5 % 11 for n in range(60)]
    memory = MemoryStore(100, make_policy(policy, 20))
    for n, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
        asked = sorted(kept.key for kept in memory.entries())[::3]
        for key in asked:
            memory.touched(memory.get(key).standing)
        expected = {gone.key for gone in memory.put(entry(f"k{n}", size, cost))}
        with SqliteStore(path, 100, make_policy(policy, 20)) as store:
            for key in asked:
                assert store.get(key) is not None
            assert {gone.key for gone in store.put(entry(f"k{n}", size, cost))} == expected


def test_another_policy_ranks_what_is_there_anew(path):
    with SqliteStore(path, 30, make_policy("lru")) as store:
        for key, cost in (("dear", 9.0), ("cheap", 0.1), ("middle", 1.0)):
            store.put(entry(key, cost=cost))
    with SqliteStore(path, 30, HalfLife()) as store:
        assert [gone.key for gone in store.put(entry("new"))] == ["cheap"]


def test_what_went_comes_without_its_value(path):
    with SqliteStore(path, 10) as store:
        store.put(Entry("a", "v", kind="sql", label="L", bytes=10, cost=0.001))
        (gone,) = store.put(entry("b"))
        assert (gone.key, gone.kind, gone.label, gone.bytes, gone.value) == (
            "a",
            "sql",
            "L",
            10,
            None,
        )


def test_threads_share_one_store(path):
    wrong = []

    def work(name):
        for n in range(60):
            store.put(entry(f"{name}{n}", value=[name, n]))
            found = store.get(f"{name}{n}")
            if found is not None and found.value != [name, n]:
                wrong.append(found)

    with SqliteStore(path, 300) as store:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert store.bytes == sum(e.bytes for e in store.entries()) <= 300
        assert len(store._file.idle) <= 7


WORK = """
import sys
from everfresh.kernel.entry import Entry
from everfresh.stores.sqlite import SqliteStore
path, name = sys.argv[1:]
with SqliteStore(path, 500, busy=20) as store:
    for n in range(200):
        gone = store.put(Entry(f"{name}{n}", [name, n], bytes=7 + n % 20, cost=1 + n % 3))
        assert store.bytes <= 500, store.bytes
        for other in "ab":
            found = store.get(f"{other}{n}")
            assert found is None or found.value == [other, n], found
        store.discard(f"{name}{n - 3}")
"""


def test_processes_share_one_file_and_one_limit(path):
    workers = [
        subprocess.Popen([sys.executable, "-c", WORK, str(path), name], stderr=subprocess.PIPE)
        for name in "ab"  # neither finds the file: both make it
    ]
    for worker in workers:
        assert worker.communicate(timeout=60)[1].decode() == ""
    with SqliteStore(path, 500) as store:
        kept = list(store.entries())
        assert store.bytes == sum(e.bytes for e in kept) <= 500
        assert len(store) == len(kept) > 0
        assert store.damaged == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_opens_its_own_connections(path):
    with SqliteStore(path) as store:
        store.put(entry("a"))
        store.get("a")
        inherited = list(store._file.idle)
        child = os.fork()
        if child == 0:
            ok = store._file.idle == [] and store.get("a").value == "v"
            store.put(entry("b"))
            os._exit(0 if ok and not set(inherited) & set(store._file.idle) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.get("b") is not None
        store.flush()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT hits FROM kept WHERE key = 'a'").fetchone() == (1,)


def test_a_limit_below_one_byte_and_a_file_in_memory_are_refused(path):
    with pytest.raises(ConfigurationError, match="at least 1 byte"):
        SqliteStore(path, 0)
    with pytest.raises(ConfigurationError, match="memory://"):
        SqliteStore(":memory:")


def test_stores_by_url(path):
    assert make_store("memory://", StoreOptions(max_bytes=7)).max_bytes == 7
    store = make_store(f"sqlite:///{path}", StoreOptions(max_bytes=7))
    with pytest.raises(ValueTooLargeError):
        store.put(entry("a", 8))
    store.close()
    for wrong in ("nonsense://x", "plain", ""):
        with pytest.raises(UnknownURLError, match="memory:// or sqlite://"):
            make_store(wrong)
    for wrong in ("sqlite://", "sqlite:///", "sqlite://host/file", "memory://x"):
        with pytest.raises(ConfigurationError):
            make_store(wrong)
