"""Processes of ours on a PostgreSQL without triggers tell each other of commits through Redis."""

import itertools

import psycopg
import pytest
import sqlalchemy as sa

import everfresh
from everfresh.changes.redis_log import RedisLog
from everfresh.connect.breaker import Breaker
from everfresh.connect.redis import connect
from everfresh.kernel.change import Change

from .conftest import make_flights

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"
names = itertools.count()


@pytest.fixture
def url(postgres_url):
    dsn = postgres_url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS everfresh CASCADE; DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public; CREATE TABLE other (a int)")
    engine = sa.create_engine(postgres_url)
    make_flights(engine)
    engine.dispose()
    return postgres_url


@pytest.fixture
def opened(url, valkey):
    made, store = [], f"{valkey.url}?name=writers{next(names)}"

    def opened(**settings):
        made.append(everfresh.open(url, **{"store": store, "freshness": "strict", **settings}))
        return made[-1]

    yield opened
    for cache in made:
        cache.close()


def write(cache, statement):
    with cache.engine.begin() as connection:
        connection.execute(sa.text(statement))


def status(cache, month=6):
    return cache.sql(COUNT, m=month).receipt.status


def kept(cache):
    status(cache)
    return status(cache) == "hit"


def test_a_commit_of_one_is_exact_for_the_others(opened):
    one, two = opened(), opened()
    assert kept(one)
    assert kept(two)
    assert (
        two.sql(COUNT, m=6).receipt.proof == "session feed, pg_current_snapshot, the writers' log"
    )
    write(one, "INSERT INTO other VALUES (1)")
    assert (status(one), status(two)) == ("hit", "hit")
    write(one, "DELETE FROM flights WHERE month = 6")
    assert two.sql(COUNT, m=6)[0].n == one.sql(COUNT, m=6)[0].n == 0


def test_a_stranger_makes_everything_stale_all_the_same(opened, url):
    one = opened()
    assert kept(one)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as stranger:
        stranger.execute("INSERT INTO other VALUES (1)")
    assert status(one) == "refresh"


def test_stored_answers_are_judged_by_what_was_told(opened):
    one, two = opened(), opened()
    status(one)
    assert one.fills.durable.flush()
    assert status(two) == "hit"  # from Redis
    write(two, "DELETE FROM flights WHERE month = 5")
    late = opened()
    assert late.sql(COUNT, m=6)[0].n == 4
    write(late, "DELETE FROM flights WHERE month = 6")
    for cache in (one, two, late):
        assert cache.sql(COUNT, m=6)[0].n == 0


@pytest.mark.parametrize("tracked", [[], ["other"], ["flights"]])
def test_a_stored_answer_from_before_a_commit_of_ones_own_is_not_taken(opened, tracked):
    one, two = (opened(freshness=everfresh.bounded(60)) for _ in range(2))
    if tracked:
        one.feed.watch.install(tracked)
        assert two.feed.poll()
    status(one)
    assert one.fills.durable.flush()
    assert status(two) == "hit"  # from Redis
    write(two, "DELETE FROM flights WHERE month = 6")
    assert two.sql(COUNT, m=6)[0].n == 0


def test_what_redis_could_not_be_told_is_a_strangers(opened):
    one, two = opened(), opened()
    assert kept(one)
    assert kept(two)
    one.feed.watch.log._breaker = Breaker(first=60.0, last=60.0)
    one.feed.watch.log._breaker.failed("gone")
    write(one, "DELETE FROM flights WHERE month = 6")
    assert one.sql(COUNT, m=6)[0].n == 0
    assert (two.sql(COUNT, m=6)[0].n, two.sql(COUNT, m=6).receipt.status) != (4, "hit")
    assert two.sql(COUNT, m=6)[0].n == 0


def test_what_was_noted_and_rolled_back_does_no_harm(opened):
    one, two = opened(), opened()
    with one.engine.connect() as connection:
        connection.execute(sa.text("DELETE FROM flights WHERE month = 6"))
        connection.rollback()
    assert kept(two)
    with pytest.raises(sa.exc.IntegrityError), one.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO flights (id) VALUES (1)"))
    assert two.sql(COUNT, m=6)[0].n == 4


@pytest.fixture
def logs(valkey):
    name = f"{{log{next(names)}}}"
    clients = [connect(valkey.url) for _ in range(3)]
    keys = (b"k" * 16, b"k" * 16, b"other-key-of-16-b")
    yield [
        RedisLog(client, name, Breaker(), key) for client, key in zip(clients, keys, strict=True)
    ]
    for client in clients:
        client.close()


def test_notes_are_found_by_history_and_id_and_only_ours_are_taken(logs):
    one, two, forger = logs
    for log in logs:
        log.begin()
    forger.note("h", 7, [])
    one._client.xadd(one._stream, {b"b": b"garbage", b"p": b""})
    one._client.xadd(one._stream, {b"x": b"nothing"})
    one.note("h", 8, [Change("public.t"), Change(None)])
    assert two.find("h", [7, 8, 9]) == {
        8: [Change("public.t", history="h", sequence=8), Change(None, history="h", sequence=8)]
    }
    assert two.find("another", [8]) == {}
    assert two.find("h", [8]).keys() == {8}


def test_a_server_that_is_gone_is_asked_again_later(logs):
    log = logs[0]
    log._client = connect("redis://127.0.0.1:1", timeout=0.05)
    log.note("h", 1, [])
    log.begin()
    assert log.find("h", [1]) == {}
