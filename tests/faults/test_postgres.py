"""A PostgreSQL that fails: the database answers, nothing wrong is given, and trust comes back."""

import contextlib
import os
import signal
import threading
import time

import psycopg
import pytest
import sqlalchemy as sa

import everfresh
from everfresh.testing.relay import Relay
from everfresh.testing.servers import postgres_server, standby_of

COUNT = "SELECT count(*) AS n FROM t WHERE k = :k"
WAIT = 20.0  # seconds for what comes back by itself


@pytest.fixture(scope="module")
def server():
    """A server of this module's own: it is stopped, paused and killed."""
    with postgres_server(settings={"max_prepared_transactions": "0"}) as made:
        yield made


@pytest.fixture
def url(server):
    fresh = server.fresh_database()
    with psycopg.connect(plain(fresh), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id serial PRIMARY KEY, k int)")
        connection.execute("INSERT INTO t (k) VALUES (1), (2)")
    yield fresh
    server.drop_database(fresh)


def plain(url):
    return str(url).replace("+psycopg", "")


def write(url, statement):
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute(statement)


@contextlib.contextmanager
def opened(url, **settings):
    """A cache of an engine that notices broken connections of its pool by itself."""
    engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 2})
    try:
        with everfresh.open(engine, **settings) as cache:
            yield cache
    finally:
        engine.dispose()


def until(condition):
    """Wait for what happens by itself."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not come back"
        time.sleep(0.02)


def asked(cache, k=1):
    answer = cache.sql(COUNT, k=k)
    return answer[0].n, answer.receipt.status


def trusted(cache, k=1):
    """Whether answers are kept and given again."""
    asked(cache, k)
    return asked(cache, k)[1] == "hit"


@pytest.mark.parametrize("freshness", ["strict", "bounded"])
def test_a_connection_that_is_terminated_misses_nothing(url, freshness):
    with opened(url, freshness=freshness) as cache:
        cache.track()
        until(lambda: trusted(cache, 1) and trusted(cache, 2))
        write(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'everfresh'",
        )
        write(url, "INSERT INTO t (k) VALUES (1)")
        until(lambda: trusted(cache, 1) and asked(cache, 1) == (2, "hit"))
        until(lambda: trusted(cache, 2))
        # what was missed was read from the outbox: the other answer was never made again
        assert cache.stats().fills == 2


def test_a_backend_terminated_in_the_middle_of_a_fill(url):
    with opened(url, freshness="strict") as cache:
        cache.track()
        killed = []

        @sa.event.listens_for(cache.engine, "before_cursor_execute")
        def kill(conn, cursor, statement, parameters, context, executemany):
            if statement.startswith("SELECT count") and not killed:
                killed.append(conn.connection.dbapi_connection.info.backend_pid)
                write(url, f"SELECT pg_terminate_backend({killed[0]})")
                time.sleep(0.05)

        with pytest.raises(sa.exc.OperationalError):
            asked(cache)
        assert asked(cache) == (1, "fill")


@pytest.mark.parametrize("crash", [False, True])
def test_a_server_that_restarts(server, url, crash):
    with opened(url, freshness="strict") as cache:
        cache.track()
        until(lambda: trusted(cache))
        server.halt(crash=crash)
        with pytest.raises(sa.exc.OperationalError):
            asked(cache)
        server.resume()
        write(url, "INSERT INTO t (k) VALUES (1)")
        until(lambda: trusted(cache))
        assert asked(cache) == (2, "hit")


def test_a_crash_that_lost_a_commit_outdates_what_was_read_of_it(server, url):
    """With synchronous_commit off a crash may lose what was seen, and gives its number out again."""
    with opened(url, freshness="strict") as cache:
        cache.track()
        history = cache.feed.watch._at.history
        until(lambda: trusted(cache))
        victim = psycopg.connect(plain(url), autocommit=True)
        os.kill(victim.info.backend_pid, signal.SIGKILL)  # it recovers without a restart
        with pytest.raises(psycopg.OperationalError):
            victim.execute("SELECT 1")
        victim.close()
        until(lambda: can_connect(url))
        until(lambda: trusted(cache))
        assert cache.feed.watch._at.history != history
        assert cache.stats().refreshes >= 1


def can_connect(url):
    try:
        write(url, "SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_a_server_that_stands_still_is_not_waited_for_for_ever(server, url):
    """The bound ends, reads go to the database, and nobody holds a lock meanwhile."""
    with opened(url, freshness=everfresh.bounded(0.2)) as cache:
        cache.track()
        cache.feed.watch.link.wire.timeout = 0.5
        until(lambda: trusted(cache))
        server.pause()
        try:
            time.sleep(0.3)
            answers = []
            reader = threading.Thread(target=lambda: answers.append(asked(cache)))
            reader.start()
            started = time.monotonic()
            assert not cache.feed.poll()
            assert time.monotonic() - started < 8
        finally:
            server.go_on()
        reader.join(WAIT)
        assert answers == [(1, "bypass")]
        until(lambda: trusted(cache))


def test_a_line_that_is_cut_delayed_and_mended(server, url):
    parsed = sa.engine.make_url(url)
    with Relay(parsed.host, parsed.port) as relay:
        through = parsed.set(port=relay.port)
        with opened(through, freshness="strict") as cache:
            cache.track()
            until(lambda: trusted(cache))
            relay.cut()
            with pytest.raises(sa.exc.OperationalError):
                asked(cache)
            write(url, "INSERT INTO t (k) VALUES (1)")
            relay.mend()
            until(lambda: trusted(cache))
            assert asked(cache) == (2, "hit")
            relay.delay = 0.02
            write(url, "INSERT INTO t (k) VALUES (1)")
            assert asked(cache)[0] == 3


def test_while_it_is_down_nobody_connects_again_and_again(server, url):
    with opened(url, freshness="strict") as cache:
        until(lambda: trusted(cache))
        server.halt()
        try:
            watch = cache.feed.watch
            attempts, connect = [], watch.link._connect

            def count():
                attempts.append(time.monotonic())
                return connect()

            watch.link._connect = count
            for _ in range(200):
                assert not cache.feed.poll()
                time.sleep(0.002)
            assert 1 <= len(attempts) <= 8
        finally:
            server.resume()
        until(lambda: trusted(cache))


def test_a_standby_proves_nothing_and_a_promoted_one_is_another_server(server, url):
    name = url.rpartition("/")[2]
    with standby_of(server) as standby:
        copy = f"{standby.url.rpartition('/')[0]}/{name}"
        until(lambda: can_connect(copy))
        with opened(copy, freshness="strict") as cache:
            answer = cache.sql(COUNT, k=1)
            assert (answer[0].n, answer.receipt.status) == (1, "bypass")
            assert "standby" in answer.receipt.reason
            standby.promote()
            until(lambda: trusted(cache))
            write(copy, "INSERT INTO t (k) VALUES (1)")
            assert asked(cache)[0] == 2


def test_a_failover_makes_everything_unproven(server, url):
    """What was read on the old primary is not taken for true on the new one."""
    parsed, name = sa.engine.make_url(url), url.rpartition("/")[2]
    with standby_of(server) as standby, Relay(parsed.host, parsed.port) as relay:
        through = parsed.set(port=relay.port)
        with opened(through, freshness="strict") as cache:
            cache.track()
            until(lambda: trusted(cache))
            copy = f"{standby.url.rpartition('/')[0]}/{name}"
            until(lambda: has_outbox(copy))
            relay.cut()
            write(url, "INSERT INTO t (k) VALUES (1), (1), (1)")  # the old one goes on for itself
            standby.promote()
            relay._target = ("127.0.0.1", sa.engine.make_url(standby.url).port)
            relay.mend()
            write(copy, "DELETE FROM t")
            until(lambda: trusted(cache))
            assert asked(cache) == (0, "hit")
            assert ".00000002/" in cache.feed.watch._at.history  # nothing of before compares


def has_outbox(url):
    with psycopg.connect(plain(url)) as connection:
        found = connection.execute("SELECT to_regclass('everfresh.change')").fetchone()
    return found is not None and found[0] is not None


def test_what_another_server_answers_is_not_kept(server, url):
    """A pool may reach the new primary while the old one is still heard."""
    with opened(url, freshness="strict") as cache:
        cache.track()
        assert cache.feed.understood("5:5:", cache.feed.watch.link.timeline) is not None
        assert cache.feed.understood("5:5:", "00000009") is None
        assert cache.feed.understood("5:5:", "") is None
        at = cache.feed.watch.link.wire
        assert cache.feed.poll()
        assert cache.feed.watch.link.wire is not at  # it looked which server it hears


def test_notifications_wake_and_fail_nobody(url):
    with opened(url, freshness=everfresh.bounded(60.0)) as cache:
        cache.track()
        until(
            lambda: cache.feed.watch.source.listener is not None
        )  # it is asked every 15 s from now on
        until(lambda: trusted(cache))
        write(url, "INSERT INTO t (k) VALUES (1)")
        started = time.monotonic()
        until(lambda: asked(cache)[0] == 2)
        assert time.monotonic() - started < 5
        write(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'everfresh'",
        )
        assert can_connect(url)


def test_a_database_that_is_not_there_when_the_cache_is_opened(server, url):
    server.halt()
    try:
        with opened(url, freshness="strict") as cache:
            with pytest.raises(sa.exc.OperationalError):
                asked(cache)
            server.resume()
            until(lambda: trusted(cache))
    finally:
        if server.process.poll() is not None:
            server.resume()
