"""The PostgreSQL store and its leases under the conformance suites, and what only they promise."""

import itertools
import threading
import time

import pytest

from everfresh.errors import ConfigurationError, StoreUnavailableError
from everfresh.kernel.entry import Entry
from everfresh.kernel.score import make_policy
from everfresh.leases.postgres import PostgresLeases
from everfresh.leases.shared import Held, Taken
from everfresh.stores.memory import MemoryStore
from everfresh.stores.postgres import PostgresStore
from everfresh.stores.urls import StoreOptions, make_store
from everfresh.testing.conformance import SharedStoreConformance, StoreConformance

names = itertools.count()


class OnOneDatabase:
    policy = "half_life"

    @pytest.fixture(autouse=True)
    def _database(self, postgres_url):
        self.url, self.opened = postgres_url, []
        yield
        for store in self.opened:
            store.close()

    def make(self, max_bytes):
        return self.open(f"store{next(names)}", max_bytes)

    def reopen(self, store):
        return self.open(store.name, store.max_bytes)

    def open(self, name, max_bytes):
        self.opened.append(PostgresStore(self.url, max_bytes, make_policy(self.policy), name=name))
        return self.opened[-1]


class TestHalfLife(OnOneDatabase, StoreConformance, SharedStoreConformance):
    pass


class TestGdsf(OnOneDatabase, StoreConformance, SharedStoreConformance):
    policy = "gdsf"


class TestLru(OnOneDatabase, StoreConformance, SharedStoreConformance):
    policy = "lru"


@pytest.fixture
def name():
    return f"own{next(names)}"


@pytest.fixture
def store(postgres_url, name):
    with PostgresStore(postgres_url, 10_000, name=name) as made:
        yield made


@pytest.fixture
def leases(store):
    made = []

    def leases(seconds=10.0):
        made.append(PostgresLeases(store.parameters, store.name, seconds))
        return made[-1]

    yield leases
    for each in made:
        each.close()


def entry(key, size=10, cost=1.0, value="v"):
    return Entry(key, value, bytes=size, cost=cost)


@pytest.mark.parametrize("policy", ["half_life", "gdsf", "lru"])
def test_the_ranks_are_those_of_the_store_in_memory(postgres_url, name, policy):
    with PostgresStore(postgres_url, 100, make_policy(policy), name=name) as store:
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


def test_what_was_tampered_with_is_absent_and_let_go_of(store, postgres, postgres_url):
    import psycopg

    store.put(entry("a"))
    store.put(entry("b"))
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "UPDATE everfresh_store.kept SET body = (SELECT body FROM everfresh_store.kept"
            " WHERE key = 'b' AND store = %s) WHERE key = 'a'",
            (store.name,),
        )
    assert store.get("a") is None
    assert store.get("b").value == "v"
    assert (len(store), store.seal.damaged) == (1, 1)


def test_tables_that_are_dropped_are_made_again(store, postgres_url):
    import psycopg

    store.put(entry("a"))
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA everfresh_store CASCADE")
    assert store.get("a") is None
    store.put(entry("a"))
    assert store.get("a").value == "v"


def test_two_that_make_the_tables_at_once(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS everfresh_store CASCADE")
    errors = []

    def use():
        try:
            with PostgresStore(postgres_url) as store:
                store.put(entry("a"))
        except StoreUnavailableError as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []


def test_one_holds_a_right_and_the_others_are_woken(leases):
    one, two = leases(), leases()
    held = one.acquire("a")
    assert isinstance(held, Held)
    assert isinstance(two.acquire("a"), Taken)
    woken = []

    def wait():
        two.wait("a", 10)
        woken.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.1)
    assert not woken
    released = time.monotonic()
    one.release(held)
    waiter.join(10)
    assert woken[0] - released < 2
    assert two.acquire("a").token > held.token


def test_the_death_of_an_owner_is_noticed_at_once(leases):
    one, two = leases(60), leases(60)
    held = one.acquire("a")
    one._holder.close()
    assert two.acquire("a").token > held.token


def test_a_stopped_owner_is_overtaken_and_fenced(leases, store):
    one, two = leases(0.3), leases(0.3)
    held = one.acquire("a")
    one._hearts.close()  # as if it had been stopped: its connection lives
    taken = two.acquire("a")
    assert isinstance(taken, Taken)
    two.wait("a", taken.seconds)
    later = two.acquire("a")
    assert later.token > held.token
    assert [each.key for each in store.put(entry("a"), held.token)] == ["a"]
    assert store.put(entry("a"), later.token) == []
    two.release(later)
    assert [each.key for each in store.put(entry("a", value="late"), later.token)] == ["a"]
    assert store.get("a").value == "v"


def test_a_heart_keeps_a_right(leases):
    one, two = leases(0.3), leases(0.3)
    one.acquire("a")
    time.sleep(0.8)
    assert isinstance(two.acquire("a"), Taken)


def test_a_server_that_is_not_there(name):
    with PostgresStore("postgresql://u:s3cret@127.0.0.1:1/db", name=name) as store:
        assert store.get("a") is None
        with pytest.raises(StoreUnavailableError) as raised:
            store.put(entry("a"))
        assert "s3cret" not in str(raised.value)
        assert (len(store), store.bytes, list(store.entries())) == (0, 0, [])
    leases = PostgresLeases(store.parameters, name)
    assert leases.acquire("a") is None
    leases.wait("a", 0.1)
    leases.release(Held("a", 1))
    leases.close()


def test_urls(postgres_url):
    plain = postgres_url.replace("+psycopg", "")
    store = make_store(f"{plain}?name=mine&logged=1&lease=3", StoreOptions(5000))
    assert (type(store), store.name, store.max_bytes, store.lease) == (
        PostgresStore,
        "mine",
        5000,
        3,
    )
    store.close()
    for wrong in (f"{plain}?timeout=soon", "postgresql://h:port/db"):
        with pytest.raises(ConfigurationError):
            make_store(wrong)


def test_what_was_given_back_leaves_no_row(leases, store):
    one = leases()
    held = [one.acquire(f"k{number}") for number in range(5)]
    for each in held:
        one.release(each)
    assert store._ask("SELECT count(*) FROM everfresh_store.lease WHERE store = $1") == [("0",)]
