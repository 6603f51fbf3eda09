"""The memory store under the conformance suite, and what only it promises."""

import random

import pytest

from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Entry
from everfresh.kernel.score import make_policy
from everfresh.stores.memory import MemoryStore
from everfresh.testing.conformance import StoreConformance


class TestHalfLife(StoreConformance):
    def make(self, max_bytes):
        return MemoryStore(max_bytes)


class TestGdsf(StoreConformance):
    def make(self, max_bytes):
        return MemoryStore(max_bytes, make_policy("gdsf"))


class TestLru(StoreConformance):
    def make(self, max_bytes):
        return MemoryStore(max_bytes, make_policy("lru"))


def entry(key, size=10, cost=1.0):
    return Entry(key, key, bytes=size, cost=cost)


def test_lru_drops_what_was_not_touched():
    store = MemoryStore(30, make_policy("lru"))
    for key in "abc":
        store.put(entry(key))
    store.touched(store.get("a").standing)
    assert [gone.key for gone in store.put(entry("d"))] == ["b"]


@pytest.mark.parametrize("policy", ["half_life", "gdsf"])
def test_what_is_cheap_to_make_again_goes_first(policy):
    store = MemoryStore(30, make_policy(policy))
    store.put(entry("dear", cost=10.0))
    store.put(entry("cheap", cost=0.001))
    store.put(entry("middle", cost=1.0))
    assert [gone.key for gone in store.put(entry("new", cost=1.0))] == ["cheap"]


@pytest.mark.parametrize("policy", ["half_life", "gdsf"])
def test_what_is_not_worth_its_bytes_is_not_admitted(policy):
    store = MemoryStore(30, make_policy(policy))
    store.put(entry("dear", cost=10.0))
    assert [gone.key for gone in store.put(entry("bulky", size=25, cost=1e-6))] == ["bulky"]
    assert store.get("dear") is not None


@pytest.mark.parametrize("policy", ["half_life", "gdsf"])
def test_what_is_not_admitted_pushes_nothing_out(policy):
    store = MemoryStore(100, make_policy(policy))
    store.put(entry("cheap", size=20, cost=0.0001))
    store.put(entry("dear", size=70, cost=100.0))
    assert [gone.key for gone in store.put(entry("large", size=90, cost=0.01))] == ["large"]
    assert sorted(kept.key for kept in store.entries()) == ["cheap", "dear"]
    store.put(entry("small", size=20, cost=0.01))
    assert sorted(kept.key for kept in store.entries()) == ["dear", "small"]


def test_touches_beat_age_under_half_life():
    store = MemoryStore(30, make_policy("half_life", half_life=10))
    store.put(entry("hot"))
    store.put(entry("cold"))
    for _ in range(50):
        store.touched(store.get("hot").standing)
    store.put(entry("new"))
    assert [gone.key for gone in store.put(entry("newer"))] == ["cold"]


def test_victim_is_always_the_lowest_rank():
    """The lazy heap agrees with a search over all entries, whatever is touched in between."""
    for policy in ("half_life", "gdsf", "lru"):
        chance = random.Random(policy)
        store = MemoryStore(200, make_policy(policy, half_life=20))
        for number in range(400):
            kept = list(store.entries())
            for touched in chance.choices(kept, k=3) if kept else ():
                store.touched(touched.standing)
            new = entry(f"k{number}", size=chance.randint(1, 30), cost=chance.random())
            before = {kept.key: store.score(kept) for kept in kept}
            gone = store.put(new)
            ranks = {**before, new.key: new.standing.rank}
            if gone == [new]:  # those worth less could not have made the room
                cheaper = sum(k.bytes for k in kept if before[k.key] < ranks[new.key])
                assert cheaper < sum(k.bytes for k in kept) + new.bytes - 200
                continue
            survivors = [ranks[kept.key] for kept in store.entries()]
            for victim in gone:
                assert ranks[victim.key] <= min(survivors) + 1e-9


def test_heap_stays_bounded_when_one_key_is_replaced_for_ever():
    store = MemoryStore(1000)
    for _ in range(5000):
        store.put(entry("same"))
    assert len(store._heap) < 200


def test_a_limit_below_one_byte_is_refused():
    with pytest.raises(ConfigurationError, match="at least 1 byte"):
        MemoryStore(0)


def test_what_went_is_remembered_when_it_comes_back():
    """Two entries alike, but one was asked for often before a change outdated it."""
    store = MemoryStore(100)
    for key in ("often", "once"):
        store.put(Entry(key, key, bytes=40, cost=1.0))
    for _ in range(20):
        store.touched(store.get("often").standing)
    store.score(store.get("often"))
    store.discard("often")
    store.put(Entry("often", "again", bytes=40, cost=1.0))
    (gone,) = store.put(Entry("third", "third", bytes=40, cost=1.1))
    assert gone.key == "once"


def test_the_memory_of_what_went_is_bounded():
    store = MemoryStore(1000)
    for number in range(11_000):
        store.put(Entry(f"k{number}", number, bytes=100))
    assert len(store._ghosts) == 10_000
