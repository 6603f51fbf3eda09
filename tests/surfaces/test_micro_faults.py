"""What the straightforward design gets wrong; each test fails on it."""

import gc
import sqlite3
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread

import pytest
import sqlalchemy as sa

from everfresh.errors import RecursiveFillError
from everfresh.micro import FormattingError, QueryCache

from .conftest import Gate, Recorded, in_threads


def raising(error):
    def callback(*_):
        raise error

    return callback


# hits take no lock ----------------------------------------------------------------


def test_a_slow_key_delays_no_other(make, db):
    cache = make()
    cache.one("fast")
    cache.one("fast", {"ids": [1]})
    gate = db.gates["slow"] = Gate()
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(cache.one, "slow") for _ in range(4)]
        assert gate.reached.wait(10)
        # would hang here if hits, or fills of other keys, waited for the slow one
        assert cache.one("fast")["n"] == 1
        assert cache.one("fast", {"ids": [1]})["n"] == 2
        assert cache.one("other")["sql"] == "other"
        gate.opened.set()
        assert len({future.result(10)["n"] for future in slow}) == 1


def test_a_hit_takes_no_lock(make, monkeypatch):
    cache = make()
    asked = [
        lambda: cache.one("q"),
        lambda: cache.one("q", {"a": 1}),
        lambda: cache.one("q", {"a": [1.5]}),
        lambda: cache.all("q"),
        lambda: cache(len, "q"),
    ]
    for ask in asked:
        ask()

    class Forbidden:
        def __enter__(self):
            raise AssertionError("a hit took the writers' lock")

        def __exit__(self, *_):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(cache._board, "_lock", Forbidden())
        for ask in asked:
            ask()
        with pytest.raises(AssertionError):
            cache.one("another")


def test_fifty_keys_in_a_hundred_threads_ask_fifty_times(make, db):
    cache = make()
    answers = in_threads(100, lambda n: cache.one("q", {"n": n % 50})["params"]["n"])
    assert answers == [n % 50 for n in range(100)]
    assert len(db.asked) == 50


# clock ----------------------------------------------------------------------------


def test_the_wall_clock_does_not_matter(db, monkeypatch):
    import time

    with QueryCache(db, threshold=600) as cache:
        cache.one("q")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        cache.one("q")
        assert cache._clock is not time.time
    assert len(db.asked) == 1


# errors ---------------------------------------------------------------------------


def test_an_error_of_the_callback_is_kept_and_raised_from_the_original(make, db, now):
    cache, original = make(), LookupError("no")
    for ask in (
        lambda: cache(raising(original), "q"),
        lambda: cache.one("q", process=raising(original)),
        lambda: cache.all("q", process=raising(original)),
    ):
        before, raised = len(db.asked), []
        for _ in range(3):
            with pytest.raises(FormattingError, match="LookupError: no") as caught:
                ask()
            # a copy of it: the original holds the frames it came through, with all their variables
            assert repr(caught.value.__cause__) == repr(original)
            raised.append(caught.value)
        assert len(db.asked) == before + 1
        assert len({id(error) for error in raised}) == 3
    now[0] += 5
    assert cache.one("q", process=lambda row: "fine") == "fine"


def test_an_error_of_the_database_is_kept_as_its_own_type(make, db, now):
    cache = make()
    db.error = sqlite3.OperationalError("gone")
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError, match="gone") as caught:
            cache(len, "q")
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert len(db.asked) == 1
    db.error = None
    now[0] += 5
    assert cache(len, "q") == 1


def test_errors_of_sqlalchemy_keep_what_they_tell(tmp_path, make):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/e.db")
    cache = make(engine)
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError) as caught:
            cache.one("SELECT 1 FROM nowhere")
        assert isinstance(caught.value.orig, sqlite3.OperationalError)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert "nowhere" in str(caught.value)
    engine.dispose()


def test_errors_of_psycopg_keep_their_code(postgres_url, make):
    import psycopg

    dsn = postgres_url.replace("+psycopg", "")
    cache = make(lambda: psycopg.connect(dsn))
    for _ in range(3):
        with pytest.raises(psycopg.errors.UndefinedTable) as caught:
            cache.one("SELECT 1 FROM nowhere")
        assert caught.value.sqlstate == "42P01"
        assert "nowhere" in caught.value.diag.message_primary


def test_a_kept_error_does_not_grow(make, db):
    class OddError(Exception):
        """Cannot be called again with its own args."""

        def __init__(self, code, *, text):
            super().__init__(f"{code}: {text}")
            self.code = code

    class StubbornError(Exception):
        def __reduce_ex__(self, protocol):
            raise TypeError("never")

        def __new__(cls, *args, key=None):
            if key is None:
                raise TypeError("never")
            return super().__new__(cls, *args)

        def __init__(self, *args, key):
            super().__init__(*args)

    for n, error in enumerate(
        [ValueError("no"), OddError(7, text="no"), StubbornError("no", key=1)]
    ):
        cache, db.error, depths = make(), error, []
        for _ in range(5):
            with pytest.raises(type(error), match="no") as caught:
                cache.one("q")
            depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert len(set(depths[1:])) == 1, n
        assert getattr(caught.value, "code", 7) == 7


def test_all_who_waited_get_an_error_of_their_own(make, db):
    cache, gate = make(), Gate()
    db.gates["q"] = gate
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cache.one, "q", None, raising(ValueError("no"))) for _ in range(8)]
        assert gate.reached.wait(10)
        gate.opened.set()
        errors = [future.exception(10) for future in waiting]
    assert {type(error) for error in errors} == {FormattingError}
    assert len({id(error) for error in errors}) == 8
    assert len(db.asked) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_is_never_kept_and_frees_the_entry(make, db, kind):
    cache = make()
    with pytest.raises(kind):
        cache(raising(kind()), "q")
    db.error = kind()
    with pytest.raises(kind):
        cache.one("q")
    db.error = None
    assert cache(len, "q") == 1
    assert cache.one("q")["form"] == "one"


def test_one_of_those_who_wait_takes_over_from_an_interrupted_one(make, db):
    cache, gate, calls = make(), Gate(), []

    def callback(rows):
        calls.append(1)
        if len(calls) == 1:
            gate.wait()
            raise KeyboardInterrupt
        return "second"

    with ThreadPoolExecutor(2) as pool:
        owner = pool.submit(cache, callback, "q")
        assert gate.reached.wait(10)
        waiter = pool.submit(cache, callback, "q")
        gate.opened.set()
        with pytest.raises(KeyboardInterrupt):
            owner.result(10)
        assert waiter.result(10) == "second"


def test_what_can_be_read_only_once_is_refused(make):
    cache = make()
    with pytest.raises(FormattingError, match="return a list"):
        cache(lambda rows: (row for row in rows), "q")

    async def late(rows):
        return rows

    with pytest.raises(FormattingError, match="AsyncQueryCache"):
        cache(late, "r")


# re-entry -------------------------------------------------------------------------


def test_a_callback_may_ask_for_another_key_but_not_for_its_own(make):
    cache = make()

    def outer(rows):
        return cache(lambda inner: ("outer", len(inner)), "inner")

    assert cache(outer, "outer") == ("outer", 1)

    def own(rows):
        return cache(own, "own")

    for _ in range(2):
        with pytest.raises(RecursiveFillError, match="own result"):
            cache(own, "own")

    def roundabout(rows):
        return cache(lambda more: cache(roundabout, "a"), "b")

    with pytest.raises(RecursiveFillError):
        cache(roundabout, "a")


def test_what_is_made_of_other_caches_is_kept_too(make, tmp_path):
    import everfresh

    sqlite3.connect(tmp_path / "o.db").close()
    inner = make()
    with everfresh.open(f"sqlite:///{tmp_path}/o.db") as other:
        cache, calls = make(), []

        def callback(rows):
            calls.append(1)
            return other.sql("SELECT 1 AS n").scalar() + len(inner.all("q"))

        assert [cache(callback, "q") for _ in range(2)] == [2, 2]
        assert calls == [1]

        @other.cached
        def depends():
            return cache(callback, "q")

        depends()
        depends()  # goes by changes: it must not keep what only goes by age
        assert sum("another cache" in reason for reason in other.stats().bypasses) == 1


# bounded --------------------------------------------------------------------------


def test_the_number_of_entries_is_limited(make, db):
    cache = make(max_entries=10)
    in_threads(4, lambda t: [cache.one("q", {"t": t, "n": n}) for n in range(50)])
    assert len(cache.entries()) <= 10
    newest = cache.one("q", {"newest": True})
    assert cache.one("q", {"newest": True}) is newest
    for n in range(9):
        cache.one("r", {"n": n})
    assert cache.one("q", {"newest": True}) is newest
    cache.one("r", {"n": 9})
    assert cache.one("q", {"newest": True}) is not newest


def test_the_bytes_are_limited(make):
    cache = make(max_bytes=100_000)
    for n in range(100):
        cache.one("q", {"n": n}, lambda row: "x" * 10_000)
    assert cache.stats().bytes <= 100_000
    assert 5 <= len(cache.entries()) <= 10
    large = cache.one("large", process=lambda row: "x" * 200_000)
    assert len(large) == 200_000  # too large to keep: it is answered all the same


# callbacks told apart ---------------------------------------------------------------


def test_an_option_tells_callbacks_apart(make, db):
    cache = make(by_callback=True)
    assert cache(lambda rows: "first", "q") == "first"
    assert cache(lambda rows: "second", "q") == "second"
    assert cache.one("q", process=lambda row: 1) == 1
    assert cache.one("q", process=lambda row: 2) == 2
    assert cache.one("q")["form"] == "one"
    assert len(db.asked) == 5


def test_a_lambda_that_is_made_anew_is_the_same_callback(make, db):
    cache = make(by_callback=True)
    assert [cache(lambda rows: "made", "q") for _ in range(3)] == ["made"] * 3
    assert len(db.asked) == 1

    def times(n):
        return lambda rows: n

    assert [cache(times(n), "r") for n in (1, 2, 1, True)] == [1, 2, 1, True]
    assert len(db.asked) == 4
    shared = []
    assert [cache(lambda rows: len(shared), "s") for _ in range(2)] == [0, 0]
    shared.append(1)  # what it captured has changed: it is another callback
    assert cache(lambda rows: len(shared), "s") in (0, 1)
    key = object()
    opaque = lambda rows: key  # noqa: E731
    assert cache(opaque, "u") is cache(opaque, "u") is key


def test_methods_belong_to_their_objects(make, db):
    class Page:
        def __init__(self, name):
            self.name = name

        def render(self, rows):
            return self.name

        def __call__(self, rows):
            return f"called {self.name}"

    cache, one, two = make(by_callback=True), Page("one"), Page("two")
    for _ in range(2):
        assert [cache(p.render, "q") for p in (one, two)] == ["one", "two"]
        assert [cache(p, "q") for p in (one, two)] == ["called one", "called two"]
    assert len(db.asked) == 4
    assert cache.receipt("call", one.render, "q").status == "hit"


def test_a_callback_lives_on_only_where_its_identity_counts(make):
    class Callback:
        def __call__(self, rows):
            return "made"

    for by_callback in (False, True):
        callback = Callback()
        cache, alive = make(by_callback=by_callback), weakref.ref(callback)
        cache(callback, "q")
        del callback
        # another object in its place in memory would be taken for it
        assert (alive() is not None) == by_callback


# the pruning thread -------------------------------------------------------------------


def pruning_threads():
    return [t for t in threading.enumerate() if t.name == "everfresh-micro-prune"]


class Watched(QueryCache):
    """Tells when it was pruned."""

    def __init__(self, *args, **options):
        self.pruned = SimpleQueue()
        super().__init__(*args, **options)

    def prune(self):
        removed = super().prune()
        self.pruned.put(removed)
        return removed


def test_the_thread_prunes_and_ends_with_close(db, now):
    cache = Watched(db, threshold_prune=0.01, clock=lambda: now[0])
    cache.one("q")
    [thread] = pruning_threads()
    assert thread.daemon
    now[0] += 5
    while cache.pruned.get(timeout=10) == 0:
        pass
    assert cache.entries() == []
    cache.close()
    assert not thread.is_alive()


def test_changing_threshold_prune_wakes_the_thread(db, now):
    with Watched(db, clock=lambda: now[0]) as cache:
        cache.one("q")
        now[0] += 5
        cache.threshold_prune = 0.01
        assert cache.pruned.get(timeout=10) == 1
        cache.threshold_prune = None  # never
        assert cache.threshold_prune is None


def test_a_thread_that_is_gone_is_started_again(make):
    cache = make()
    cache._pruner._thread = Thread()  # what a forked child has: a thread that does not run
    cache.one("q")
    assert cache._pruner._thread.is_alive()


def test_a_dropped_cache_is_collected_and_its_thread_ends(db):
    cache = QueryCache(db)
    cache.one("q", process=lambda row, keep=cache: "holds the cache through its callback")
    with pytest.raises(FormattingError):
        cache.one("r", process=raising(ValueError("holds it through its traceback")))
    [thread] = pruning_threads()
    dropped = weakref.ref(cache)
    del cache
    gc.collect()
    assert dropped() is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_cache_without_cycles_goes_at_once():
    gc.disable()
    try:
        cache = QueryCache(Recorded())
        cache.one("q")
        [thread] = pruning_threads()
        del cache
        thread.join(10)
        assert not thread.is_alive()
    finally:
        gc.enable()


def test_a_fill_that_ends_after_close_is_not_kept(make, db):
    cache, gate = make(), Gate()
    db.gates["q"] = gate
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(cache.one, "q")
        assert gate.reached.wait(10)
        cache.close()
        gate.opened.set()
        assert late.result(10)["sql"] == "q"
    assert cache.entries() == []
    assert pruning_threads() == []


# stale while revalidate ---------------------------------------------------------------


def test_by_default_all_wait_for_what_has_aged_and_by_option_none(make, db, now):
    cache = make(stale_while_revalidate=10)
    old = cache.one("q")
    now[0] += 5
    gate = db.gates["q"] = Gate()
    assert [cache.one("q") for _ in range(5)] == [old] * 5  # would hang if it waited
    assert gate.reached.wait(10)
    assert cache.prune() == 0
    gate.opened.set()
    [refresher] = [t for t in threading.enumerate() if t.name == "everfresh-micro-refresh"]
    refresher.join(10)
    assert cache.one("q")["n"] == 2
    assert len(db.asked) == 2


def test_what_is_older_still_is_not_served(make, db, now):
    cache = make(stale_while_revalidate=10)
    cache.one("q")
    now[0] += 15
    assert cache.one("q")["n"] == 2
    now[0] += 15
    assert cache.prune() == 1


def test_aged_errors_are_not_served(make, db, now):
    cache = make(stale_while_revalidate=10)
    db.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        cache.one("q")
    db.error = None
    now[0] += 5
    assert cache.one("q")["n"] == 2


def test_nothing_new_is_made_of_what_has_aged(make, now):
    cache = make(stale_while_revalidate=10)
    cache.one("inner")
    now[0] += 5
    assert cache(lambda rows: cache.one("inner")["n"], "outer") == 3
