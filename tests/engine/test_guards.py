"""Speed guarded by counting, which does not depend on the machine: statements, calls, locks."""

import gc
import sys

import sqlalchemy as sa

from .conftest import JUNE, counted, write


def python_calls(call):
    """Return how many Python functions a call enters."""
    count = [0]

    def note(frame, event, argument):
        count[0] += event == "call"

    gc.collect()
    gc.disable()  # what an earlier test left behind is not this call's
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count[0] - 1  # the lambda itself


def test_a_hit_enters_one_function_and_asks_nothing(cache):
    cache.sql(JUNE, m=6)

    @cache.cached
    def f(x):
        return x

    f(1)
    with counted(cache.engine) as seen:
        assert python_calls(lambda: cache.sql(JUNE, m=6)) <= 1
        assert python_calls(lambda: f(1)) <= 1
        f(x=1)
        assert python_calls(lambda: f(x=1)) <= 2
    assert seen == []


def test_a_hit_takes_no_lock(cache):
    cache.sql(JUNE, m=6)

    @cache.cached
    def f(x):
        return x

    f(1)
    with cache.board._lock:  # a hit that took it would hang here
        assert cache.sql(JUNE, m=6)[0].carrier == "UA"
        assert f(1) == 1


def test_a_miss_asks_once_and_a_refill_too(cache):
    cache.sql(JUNE, m=5)
    with counted(cache.engine) as seen:
        cache.sql(JUNE, m=6)
        assert len(seen) == 1
    write(cache, "UPDATE flights SET arr_delay = 1 WHERE id = 5")
    with counted(cache.engine) as seen:
        cache.sql(JUNE, m=6)
        assert len(seen) == 1


def test_opening_and_the_first_plan_take_a_bounded_number_of_statements(url):
    import everfresh

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for n in range(40):
            connection.exec_driver_sql(f"CREATE TABLE extra_{n} (id INTEGER PRIMARY KEY)")
    with everfresh.open(engine) as cache, counted(engine) as seen:
        cache.sql(JUNE, m=6)
        assert len(seen) < 20  # not per table
    engine.dispose()


def test_a_change_looks_only_at_what_it_touches(cache, monkeypatch):
    """10 of 500 entries are touched: the others' conditions are not even evaluated."""
    from everfresh.kernel.predicate_source import RowSource

    for month in range(500):
        cache.sql(JUNE, m=month)
    evaluated = []
    real = RowSource.touched_by
    monkeypatch.setattr(
        RowSource, "touched_by", lambda self, change: evaluated.append(1) or real(self, change)
    )
    write(cache, "UPDATE flights SET arr_delay = 1 WHERE id = 5")
    assert len(evaluated) <= 4


def test_the_touch_log_is_bounded(cache):
    cache.sql(JUNE, m=6)
    for _ in range(10_000):
        cache.sql(JUNE, m=6)
    assert len(cache.board.store._log) <= 4096
    assert cache.stats().hits == 10_000
