"""Answers that outlive their process: proven before they are given, in the store and the catalogue."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.catalogue import Listing, audits, listed, open_catalogue, totals
from everfresh.errors import EverfreshError

from .conftest import counted, make_flights
from .test_freshness import Clock, another_june, foreign

COUNT = "SELECT count(*) FROM flights WHERE month = :m"


@pytest.fixture
def path(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'flights.db'}")
    make_flights(engine)
    engine.dispose()
    return str(tmp_path / "flights.db")


@pytest.fixture
def opened(path, tmp_path):
    def opened(**settings):
        return everfresh.open(
            f"sqlite:///{path}",
            **{"store": f"sqlite:///{tmp_path / 'answers.db'}", "freshness": "strict", **settings},
        )

    return opened


def fill(opened, **settings):
    with opened(**settings) as cache:
        cache.track()
        assert cache.sql(COUNT, m=6).scalar() == 4
        assert cache.sql(COUNT, m=5).scalar() == 4
        assert cache.fills.durable.flush()


def test_what_nothing_has_touched_survives_a_restart(opened):
    fill(opened)
    with opened() as cache, counted(cache.engine) as seen:
        answer = cache.sql(COUNT, m=6)
        assert (answer.scalar(), answer.receipt.status) == (4, "hit")
        assert "proven against what has changed since" in answer.receipt.reason
        assert answer.receipt.age > 0
        assert seen.selects() == []
        assert cache.sql(COUNT, m=6).receipt.status == "hit"
        assert (cache.stats().recalled, cache.stats().fills) == (1, 0)


def test_what_was_changed_while_nobody_listened_is_asked_again_and_the_rest_is_kept(opened, path):
    fill(opened)
    another_june(path)
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 5
        assert cache.sql(COUNT, m=5).receipt.status == "hit"
        assert cache.stats().recalled == 1


@pytest.mark.parametrize(
    "harm",
    [
        "ALTER TABLE flights ADD COLUMN gate TEXT",
        "VACUUM",
        "DROP TABLE everfresh_change",
        "DELETE FROM everfresh_change",
    ],
)
def test_where_the_history_has_a_gap_nothing_is_trusted(opened, path, harm):
    fill(opened)
    another_june(path)
    try:
        foreign(path, harm)
    except sqlite3.Error:
        pytest.skip("the change table defends itself here")
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 5
        assert cache.stats().recalled <= 1
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 5


def test_a_file_put_back_from_a_copy_gives_its_numbers_out_again_and_proves_nothing(opened, path):
    with opened() as cache:
        cache.track()
    with sqlite3.connect(path) as before:
        copy = before.serialize()
    before.close()
    for _ in range(6):
        another_june(path)  # these are 1 to 6
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 10
    Path(path).write_bytes(copy)
    foreign(path, "UPDATE flights SET month = 7 WHERE month = 6")  # 1 to 4 again
    foreign(path, "UPDATE flights SET arr_delay = 1 WHERE month = 1")  # 5 to 8
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 0


def test_what_was_filled_before_the_machine_started_is_recalled(opened):
    clock = Clock()
    fill(opened, clock=clock)
    with opened(clock=Clock()) as cache:
        cache.settings.clock.now = 0.5  # the clock begins anew with the machine
        assert cache.sql(COUNT, m=6).receipt.status == "hit"


def test_without_tracking_nothing_of_an_earlier_process_is_trusted(opened, path):
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 4
    another_june(path)
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 5
        assert cache.stats().recalled == 0


def test_under_a_time_to_live_age_alone_decides(opened, path):
    clock = Clock()
    rule = {"freshness": everfresh.ttl(60), "clock": clock}
    with opened(**rule) as cache:
        assert cache.sql(COUNT, m=6).scalar() == 4
    another_june(path)
    clock.now += 30
    with opened(**rule) as cache:
        answer = cache.sql(COUNT, m=6)
        assert (answer.scalar(), answer.receipt.proof) == (4, "not proven by a feed")


def test_a_change_that_comes_while_an_answer_is_recalled_is_not_missed(opened, path, monkeypatch):
    fill(opened)
    with opened() as cache:
        real = cache.fills.durable.recall

        def recall(request, freshness):
            found = real(request, freshness)
            with cache.engine.begin() as connection:
                connection.execute(sa.text("INSERT INTO flights (month) VALUES (6)"))
            monkeypatch.setattr(cache.fills.durable, "recall", real)
            return found

        monkeypatch.setattr(cache.fills.durable, "recall", recall)
        cache.sql(COUNT, m=6)
        assert cache.sql(COUNT, m=6).scalar() == 5


@pytest.mark.parametrize("what", [None, "flights", COUNT])
def test_what_is_invalidated_by_hand_does_not_come_back(opened, what):
    fill(opened)
    parameters = {"m": 6} if what == COUNT else {}
    with opened() as cache:
        cache.invalidate(what, **parameters)
        assert cache.sql(COUNT, m=6).receipt.status == "fill"
    with opened() as cache:
        cache.invalidate(what, **parameters)
    with opened() as cache, counted(cache.engine) as seen:
        cache.sql(COUNT, m=6)
        assert len(seen.selects()) == 1


def test_two_processes_share_what_either_has_asked(opened, path, tmp_path):
    fill(opened)
    program = f"""
import everfresh
with everfresh.open("sqlite:///{path}", store="sqlite:///{tmp_path / "answers.db"}",
                    freshness="strict") as cache:
    print(cache.sql({COUNT!r}, m=6).receipt.status, cache.sql({COUNT!r}, m=7).receipt.status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["hit", "fill"], done.stderr
    with opened() as cache:
        assert cache.sql(COUNT, m=7).receipt.status == "hit"


def test_a_process_that_is_killed_leaves_nothing_wrong(opened, path, tmp_path):
    fill(opened)
    program = f"""
import everfresh, itertools
cache = everfresh.open("sqlite:///{path}", store="sqlite:///{tmp_path / "answers.db"}",
                       catalogue="sqlite:///{tmp_path / "catalogue.db"}")
for n in itertools.count():
    with cache.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO flights (month) VALUES (6)")
    for m in range(1, 13):
        cache.sql({COUNT!r}, m=m)
    if n == 5:
        print("going", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "going\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    with opened(catalogue=f"sqlite:///{tmp_path / 'catalogue.db'}") as cache:
        truth = dict(
            sqlite3.connect(path).execute("SELECT month, count(*) FROM flights GROUP BY month")
        )
        assert {m: cache.sql(COUNT, m=m).scalar() for m in range(1, 13)} == truth
        assert cache.audit().stale == 0


@pytest.mark.parametrize("damage", ["garbage", "truncated", "gone"])
def test_a_damaged_store_is_a_miss_and_recovers(opened, tmp_path, damage):
    fill(opened)
    store = tmp_path / "answers.db"
    for file in tmp_path.glob("answers.db-*"):
        file.unlink()
    if damage == "gone":
        store.unlink()
    else:
        store.write_bytes(b"x" * 5000 if damage == "garbage" else store.read_bytes()[:5000])
    with opened() as cache:
        assert cache.sql(COUNT, m=6).scalar() == 4
        assert cache.fills.durable.flush()
    with opened() as cache:
        assert cache.sql(COUNT, m=6).receipt.status == "hit"


@pytest.mark.parametrize("error", [everfresh.errors.StoreUnavailableError, ValueError])
def test_a_store_that_cannot_be_written_harms_nobody(opened, error, monkeypatch, caplog):
    with opened() as cache:
        cache.track()
        monkeypatch.setattr(cache.fills.durable.store, "put", raising(error("full")))
        assert cache.sql(COUNT, m=6).scalar() == 4
        cache.fills.durable.flush()
        assert cache.fills.durable.failure == "full"
        assert "not stored for now: full" in caplog.text
        assert cache.sql(COUNT, m=6).receipt.status == "hit"
        monkeypatch.undo()
        cache.sql(COUNT, m=5)
        cache.fills.durable.flush()
        assert cache.fills.durable.failure is None


def raising(error):
    def fail(*args):
        raise error

    return fail


def test_a_store_that_is_not_ours_and_urls_that_are_none_are_refused(opened, tmp_path, path):
    foreign(str(tmp_path / "theirs.db"), "CREATE TABLE t (n INTEGER)")
    with pytest.raises(EverfreshError):
        opened(store=f"sqlite:///{tmp_path / 'theirs.db'}")
    for name in ("store", "catalogue"):
        with pytest.raises(EverfreshError):
            opened(**{name: "nonsense"})
    engine = sa.create_engine(f"sqlite:///{path}")
    with pytest.raises(EverfreshError):
        everfresh.open(engine, catalogue="nonsense")
    with everfresh.open(engine) as cache:  # and what was begun is undone
        assert cache.sql(COUNT, m=6).scalar() == 4
    engine.dispose()


def test_the_catalogue_knows_what_was_kept_what_ended_it_and_the_audits(opened, tmp_path, path):
    url = f"sqlite:///{tmp_path / 'catalogue.db'}"
    with opened(catalogue=url, store=None) as cache:
        for _ in range(3):
            cache.sql(COUNT, m=6)
        cache.sql(COUNT, m=5)
        with cache.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO flights (month) VALUES (5)"))
        assert cache.audit().stale == 0
        assert cache.board.recorder.flush()
        catalogue = open_catalogue(url)
        states = sorted((row.state, row.hits) for row in listed(catalogue, Listing()))
        assert states == [("fresh", 2), ("stale", 0)]
        assert (totals(catalogue).fresh, totals(catalogue).hits) == (1, 2)
        (audit,) = audits(catalogue)
        assert (audit.checked, audit.stale) == (1, 0)
        catalogue.close()


def other_schema(path):
    open_catalogue(f"sqlite:///{path}").close()
    foreign(str(path), "UPDATE everfresh_version SET version_num = '9.9'")


CATALOGUES = {
    "garbage": (lambda path: path.write_bytes(os.urandom(5000)), "damaged, or no database"),
    "newer": (other_schema, "newer than"),
    "foreign": (lambda path: foreign(str(path), "CREATE TABLE t (n INTEGER)"), "holds tables"),
    "a folder": (lambda path: path.mkdir(), "cannot be used now"),
}


@pytest.mark.parametrize("kind", CATALOGUES)
def test_a_catalogue_that_cannot_be_used_answers_everybody_and_is_used_when_it_can(
    opened, tmp_path, kind, caplog
):
    path = tmp_path / "catalogue.db"
    make, reason = CATALOGUES[kind]
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with opened(catalogue=f"sqlite:///{path}", store=None) as cache:
        assert [cache.sql(COUNT, m=6).scalar(), cache.sql(COUNT, m=6).receipt.status] == [4, "hit"]
        assert not cache.board.recorder.flush()
        (trouble,) = cache.stats().troubles
        assert trouble.startswith("catalogue: ")
        assert reason in trouble
        assert "nothing is recorded for now" in caplog.text
        if before is None:
            path.rmdir()
        else:
            assert path.read_bytes() == before  # it is not ours, or not for us: left alone
            for each in tmp_path.glob("catalogue.db*"):
                each.unlink()
        assert cache.board.recorder.flush()
        assert cache.stats().troubles == ()
    with open_catalogue(f"sqlite:///{path}") as catalogue:
        assert [(row.label, row.hits) for row in listed(catalogue)] == [(COUNT, 1)]


def test_a_catalogue_truncated_under_a_running_cache_is_recorded_to_again(opened, tmp_path):
    path = tmp_path / "catalogue.db"
    with opened(catalogue=f"sqlite:///{path}", store=None) as cache:
        cache.sql(COUNT, m=6)
        assert cache.board.recorder.flush()
        cache.board.recorder.catalogue.engine.dispose()  # so that no page of it is in memory
        os.truncate(path, 8192)
        cache.sql(COUNT, m=5)
        assert not cache.board.recorder.flush()
        assert "damaged" in cache.stats().troubles[0]
        assert cache.sql(COUNT, m=5).receipt.status == "hit"
        for each in tmp_path.glob("catalogue.db*"):  # as its operator would
            each.unlink()
        cache.sql(COUNT, m=7)
        assert cache.board.recorder.flush()
        assert cache.board.recorder.dropped == 0
    with open_catalogue(f"sqlite:///{path}") as catalogue:
        assert len(listed(catalogue)) == 2  # what was noted since the last good write
