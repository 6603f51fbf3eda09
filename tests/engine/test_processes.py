"""Many processes with one database and one store: one computation, one truth."""

import itertools
import time

import psycopg
import pytest
import sqlalchemy as sa

import everfresh
from processes import workers

from .conftest import make_flights

# what is computed leaves a row of its own in a table, and takes a while
SLOW = "SELECT count(*) AS n, counted(:seconds) AS done FROM flights WHERE month = :m"
COUNT = "SELECT count(*) AS n, sum(arr_delay) AS total FROM flights WHERE month = :m"
names = itertools.count()


@pytest.fixture
def url(postgres_url):
    dsn = postgres_url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS everfresh CASCADE; DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        # a sequence is no table: what it counts is no change of the database, and never undone
        connection.execute("CREATE SEQUENCE computed")
        # said to be immutable, or its answers would not be kept
        connection.execute(
            "CREATE FUNCTION counted(seconds float) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS"
            " $$ BEGIN PERFORM nextval('computed'), pg_sleep(seconds); RETURN true; END $$"
        )
    engine = sa.create_engine(postgres_url)
    make_flights(engine)
    engine.dispose()
    with everfresh.open(postgres_url) as cache:
        cache.track()
    return postgres_url


@pytest.fixture
def other(url):
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


@pytest.fixture(params=["redis", "postgresql"])
def store(request, url):
    place = url if request.param == "postgresql" else request.getfixturevalue("valkey").url
    return f"{place}?name=processes{next(names)}"


def computed(connection):
    """How often it was computed."""
    called, number = connection.execute("SELECT is_called, last_value FROM computed").fetchone()
    return number if called else 0


def test_what_one_process_has_computed_the_others_are_given(url, store, other):
    with workers(3, url, store=store) as (one, two, three):
        assert one.ask(SLOW, seconds=0, m=6)[0]["status"] == "fill"
        for process in (two, three):
            (answer,) = process.ask(SLOW, seconds=0, m=6)
            assert (answer["rows"], answer["status"]) == ([[4, True]], "hit")
            assert process.ask(SLOW, seconds=0, m=6)[0]["status"] == "hit"  # in memory now
        assert computed(other) == 1


def test_a_hundred_callers_in_four_processes_compute_once(url, store, other):
    with workers(4, url, store=store) as processes:
        for process in processes:  # plans and connections are there
            process.ask(COUNT, m=1)
        for process in processes:
            process.tell(sql=SLOW, parameters={"seconds": 0.2, "m": 6}, threads=25)
        answers = [answer for process in processes for answer in process.hear()]
        assert len(answers) == 100
        assert {str(answer.get("rows")) for answer in answers} == {"[[4, True]]"}
        assert computed(other) == 1


def test_each_hears_what_the_others_and_strangers_commit(url, store, other):
    with workers(3, url, store=store, freshness="strict") as processes:
        for round_ in range(5):
            for writer in (*processes, None):
                statement = f"UPDATE flights SET arr_delay = {round_} WHERE month = 6"
                if writer is None:
                    other.execute(statement)
                else:
                    writer.tell(write=[statement])
                    writer.hear()
                for reader in processes:
                    (answer,) = reader.ask(COUNT, m=6)
                    assert answer["rows"] == [[4, 4.0 * round_]]
        for reader in processes:
            reader.ask(COUNT, m=5)
            assert reader.ask(COUNT, m=5)[0]["status"] == "hit"


def test_an_old_value_that_somebody_stored_late_is_not_taken(url, store, other):
    """A process that heard less stores what is old: its mark says so."""
    with workers(2, url, store=store, freshness=3600, poll_interval=3000) as (deaf, heard):
        assert deaf.ask(COUNT, m=6)[0]["rows"][0][0] == 4
        other.execute("DELETE FROM flights WHERE month = 6")
        heard.tell(write=["UPDATE flights SET arr_delay = 1 WHERE month = 5"])  # it looks then
        heard.hear()
        assert heard.ask(COUNT, m=6)[0]["rows"][0][0] == 0


def test_when_the_owner_dies_one_waiter_takes_over(url, store, other):
    with workers(3, url, store=f"{store}&lease=1") as (owner, *waiters):
        for process in (owner, *waiters):
            process.ask(COUNT, m=1)
        owner.tell(sql=SLOW, parameters={"seconds": 1.5, "m": 6})
        wait_for(lambda: computed(other) == 1)
        for waiter in waiters:
            waiter.tell(sql=SLOW, parameters={"seconds": 1.5, "m": 6}, threads=5)
        time.sleep(0.2)
        owner.kill()
        answers = [answer for waiter in waiters for answer in waiter.hear()]
        assert {str(answer.get("rows")) for answer in answers} == {"[[4, True]]"}
        assert computed(other) == 2


def test_a_process_stopped_past_its_lease_stores_nothing_old(url, store, other):
    with workers(2, url, store=f"{store}&lease=0.5") as (slow, quick):
        for process in (slow, quick):
            process.ask(COUNT, m=1)
        slow.tell(sql=SLOW, parameters={"seconds": 0.6, "m": 6})
        wait_for(lambda: computed(other) == 1)
        slow.stop()
        other.execute("DELETE FROM flights WHERE month = 6 AND id = 5")
        time.sleep(0.6)
        (answer,) = quick.ask(SLOW, seconds=0.6, m=6)
        assert (answer["rows"], computed(other)) == ([[3, True]], 2)
        slow.go_on()
        slow.hear()
        (late,) = slow.ask(SLOW, seconds=0.6, m=6)
        assert late["rows"] == [[3, True]]
        assert quick.ask(SLOW, seconds=0.6, m=6)[0]["rows"] == [[3, True]]


def test_on_the_owners_error_one_waiter_tries_at_a_time(url, store, other):
    other.execute(
        "CREATE OR REPLACE FUNCTION counted(seconds float) RETURNS bool LANGUAGE plpgsql IMMUTABLE"
        " AS $$ BEGIN PERFORM pg_sleep(seconds); IF nextval('computed') < 3 THEN"
        " RAISE EXCEPTION 'no'; END IF; RETURN true; END $$"
    )
    with workers(4, url, store=store) as processes:
        for process in processes:
            process.ask(COUNT, m=1)
        for process in processes:
            process.tell(sql=SLOW, parameters={"seconds": 0.2, "m": 6})
        answers = [process.hear()[0] for process in processes]
        assert sum("error" in answer for answer in answers) == 2
        assert [a["rows"] for a in answers if "rows" in a] == [[[4, True]]] * 2
        assert computed(other) == 3


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
