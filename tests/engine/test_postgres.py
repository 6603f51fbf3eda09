"""A cache of a PostgreSQL database that others write to: rows, strictness, snapshots, proofs."""

import asyncio
import contextlib
import threading
import time

import psycopg
import pytest
import sqlalchemy as sa

import everfresh

from .aio import POSTGRES
from .conftest import JUNE, counted, make_flights

COUNT = "SELECT count(*) AS n, sum(arr_delay) AS total FROM flights WHERE month = :m"
SLOW = {"poll_interval": 1000.0, "freshness": everfresh.bounded(1000.0)}


@pytest.fixture
def url(postgres_url):
    dsn = postgres_url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS everfresh CASCADE; DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    engine = sa.create_engine(postgres_url)
    make_flights(engine)
    engine.dispose()
    return postgres_url


@pytest.fixture
def other(url):
    """Another program's connection, in autocommit mode."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


@pytest.fixture
def tracked(url):
    with everfresh.open(url, freshness="strict") as cache:
        cache.track()
        yield cache


def own(cache, statement):
    with cache.engine.begin() as connection:
        connection.execute(sa.text(statement))


def statuses(cache, *months):
    return [cache.sql(COUNT, m=m).receipt.status for m in months]


def test_strict_hears_another_program_row_by_row(tracked, other):
    assert statuses(tracked, 5, 6) == ["fill", "fill"]
    for number in range(20):
        other.execute("UPDATE flights SET arr_delay = %s WHERE month = 5", (number,))
        assert statuses(tracked, 5, 6) == ["refresh", "hit"]
    other.execute("DELETE FROM flights WHERE month = 6")
    assert tracked.sql(COUNT, m=6)[0].n == 0
    assert tracked.sql(COUNT, m=6).receipt.proof == "session feed, outbox"


def test_own_commits_are_heard_row_by_row_before_they_return(url):
    with everfresh.open(url, **SLOW) as cache:
        cache.track()
        statuses(cache, 5, 6)
        own(cache, "UPDATE flights SET arr_delay = 1 WHERE month = 5")
        assert statuses(cache, 5, 6) == ["refresh", "hit"]
        with cache.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("DELETE FROM flights WHERE month = 5"))
        assert cache.sql(COUNT, m=5)[0].n == 0
        assert statuses(cache, 6) == ["hit"]
        own(cache, "CREATE TABLE another (a int)")
        assert statuses(cache, 6) == ["refresh"]


def test_a_trigger_of_the_users_is_as_exact_as_what_it_writes(url, other):
    other.execute("CREATE TABLE log (a int)")
    other.execute(
        "CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$"
    )
    other.execute("CREATE TRIGGER logs AFTER UPDATE ON flights EXECUTE FUNCTION logged()")
    with everfresh.open(url, **SLOW) as cache:
        cache.track()
        logs = "SELECT count(*) FROM log"
        assert cache.sql(logs).scalar() == 0
        statuses(cache, 5, 6)
        own(cache, "UPDATE flights SET arr_delay = 1 WHERE month = 5")
        assert cache.sql(logs).scalar() == 1
        assert statuses(cache, 5, 6) == ["refresh", "hit"]


def test_a_deferred_trigger_writes_at_the_commit_itself(url, other):
    other.execute("CREATE TABLE log (a int)")
    other.execute(
        "CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$"
    )
    other.execute(
        "CREATE CONSTRAINT TRIGGER logs AFTER UPDATE ON flights DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION logged()"
    )
    with everfresh.open(url, **SLOW) as cache:
        cache.track()
        logs = "SELECT count(*) FROM log"
        assert cache.sql(logs).scalar() == 0
        own(cache, "UPDATE flights SET arr_delay = 1 WHERE id = 5")
        assert cache.sql(logs).scalar() == 1


def test_bounded_hears_without_being_asked(url, other):
    with everfresh.open(url, freshness=everfresh.bounded(0.3)) as cache:
        cache.track()
        statuses(cache, 6)
        heard, make_stale = threading.Event(), cache.board._make_stale

        def hear(*told):
            make_stale(*told)
            heard.set()

        cache.board._make_stale = hear
        other.execute("DELETE FROM flights WHERE month = 6")
        assert heard.wait(10)
        assert cache.sql(COUNT, m=6)[0].n == 0
        assert cache.stats().lag < 10


def test_without_tracking_foreign_commits_make_everything_stale_and_own_ones_do_not(url, other):
    with everfresh.open(url, freshness="strict") as cache:
        own(cache, "CREATE TABLE another (a int)")
        statuses(cache, 5)  # the plan is made anew
        statuses(cache, 5, 6)
        assert statuses(cache, 5, 6) == ["hit", "hit"]
        assert cache.sql(COUNT, m=6).receipt.proof == "session feed, pg_current_snapshot"
        own(cache, "INSERT INTO another VALUES (1)")
        assert statuses(cache, 5, 6) == ["hit", "hit"]
        with contextlib.suppress(ZeroDivisionError), cache.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO another VALUES (2)"))
            raise ZeroDivisionError
        assert statuses(cache, 5, 6) == ["hit", "hit"]
        other.execute("INSERT INTO another VALUES (3)")
        assert statuses(cache, 5, 6) == ["refresh", "refresh"]


def test_what_a_commit_overtakes_is_not_kept(tracked, other):
    """A change that the fill's snapshot does not see voids it, whoever commits it."""
    started, go = threading.Event(), threading.Event()

    @sa.event.listens_for(tracked.engine, "after_cursor_execute")
    def after(conn, cursor, statement, parameters, context, executemany):
        if "flights" in statement and statement.startswith("SELECT count") and not started.is_set():
            started.set()
            go.wait(10)

    found = []
    thread = threading.Thread(target=lambda: found.append(tracked.sql(COUNT, m=6)))
    thread.start()
    assert started.wait(10)
    other.execute("DELETE FROM flights WHERE month = 6")
    tracked.proof.confirm()
    go.set()
    thread.join(10)
    assert (found[0][0].n, found[0].receipt.status) == (4, "bypass")
    assert tracked.sql(COUNT, m=6)[0].n == 0


def test_the_mark_of_a_fill_is_from_before_its_query(tracked, other):
    """A mark from after it would include what the query did not see."""
    commits = []

    @sa.event.listens_for(tracked.engine, "after_cursor_execute")
    def after(conn, cursor, statement, parameters, context, executemany):
        if statement.startswith("SELECT count") and not commits:
            commits.append(1)
            other.execute("DELETE FROM flights WHERE month = 6")

    assert tracked.sql(COUNT, m=6)[0].n == 4
    assert tracked.sql(COUNT, m=6)[0].n == 0


def test_no_reader_goes_back_behind_what_another_statement_has_shown(url, other):
    """One statement is made anew and shows a commit that nobody has heard of yet."""
    with everfresh.open(url, **SLOW) as cache:
        cache.track()
        latest = "SELECT max(arr_delay) FROM flights WHERE month = 6"
        statement = "SELECT max(arr_delay), count(*) FROM flights WHERE month = 6"
        assert cache.sql(latest).scalar() < 900
        other.execute("UPDATE flights SET arr_delay = 900 WHERE month = 6")
        assert (
            cache.sql(statement)[0][0] == 900
        )  # asked for the first time: it comes from the database
        assert cache.sql(latest).scalar() == 900


def test_a_transaction_that_was_slow_to_commit_outdates_what_was_filled_meanwhile(
    tracked, url, other
):
    with psycopg.connect(url.replace("+psycopg", "")) as slow:
        slow.execute("DELETE FROM flights WHERE month = 6")
        other.execute("DELETE FROM flights WHERE month = 5")  # its number is higher, and it ended
        assert statuses(tracked, 6) == ["fill"]
        assert statuses(tracked, 6) == ["hit"]
        slow.commit()
    assert tracked.sql(COUNT, m=6)[0].n == 0


def test_repeatable_read_is_answered_as_its_snapshot(tracked, other):
    statuses(tracked, 6)
    options = {"isolation_level": "REPEATABLE READ"}
    with tracked.engine.connect().execution_options(**options) as connection:
        view = tracked.using(connection=connection)
        assert view.sql(COUNT, m=6).receipt.status == "hit"
        other.execute("DELETE FROM flights WHERE month = 6")
        assert tracked.sql(COUNT, m=6)[0].n == 0  # outside
        assert view.sql(COUNT, m=6)[0].n == 4
        assert view.sql(COUNT, m=5).receipt.status == "bypass"


def test_definitions_that_change_are_heard(tracked, other):
    other.execute("CREATE VIEW june AS SELECT count(*) AS n FROM flights WHERE month = 6")
    june = "SELECT n FROM june"
    assert tracked.sql(june).scalar() == 4
    tracked.sql(june)
    assert tracked.sql(june).receipt.status == "hit"
    other.execute("CREATE OR REPLACE VIEW june AS SELECT count(*) AS n FROM flights")
    assert tracked.sql(june).scalar() == 48


def test_a_privilege_that_is_revoked_is_heard(url, other):
    other.execute("DROP ROLE IF EXISTS everfresh_app")
    other.execute("CREATE ROLE everfresh_app LOGIN")
    other.execute("GRANT USAGE ON SCHEMA public TO everfresh_app")
    other.execute("GRANT SELECT ON flights TO everfresh_app")
    with everfresh.open(url) as owner:
        owner._watch().install(readers=["everfresh_app"])
    app = url.replace("postgres@", "everfresh_app@")
    with everfresh.open(app, freshness="strict") as cache:
        assert statuses(cache, 6, 6) == ["fill", "hit"]
        other.execute("REVOKE SELECT ON flights FROM everfresh_app")
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            cache.sql(COUNT, m=6)
    other.execute("DROP OWNED BY everfresh_app; DROP ROLE everfresh_app")


def test_stored_answers_are_proven_by_the_outbox_after_a_restart(url, other, tmp_path):
    settings = {"store": f"sqlite:///{tmp_path / 'answers.db'}", "freshness": "strict"}
    with everfresh.open(url, **settings) as cache:
        cache.track()
        statuses(cache, 5, 6)
    other.execute("UPDATE flights SET arr_delay = 0 WHERE month = 5")
    with everfresh.open(url, **settings) as cache, counted(cache.engine) as seen:
        assert statuses(cache, 6) == ["hit"]
        assert seen.selects() == []
        assert statuses(cache, 5) == ["fill"]
        assert cache.stats().recalled == 1


def test_a_strict_hit_asks_one_statement(tracked):
    """And no catalogue is read while nothing is committed."""
    statuses(tracked, 6)
    wire = tracked.feed.watch.link.wire
    asked, rows = [], wire.rows

    def note(statement, *parameters, **options):
        asked.append(statement)
        return rows(statement, *parameters, **options)

    wire.rows = note
    for _ in range(3):
        assert statuses(tracked, 6) == ["hit"]
    assert len(asked) == 3
    with counted(tracked.engine) as seen:
        assert statuses(tracked, 6) == ["hit"]
    assert seen == []


def test_strict_readers_that_come_together_share_one_look(tracked):
    """Each look begins after whoever takes its answer has asked."""
    statuses(tracked, 6)
    watch = tracked.feed.watch
    looks, look, hold = [], watch._look, threading.Event()

    def slow(wire, definitions):
        looks.append(definitions)
        hold.wait(10)
        return look(wire, definitions)

    watch._look = slow
    threads = [threading.Thread(target=statuses, args=(tracked, 6)) for _ in range(10)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(watch._turns._changed._waiters) < 9 and time.monotonic() < deadline:
        time.sleep(0.001)
    hold.set()
    for thread in threads:
        thread.join(10)
    assert looks == [0.0, 0.0]


@pytest.mark.parametrize("driver", POSTGRES)
def test_every_driver_hears_rows(url, other, driver):
    async def main():
        settings = {"freshness": "strict"}
        named = url.replace("postgresql+psycopg", driver)
        async with everfresh.open_async(named, **settings) as cache:
            await cache.track()
            for month in (5, 6):
                await cache.sql(COUNT, m=month)
            other.execute("UPDATE flights SET arr_delay = 3 WHERE month = 5")
            statuses = [(await cache.sql(COUNT, m=month)).receipt.status for month in (5, 6)]
            if cache.engine.dialect.is_async:
                from sqlalchemy.ext.asyncio import AsyncEngine

                async with AsyncEngine(cache.engine).begin() as connection:
                    await connection.execute(sa.text("DELETE FROM flights WHERE month = 5"))
            else:
                own(cache.blocking, "DELETE FROM flights WHERE month = 5")
            after = [(await cache.sql(COUNT, m=month)).receipt.status for month in (5, 6)]
            return statuses, after

    assert asyncio.run(main()) == (["refresh", "hit"], ["refresh", "hit"])


def test_cached_functions_follow_the_rows(tracked, other):
    calls = []

    @tracked.cached
    def worst(month):
        calls.append(month)
        return max((row.delay or 0 for row in tracked.sql(JUNE, m=month)), default=None)

    worst(5)
    worst(6)
    other.execute("UPDATE flights SET arr_delay = 500 WHERE month = 6")
    assert worst(6) == 500
    worst(5)
    assert worst.receipt(5).status == "hit"
    assert calls == [5, 6, 6]


def test_the_command_line_tracks(url):
    from typer.testing import CliRunner

    from everfresh.cli.app import app

    runner = CliRunner()
    refused = runner.invoke(app, ["track", "install", url], input="n\n")
    assert refused.exit_code == 1
    assert "CREATE SCHEMA everfresh" in refused.output
    done = runner.invoke(app, ["track", "install", url, "--yes"])
    assert (done.exit_code, "public.flights" in done.output) == (0, True)
    assert "tracked" in runner.invoke(app, ["track", "status", url]).output
    assert "heard row by row" in runner.invoke(app, ["doctor", url]).output
    assert runner.invoke(app, ["track", "remove", url]).exit_code == 0
