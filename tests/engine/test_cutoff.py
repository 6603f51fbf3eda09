"""Stale, unproven and early cutoff: what was made of the same parts is not made again."""

import asyncio
import sqlite3

import pytest

import everfresh

from .conftest import write
from .test_freshness import Clock, foreign, path  # noqa: F401 - a fixture

COUNT = "SELECT count(*) FROM flights WHERE month = :m"
WORST = "SELECT max(arr_delay) AS worst FROM flights WHERE month = :m"


class Counted:
    """A cached function made of a cached query, and how often it ran."""

    def __init__(self, cache, **options):
        self.ran = 0

        @cache.cached(**options)
        def report(month):
            self.ran += 1
            return f"worst of {month}: {cache.sql(WORST, m=month).scalar()}"

        self.report = report


def test_a_part_that_comes_out_the_same_leaves_what_was_made_of_it(cache):
    made = Counted(cache)
    assert made.report(6) == "worst of 6: 20.5"
    before = made.report.receipt(6)
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
    assert made.report(6) == "worst of 6: 20.5"
    assert made.ran == 1
    receipt = made.report.receipt(6)
    assert receipt.key == before.key
    assert cache.stats().cutoffs == 1
    assert made.report(6) == "worst of 6: 20.5"  # a hit again
    assert cache.stats().cutoffs == 1


def test_a_part_that_comes_out_otherwise_makes_it_run(cache):
    made = Counted(cache)
    made.report(6)
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 99)")
    assert made.report(6) == "worst of 6: 99.0"
    assert (made.ran, cache.stats().cutoffs) == (2, 0)


def test_types_names_and_order_are_part_of_what_is_compared(cache):
    ran = []

    @cache.cached
    def rows():
        ran.append(1)
        return [tuple(row) for row in cache.sql("SELECT id, month FROM flights WHERE id < 2")]

    rows()
    write(cache, "UPDATE flights SET month = month + 0.0 WHERE id = 0")
    rows()
    assert len(ran) == 1  # the column's affinity makes it an integer again: the same
    write(cache, "UPDATE flights SET month = 'x' WHERE id = 0")
    rows()
    assert len(ran) == 2


def test_a_source_of_its_own_is_never_unproven(cache):
    made = Counted(cache, depends_on="flights")
    made.report(6)
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
    made.report(6)
    assert (made.ran, cache.stats().cutoffs) == (2, 0)


def test_a_change_of_an_own_source_while_it_is_unproven_is_heard(cache):
    write(cache, "CREATE TABLE notes (n INTEGER)")
    made = Counted(cache, depends_on="notes")
    made.report(6)
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
    write(cache, "INSERT INTO notes VALUES (1)")
    made.report(6)
    assert (made.ran, cache.stats().cutoffs) == (2, 0)


def test_it_goes_through_functions_made_of_functions(cache):
    made, ran = Counted(cache), []

    @cache.cached
    def loud(month):
        ran.append(month)
        return made.report(month).upper()

    assert loud(6) == "WORST OF 6: 20.5"
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
    assert loud(6) == "WORST OF 6: 20.5"
    assert (made.ran, len(ran)) == (1, 1)
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 50)")
    assert loud(6) == "WORST OF 6: 50.0"
    assert (made.ran, len(ran)) == (2, 2)


def test_parts_are_asked_for_in_order_and_only_as_far_as_they_are_the_same(cache):
    asked = []

    @cache.cached
    def total(month):
        asked.append(month)
        return cache.sql(COUNT, m=month).scalar()

    @cache.cached
    def first_that_has_any(*months):
        return next((m for m in months if total(m)), None)

    write(cache, "DELETE FROM flights WHERE month = 1")
    assert first_that_has_any(1, 2) == 2
    asked.clear()
    write(cache, "INSERT INTO flights (month) VALUES (1)")
    write(cache, "INSERT INTO flights (month) VALUES (2)")
    assert first_that_has_any(1, 2) == 1
    assert asked == [1]  # the second is not needed any more


def test_a_commit_while_the_parts_are_compared_is_not_missed(cache, monkeypatch):
    made = Counted(cache)
    made.report(6)
    write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
    real = cache.reader.run

    def run(*args):
        rows = real(*args)
        monkeypatch.setattr(cache.reader, "run", real)
        write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 77)")
        return rows

    monkeypatch.setattr(cache.reader, "run", run)
    made.report(6)
    assert made.report(6) == "worst of 6: 77.0"


def test_what_was_invalidated_by_hand_runs_again(cache):
    made = Counted(cache)
    made.report(6)
    cache.invalidate()
    made.report(6)
    assert made.ran == 2
    made.report.invalidate(6)
    made.report(6)
    assert made.ran == 3


def test_a_time_to_live_ends_whatever_the_parts_are(path):  # noqa: F811
    clock = Clock()
    with everfresh.open(f"sqlite:///{path}", clock=clock) as cache:
        made = Counted(cache, ttl=10)
        made.report(6)
        clock.now += 6
        cache.proof.confirm()
        write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
        made.report(6)
        assert (made.ran, cache.stats().cutoffs) == (1, 1)
        clock.now += 5  # 11 since it ran
        cache.proof.confirm()
        made.report(6)
        assert made.ran == 2


def test_a_part_that_fails_lets_the_function_meet_the_error(cache):
    made = Counted(cache)
    made.report(6)
    with cache.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE flights RENAME TO flown")
    with pytest.raises(Exception, match="no such table"):
        made.report(6)
    assert made.ran == 2


def test_after_an_untracked_foreign_commit_only_what_differs_runs(path):  # noqa: F811
    with everfresh.open(f"sqlite:///{path}", freshness="strict") as cache:
        made = Counted(cache)
        june, may = made.report(6), made.report(5)
        foreign(path, "UPDATE flights SET arr_delay = 500 WHERE month = 6")
        assert made.report(5) == may
        assert made.ran == 2
        assert made.report(6) != june
        assert made.ran == 3


def test_coroutines_too(cache):
    ran = []

    @cache.cached
    async def worst(month):
        return cache.sql(WORST, m=month).scalar()

    @cache.cached
    async def report(month):
        ran.append(month)
        return f"{await worst(month)}"

    async def main():
        assert await report(6) == "20.5"
        write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
        assert await report(6) == "20.5"
        assert len(ran) == 1
        write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 60)")
        assert await report(6) == "60.0"

    asyncio.run(main())
    assert len(ran) == 2


def test_an_unproven_answer_counts_and_goes_when_there_is_no_room(path):  # noqa: F811
    with everfresh.open(f"sqlite:///{path}", max_bytes=30_000) as cache:
        made = Counted(cache)
        made.report(6)
        write(cache, "INSERT INTO flights (month, arr_delay) VALUES (6, 1)")
        for month in range(40):
            cache.sql(COUNT, m=month)
            assert cache.board.store.bytes <= 30_000
        assert made.report(6) == "worst of 6: 20.5"
        truth = sqlite3.connect(path).execute("SELECT max(arr_delay) FROM flights WHERE month = 6")
        assert truth.fetchone() == (20.5,)
        assert cache.audit().stale == 0
