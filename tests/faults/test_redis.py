"""A Redis that fails: the database answers, nothing wrong is given, and sharing comes back."""

import threading
import time

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.testing.relay import Relay
from everfresh.testing.servers import valkey_server

COUNT = "SELECT count(*) AS n FROM t WHERE k = :k"
WAIT = 20.0


@pytest.fixture(scope="module")
def server():
    """A server of this module's own: it is stopped, paused and filled."""
    with valkey_server(settings={"enable-debug-command": "yes"}) as made:
        yield made


@pytest.fixture
def path(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'data.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, k INTEGER)")
        connection.exec_driver_sql("INSERT INTO t (k) VALUES (1), (2)")
    engine.dispose()
    return tmp_path / "data.db"


@pytest.fixture
def opened(path, server):
    made = []

    def opened(url=f"{server.url}?timeout=0.2", **settings):
        made.append(everfresh.open(f"sqlite:///{path}", store=url, freshness="strict", **settings))
        return made[-1]

    first = opened()
    first.track()
    first.fills.durable.forget()
    yield opened
    for cache in made:
        cache.close()


def asked(cache, k=1):
    answer = cache.sql(COUNT, k=k)
    return answer[0].n, answer.receipt.status


def write(cache, statement):
    with cache.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not come back"
        time.sleep(0.02)


def shared(opened):
    """Whether one cache is given what another has computed."""
    with opened() as one, opened() as two:
        one.invalidate()
        asked(one)
        one.fills.durable.flush()
        return asked(two)[1] == "hit"


def healthy(cache):
    """Whether what is computed is stored again."""
    cache.invalidate(COUNT, k=1)
    asked(cache)
    return cache.fills.durable.flush() and not cache.stats().troubles


def test_a_server_that_stops_and_comes_back_empty(opened, server):
    one = opened()
    assert asked(one) == (1, "fill")
    server.halt()
    try:
        started = time.monotonic()
        assert asked(one) == (1, "hit")
        assert asked(one, 2) == (1, "fill")
        write(one, "INSERT INTO t (k) VALUES (1)")
        assert asked(one) == (2, "refresh")
        with opened() as late:  # opened while it is down
            assert asked(late) == (2, "fill")
        assert time.monotonic() - started < 8
        one.fills.durable.flush()
        assert one.stats().troubles
    finally:
        server.resume()
    until(lambda: healthy(one))
    until(lambda: shared(opened))


def test_a_server_that_is_emptied_under_us(opened, server):
    one, two = opened(), opened()
    asked(one)
    one.fills.durable.flush()
    one.fills.durable.store.client.flushall()
    assert asked(one) == (1, "hit")
    assert asked(two) == (1, "fill")
    assert healthy(one)


def test_a_server_that_stands_still(opened, server):
    one = opened()
    asked(one)
    server.pause()
    try:
        started = time.monotonic()
        for k in range(2, 12):
            assert asked(one, k)[1] == "fill"
        assert asked(one) == (1, "hit")
        assert time.monotonic() - started < 8  # not a time-out for each
    finally:
        server.go_on()
    until(lambda: healthy(one))
    until(lambda: shared(opened))


def test_a_server_without_memory(opened, server):
    one = opened()
    client = one.fills.durable.store.client
    client.config_set("maxmemory", "1mb")
    client.config_set("maxmemory-policy", "noeviction")
    try:
        client.config_set("maxmemory", "1")
        assert asked(one) == (1, "fill")
        assert asked(one) == (1, "hit")
        one.fills.durable.flush()
        (trouble,) = one.stats().troubles
        assert "memory" in trouble.lower()
    finally:
        client.config_set("maxmemory", "0")
    until(lambda: healthy(one))


def test_a_server_that_evicts_by_itself(opened, server):
    one = opened()
    store = one.fills.durable.store
    store.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        for k in range(50):
            asked(one, k)
        one.fills.durable.flush()
        for key in list(store.client.scan_iter("*:e:*"))[::2]:
            store.client.delete(key)
        store.client.delete("{everfresh}:c")
        two = opened()
        for k in range(50):
            assert asked(two, k)[0] == (1 if k in (1, 2) else 0)
        write(two, "INSERT INTO t (k) VALUES (7)")
        assert asked(one, 7)[0] == asked(two, 7)[0] == 1
    finally:
        store.client.config_set("maxmemory-policy", "noeviction")
    until(lambda: healthy(one))


def test_a_line_that_is_cut_paused_delayed_and_mended(opened, server):
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with Relay("127.0.0.1", port) as relay:
        one = opened(f"redis://127.0.0.1:{relay.port}/0?timeout=0.2")
        assert asked(one) == (1, "fill")
        for breaks in (relay.cut, relay.drop, relay.pause):
            breaks()
            write(one, "INSERT INTO t (k) VALUES (1)")
            number, status = asked(one)
            assert (number, status) == (asked(one)[0], "refresh")
            relay.mend()
            until(lambda: healthy(one))
        relay.delay = 0.02
        write(one, "DELETE FROM t")
        assert asked(one)[0] == 0


def test_a_lease_whose_server_goes_away_holds_up_nobody(opened, server):
    """A waiter finds the server gone and computes for itself."""
    one, two = opened(), opened()
    held = one.fills.durable.leases.acquire(one.statements.request(COUNT, {"k": 1})[1].key)
    found = []
    waiter = threading.Thread(target=lambda: found.append(asked(two)))
    waiter.start()
    until(lambda: two.fills.durable.leases._ears._waiting)
    server.halt()
    try:
        waiter.join(WAIT)
        assert found == [(1, "fill")]
        one.fills.durable.leases.release(held)
    finally:
        server.resume()


def test_a_dead_process_holds_others_up_for_its_lease_and_no_longer(opened, server):
    url = f"{server.url}?timeout=0.2&lease=0.5"
    one, two = opened(url), opened(url)
    leases = one.fills.durable.leases
    leases.acquire(one.statements.request(COUNT, {"k": 1})[1].key)
    leases._hearts.close()  # as if it had died
    started = time.monotonic()
    assert asked(two) == (1, "fill")
    assert 0.2 < time.monotonic() - started < 5


def test_a_heart_that_beats_keeps_a_right_for_longer_than_a_lease(opened, server):
    url = f"{server.url}?timeout=0.2&lease=0.3"
    one, two = opened(url), opened(url)
    leases, key = one.fills.durable.leases, one.statements.request(COUNT, {"k": 1})[1].key
    held = leases.acquire(key)
    time.sleep(1.0)
    taken = two.fills.durable.leases.acquire(key)
    assert getattr(taken, "seconds", None) is not None
    leases.release(held)
    assert two.fills.durable.leases.acquire(key).token > held.token
