"""Commits of other connections and processes, by each rule of freshness."""

import sqlite3
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.engine.proof import Proof
from everfresh.errors import ConfigurationError
from everfresh.kernel.freshness import early_probability

from .conftest import counted, make_flights

COUNT = "SELECT count(*) FROM flights WHERE month = :m"


@pytest.fixture
def path(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'flights.db'}")
    make_flights(engine)
    engine.dispose()
    return str(tmp_path / "flights.db")


def opened(path, **settings):
    return everfresh.open(f"sqlite:///{path}", **settings)


def foreign(path, statement, *parameters):
    connection = sqlite3.connect(path)
    connection.execute(statement, parameters)
    connection.commit()
    connection.close()


def another_june(path):
    foreign(path, "INSERT INTO flights (month) VALUES (6)")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("tracked", [False, True])
def test_strict_never_gives_what_another_connection_has_outdated(path, tracked):
    with opened(path, freshness="strict") as cache:
        if tracked:
            cache.track()
        for expected in range(4, 9):
            assert cache.sql(COUNT, m=6).scalar() == expected
            assert cache.sql(COUNT, m=6).receipt.status == "hit"
            another_june(path)


@pytest.mark.parametrize("tracked", [False, True])
def test_the_default_hears_another_process_by_itself(path, tracked):
    with opened(path) as cache:
        if tracked:
            cache.track()
        assert cache.sql(COUNT, m=6).scalar() == 4
        program = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
            "c.execute('INSERT INTO flights (month) VALUES (6)'); c.commit()"
        )
        told = threading.Event()
        cache.feed.subscribe(Told(told))
        subprocess.run([sys.executable, "-c", program, path], check=True)
        assert told.wait(10)
        assert cache.sql(COUNT, m=6).scalar() == 5


class Told:
    """A listener that says when anything was told."""

    def __init__(self, event):
        self.event = event

    def begin(self, changes):
        return None

    def end(self, token, *, committed, changes=None):
        self.event.set()

    def lost(self, reason):
        self.event.set()


def test_a_tracked_file_tells_which_rows_another_connection_changed(path):
    with opened(path, freshness="strict") as cache:
        assert "flights" in " ".join(cache.track().tracked)
        june, may = cache.sql(COUNT, m=6), cache.sql(COUNT, m=5)
        assert june.receipt.proof == "session feed, change table"
        another_june(path)
        assert cache.sql(COUNT, m=5).receipt.status == "hit"
        answer = cache.sql(COUNT, m=6)
        assert (answer.receipt.status, answer.scalar()) == ("refresh", 5)
        assert "an INSERT into main.flights" in answer.receipt.reason
        assert may.scalar() == 4


def test_an_untracked_file_is_left_alone_and_a_foreign_commit_makes_all_of_it_stale(path):
    with opened(path, freshness="strict") as cache:
        assert cache.sql(COUNT, m=5).receipt.proof == "session feed, data_version"
        with sqlite3.connect(path) as connection:
            names = connection.execute("SELECT name FROM sqlite_master").fetchall()
        connection.close()
        assert names == [("flights",)]
        another_june(path)
        assert cache.sql(COUNT, m=5).receipt.status == "refresh"


def test_a_file_that_is_locked_is_not_half_tracked(path):
    with opened(path, poll_interval=1000.0) as cache:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        cache.feed.watch.patience = 0
        with pytest.raises(ConfigurationError, match="nothing was done"):
            cache.track()
        other.rollback()
        other.close()
        assert cache.tracking().history is None
        assert cache.track().tracked == ("main.flights",)


@pytest.mark.parametrize("tracked", [False, True])
def test_own_commits_stay_exact(path, tracked):
    with opened(path, freshness="strict") as cache:
        if tracked:
            cache.track()
        cache.sql(COUNT, m=5), cache.sql(COUNT, m=6)
        for expected in range(5, 10):
            with cache.engine.begin() as connection:
                connection.execute(sa.text("INSERT INTO flights (month) VALUES (6)"))
            assert cache.sql(COUNT, m=5).receipt.status == "hit"
            assert cache.sql(COUNT, m=6).scalar() == expected
            assert cache.sql(COUNT, m=6).receipt.status == "hit"


def test_what_was_read_after_a_foreign_commit_is_not_outdated_when_that_is_heard_late(path):
    with opened(path, poll_interval=1000.0, freshness=everfresh.bounded(1000.0)) as cache:
        cache.track()
        another_june(path)
        assert cache.sql(COUNT, m=6).scalar() == 5  # the change is not heard, but read
        assert cache.proof.confirm()
        assert cache.sql(COUNT, m=6).receipt.status == "hit"
        another_june(path)
        assert cache.proof.confirm()
        assert cache.sql(COUNT, m=6).scalar() == 6


def test_a_hit_after_the_bound_looks_itself(path):
    clock = Clock()
    rule = everfresh.bounded(2.0)
    with opened(path, poll_interval=1000.0, freshness=rule, clock=clock) as cache:
        total = cache.cached(lambda month: cache.sql(COUNT, m=month).scalar())
        assert (cache.sql(COUNT, m=6).scalar(), total(6)) == (4, 4)
        another_june(path)
        clock.now += 1.9
        looks = cache.proof.looks
        assert (cache.sql(COUNT, m=6).scalar(), total(6)) == (4, 4)  # within the bound
        assert cache.proof.looks == looks
        clock.now += 0.2
        assert total(6) == 5
        assert cache.sql(COUNT, m=6).scalar() == 5
        assert cache.proof.looks == looks + 1


def test_the_lag_is_told(path):
    clock = Clock()
    with opened(path, poll_interval=1000.0, clock=clock) as cache:
        clock.now += 0.25
        assert cache.stats().lag == 0.25
        assert cache.proof.confirm()
        assert cache.stats().lag == 0
    with everfresh.open("sqlite://") as cache:
        assert cache.stats().lag is None


def test_where_others_cannot_be_heard_the_database_answers(path):
    with opened(path, freshness="strict") as cache:
        ask = cache.cached(lambda: cache.sql(COUNT, m=6).scalar())
        assert (cache.sql(COUNT, m=6).scalar(), ask()) == (4, 4)
        cache.feed.watch.close()  # as after an I/O error
        another_june(path)
        answer = cache.sql(COUNT, m=6)
        assert (answer.receipt.status, answer.scalar(), ask()) == ("bypass", 5, 5)
        assert "other writers cannot be heard: it is closed" in answer.receipt.reason


def test_a_time_to_live_asks_nobody_and_says_so(path):
    clock = Clock()
    with opened(path, freshness=everfresh.ttl(30), clock=clock) as cache:
        looks = cache.proof.looks
        assert cache.sql(COUNT, m=6).scalar() == 4
        another_june(path)
        clock.now += 29
        answer = cache.sql(COUNT, m=6)
        assert (answer.scalar(), answer.receipt.proof) == (4, "not proven by a feed")
        clock.now += 2
        assert cache.sql(COUNT, m=6).scalar() == 5
        assert cache.proof.looks == looks
        another_june(path)
        assert cache.using(freshness="strict").sql(COUNT, m=6).scalar() == 6


def test_a_call_may_ask_for_more_than_its_cache(path):
    rule = everfresh.bounded(1000.0)
    with opened(path, poll_interval=1000.0, freshness=rule) as cache:
        strictly = cache.cached(freshness="strict")(lambda: cache.sql(COUNT, m=6).scalar())
        assert strictly() == cache.sql(COUNT, m=6).scalar() == 4
        another_june(path)
        assert cache.sql(COUNT, m=6).scalar() == 4
        assert strictly() == 5
        another_june(path)
        assert cache.using(freshness="strict").sql(COUNT, m=6).scalar() == 6
        assert cache.using(freshness=everfresh.bounded(0.0001)).sql(COUNT, m=6).scalar() == 6


def test_a_snapshot_gets_nothing_that_another_process_changed_after_it(path):
    foreign(path, "PRAGMA journal_mode = WAL")
    with opened(path, freshness="strict") as cache:
        with cache.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            view = cache.using(connection=connection)
            assert view.sql("SELECT count(*) FROM flights WHERE month = 5").scalar() == 4
            another_june(path)
            assert cache.sql(COUNT, m=6).scalar() == 5  # outside, after the commit
            assert view.sql(COUNT, m=6).scalar() == 4  # inside, the snapshot is from before it
        with cache.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            inside = cache.using(connection=connection).sql(COUNT, m=6)
            assert (inside.scalar(), inside.receipt.status) == (5, "hit")


def test_tables_of_attached_files_are_not_kept(path, tmp_path):
    other = str(tmp_path / "other.db")
    foreign(other, "CREATE TABLE t (n INTEGER)")
    engine = sa.create_engine(f"sqlite:///{path}")

    @sa.event.listens_for(engine, "connect")
    def attach(raw, record):
        raw.execute("ATTACH ? AS other", (other,))

    with everfresh.open(engine) as cache:
        for expected in range(3):
            answer = cache.sql("SELECT count(*) FROM other.t")
            assert (answer.scalar(), answer.receipt.status) == (expected, "bypass")
            assert "its file is attached" in answer.receipt.reason
            foreign(other, "INSERT INTO t VALUES (1)")
    engine.dispose()


def test_what_is_no_rule_is_refused(path):
    for wrong in ("sometimes", 5, None):
        with pytest.raises(ConfigurationError, match="freshness is 'strict'"):
            opened(path, freshness=wrong)
    for make in (everfresh.bounded, everfresh.ttl):
        with pytest.raises(ConfigurationError, match="seconds above 0"):
            make(0)
    with (
        everfresh.open("sqlite://") as cache,
        pytest.raises(ConfigurationError, match="no other writers"),
    ):
        cache.track()


# aging ---------------------------------------------------------------------


def test_an_aged_answer_serves_while_it_is_made_anew(path):
    clock = Clock()
    with opened(path, clock=clock, ttl=10, stale_while_revalidate=5) as cache:
        assert cache.sql(COUNT, m=6).receipt.status == "fill"
        clock.now += 11
        cache.proof.confirm()
        with counted(cache.engine) as seen:
            answer = cache.sql(COUNT, m=6)
            assert answer.receipt.age == 11
            threads_are_done()
            assert len(seen.selects()) == 1
            assert cache.sql(COUNT, m=6).receipt.age == 0
            clock.now += 16
            assert cache.sql(COUNT, m=6).receipt.age == 0  # too old to serve
            assert len(seen.selects()) == 2


def test_an_answer_that_a_change_has_outdated_never_serves_while_it_is_made_anew(path):
    clock = Clock()
    with opened(path, clock=clock, ttl=10, stale_while_revalidate=5, freshness="strict") as cache:
        cache.sql(COUNT, m=6)
        clock.now += 11
        another_june(path)
        assert cache.sql(COUNT, m=6).scalar() == 5
        with cache.engine.connect() as connection:
            connection.execute(sa.text("INSERT INTO flights (month) VALUES (6)"))
            connection.commit()
        clock.now += 11
        assert cache.sql(COUNT, m=6).scalar() == 6


def threads_are_done():
    for thread in threading.enumerate():
        if thread.name == "everfresh-renew":
            thread.join(10)


def test_early_refresh_follows_the_formula(path, monkeypatch):
    """A reader whose dice is under exp(-remaining / (beta * cost)) makes the answer anew."""
    clock = Clock()
    with opened(path, clock=clock, ttl=10, early_refresh=2.0) as cache:
        cache.sql(COUNT, m=6)
        (entry,) = cache.entries()
        entry.cost = 1.5
        clock.now += 7
        cache.proof.confirm()
        assert early_probability(3.0, 1.5, 2.0) == pytest.approx(0.36788, abs=1e-5)
        with counted(cache.engine) as seen:
            monkeypatch.setattr("everfresh.engine.fills.random", lambda: 0.3680)
            cache.sql(COUNT, m=6)
            threads_are_done()
            assert seen.selects() == []
            monkeypatch.setattr("everfresh.engine.fills.random", lambda: 0.3677)
            assert cache.sql(COUNT, m=6).receipt.age == 7
            threads_are_done()
            assert len(seen.selects()) == 1


def test_the_change_table_is_pruned_now_and_then(path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("everfresh.engine.proof.HISTORY", 3)
    with opened(path, clock=clock, poll_interval=1000.0) as cache:
        cache.track()
        for _ in range(10):
            another_june(path)
        cache.proof.tidy()
        assert cache.tracking().rows == 10
        clock.now += 61
        cache.proof.tidy()
        assert cache.tracking().rows == 3
        cache.proof.confirm()
        assert cache.sql(COUNT, m=6).scalar() == 14


@pytest.mark.parametrize("tracked", [False, True])
def test_an_audit_hears_what_others_committed_before_it_calls_an_answer_stale(path, tracked):
    with opened(path, freshness="strict") as cache:
        if tracked:
            cache.track()
        cache.sql(COUNT, m=6)
        cache.sql(COUNT, m=5)
        another_june(path)
        assert cache.audit().stale == 0
        foreign(path, "DROP TABLE flights")
        assert cache.audit().checked == 0


def test_an_audit_calls_nothing_stale_that_was_committed_while_it_asked(path, monkeypatch):
    with opened(path, freshness="strict") as cache:
        cache.sql(COUNT, m=6)
        prepare = cache.reader.prepare

        def overtaken(statement):
            another_june(path)
            return prepare(statement)

        monkeypatch.setattr(cache.reader, "prepare", overtaken)
        audit = cache.audit()
        assert (audit.checked, audit.stale, audit.changed) == (0, 0, 1)


class Overtaken(Proof):
    """A proof whose poll comes just when a reader asks until when all is proven."""

    @property
    def until(self):
        if self.armed:
            self.armed = False
            self.confirm()
        return self.proven

    @until.setter
    def until(self, value):
        self.proven = value


@pytest.mark.parametrize("direct", [False, True])
def test_a_poll_while_a_reader_looks_does_not_prove_what_it_has_just_outdated(path, direct):
    """The reader was stopped in the middle of its look, for longer than the bound."""
    clock = Clock()
    with opened(path, clock=clock, poll_interval=1000.0) as cache:

        @cache.cached
        def june():
            return cache.sql(COUNT, m=6).scalar()

        ask = (lambda: cache.sql(COUNT, m=6).scalar()) if direct else june
        assert ask() == ask() == 4
        another_june(path)
        clock.now += 60
        proven = cache.proof.until
        cache.proof.armed = False
        cache.proof.__class__ = Overtaken
        cache.proof.until = proven
        cache.proof.armed = True
        assert ask() == 5


def test_no_reader_goes_back_behind_what_another_statement_has_shown(path):
    """One statement is made anew and shows a commit that nobody has heard of yet."""
    rule = everfresh.bounded(1000.0)
    with opened(path, poll_interval=1000.0, freshness=rule) as cache:
        cache.track()
        latest = "SELECT max(arr_delay) FROM flights WHERE month = 6"
        statement = "SELECT max(arr_delay), count(*) FROM flights WHERE month = 6"
        assert cache.sql(latest).scalar() < 900
        foreign(path, "UPDATE flights SET arr_delay = 900 WHERE month = 6")
        assert (
            cache.sql(statement)[0][0] == 900
        )  # asked for the first time: it comes from the database
        assert cache.sql(latest).scalar() == 900
