"""The Redis store under the conformance suites, and what only it promises."""

import itertools
import os
import pickle

import pytest

from everfresh.errors import (
    ConfigurationError,
    MissingExtraError,
    StoreUnavailableError,
    UnknownURLError,
)
from everfresh.kernel.entry import Entry
from everfresh.kernel.mark import SnapshotMark
from everfresh.kernel.score import HalfLife, make_policy
from everfresh.leases.redis import RedisLeases
from everfresh.stores.memory import MemoryStore
from everfresh.stores.redis import RedisStore
from everfresh.stores.urls import StoreOptions, make_store
from everfresh.testing.conformance import SharedStoreConformance, StoreConformance

names = itertools.count()


class OnOneServer:
    policy = "half_life"

    @pytest.fixture(autouse=True)
    def _server(self, valkey):
        self.url, self.opened = valkey.url, []
        yield
        for store in self.opened:
            store.close()

    def make(self, max_bytes):
        return self.open(f"store{next(names)}", max_bytes)

    def reopen(self, store):
        return self.open(store.name.strip("{}"), store.max_bytes)

    def open(self, name, max_bytes):
        self.opened.append(RedisStore(self.url, max_bytes, make_policy(self.policy), name=name))
        return self.opened[-1]


class TestHalfLife(OnOneServer, StoreConformance, SharedStoreConformance):
    pass


class TestGdsf(OnOneServer, StoreConformance, SharedStoreConformance):
    policy = "gdsf"


class TestLru(OnOneServer, StoreConformance, SharedStoreConformance):
    policy = "lru"


@pytest.fixture
def name():
    return f"own{next(names)}"


@pytest.fixture
def store(valkey, name):
    with RedisStore(valkey.url, 10_000, name=name) as made:
        yield made


def entry(key, size=10, cost=1.0, value="v"):
    return Entry(key, value, bytes=size, cost=cost)


def test_all_that_is_known_comes_back(store):
    mark = SnapshotMark("outbox", "h", 5, 9, frozenset({6, 7}))
    store.put(Entry("k", [1], label="SELECT", seen=mark, cost=0.5, bytes=20, parents=("p",)))
    found = store.get("k")
    assert (found.value, found.label, found.seen, found.cost, found.parents) == (
        [1],
        "SELECT",
        mark,
        0.5,
        ("p",),
    )


def test_all_keys_of_a_store_lie_in_one_slot_of_a_cluster(store, name):
    store.put(entry("a"))
    RedisLeases(store.client, store.name, store.breaker).acquire("a")
    keys = {key.decode() for key in store.client.scan_iter(f"*{name}*")}
    assert len(keys) == 5
    assert all(key.startswith(f"{{{name}}}:") for key in keys)


@pytest.mark.parametrize("policy", ["half_life", "gdsf", "lru"])
def test_the_ranks_are_those_of_the_store_in_memory(valkey, name, policy):
    """The same puts and touches leave the same entries, whoever ranks them."""
    with RedisStore(valkey.url, 100, make_policy(policy), name=name) as store:
        memory = MemoryStore(100, make_policy(policy))
        for number in range(60):
            size, cost = 7 + number * 5 % 13, 0.1 + number * 7 % 5
            gone = {each.key for each in store.put(entry(f"k{number}", size, cost))}
            assert gone == {each.key for each in memory.put(entry(f"k{number}", size, cost))}
            for key in (f"k{number - 3}", f"k{number // 2}"):
                kept = memory.get(key)
                assert (store.get(key) is None) == (kept is None)
                if kept is not None:
                    memory.touched(kept.standing)


@pytest.mark.parametrize(
    "bad",
    [b"", b"short", os.urandom(200), pickle.dumps({"a": 1}), b"\x00" * 64],
    ids=["empty", "short", "garbage", "a pickle", "zeros"],
)
def test_what_an_attacker_writes_is_absent_and_harms_nobody(store, name, bad):
    store.put(entry("a"))
    store.client.set(f"{{{name}}}:e:a", bad)
    assert store.get("a") is None
    assert store.seal.damaged == 1
    assert len(store) == 0
    assert list(store.entries()) == []


def test_a_value_replayed_under_another_key_is_absent(store, name):
    store.put(entry("a"))
    store.client.set(f"{{{name}}}:e:b", store.client.get(f"{{{name}}}:e:a"))
    assert store.get("b") is None
    assert store.get("a") is not None


def test_a_truncated_value_is_absent(store, name):
    store.put(entry("a", value="x" * 100))
    store.client.setrange(f"{{{name}}}:e:a", 30, b"?")
    assert store.get("a") is None


def test_what_is_signed_with_another_key_or_none_is_absent(valkey, name):
    keys = [b"k" * 32, b"other" * 8, None]
    ours, other, unsigned = (RedisStore(valkey.url, name=name, key=key) for key in keys)
    with ours, other, unsigned:
        for writer in (other, unsigned):
            writer.put(entry("a"))
            assert ours.get("a") is None
        ours.put(entry("a"))
        assert ours.get("a").value == "v"
        assert unsigned.get("a") is None
    for key in (b"short", b"x" * 65):
        with pytest.raises(ConfigurationError, match="16 to 64 bytes"):
            RedisStore(valkey.url, key=key)


def test_a_newer_token_fences_an_older_one(store):
    leases = RedisLeases(store.client, store.name, store.breaker)
    old = leases.acquire("a")
    leases.release(old)
    assert [each.key for each in store.put(entry("a"), old.token)] == ["a"]
    assert store.get("a") is None
    new = leases.acquire("a")
    assert new.token > old.token
    assert store.put(entry("a"), new.token) == []
    assert [each.key for each in store.put(entry("a", value="late"), old.token)] == ["a"]
    assert store.get("a").value == "v"
    leases.close()


def test_the_server_may_let_entries_go_by_itself(store, name):
    for number in range(5):
        store.put(entry(f"k{number}", 1000))
    store.client.delete(f"{{{name}}}:e:k1", f"{{{name}}}:e:k2")
    assert store.get("k1") is None
    assert {each.key for each in store.entries()} == {"k0", "k3", "k4"}
    assert (len(store), store.bytes) == (3, 3000)


def test_a_server_that_was_emptied_is_an_empty_store(store):
    store.put(entry("a"))
    store.client.flushall()
    assert store.get("a") is None
    store.put(entry("b"))
    assert (len(store), store.bytes) == (1, 10)


def test_shrink_and_touches(store):
    for number in range(10):
        store.put(entry(f"k{number}", 100))
    for _ in range(3):
        store.get("k0")
    gone = [each.key for each in store.shrink(500)]
    store.flush()
    assert len(gone) == 5
    assert store.bytes == 500


def test_no_password_is_shown(monkeypatch):
    with RedisStore("redis://app:s3cret@127.0.0.1:1/0?ssl=x", timeout=0.05) as dead:
        assert dead.get("a") is None
        with pytest.raises(StoreUnavailableError) as raised:
            dead.put(entry("a"))
        assert "s3cret" not in str(raised.value)
        assert "s3cret" not in str(dead.trouble)
        assert "app:***@127.0.0.1" in str(raised.value)


def test_a_dead_server_is_left_alone_for_a_while():
    with RedisStore("redis://127.0.0.1:1", timeout=0.05) as dead:
        calls = []
        dead.client.get = lambda name: calls.append(name) or (_ for _ in ()).throw(OSError("no"))
        for _ in range(1000):
            assert dead.get("a") is None
        assert len(calls) <= 3
        assert "no" in dead.trouble


def test_urls(valkey):
    store = make_store(f"{valkey.url}?name=mine", StoreOptions(5000, HalfLife()))
    assert (type(store), store.name, store.max_bytes) == (RedisStore, "{mine}", 5000)
    store.close()
    for wrong in ("redis://h:x", "redis://h?nonsense=1&socket_timeout=x"):
        with pytest.raises(ConfigurationError):
            make_store(wrong)
    with pytest.raises(UnknownURLError):
        make_store("memcached://h")


def test_a_missing_package_names_the_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"everfresh\[redis\]"):
        RedisStore("redis://h")


def test_names_that_are_no_text_fail_nobody(valkey):
    with RedisStore(valkey.url, name="names") as store:
        store.put(Entry("a", 1, bytes=10))
        store.client.hset("{names}:m", b"\xff", b"")
        assert [entry.key for entry in store.entries()] == ["a"]
