"""What a hard look at the engine found, one test each."""

import asyncio
import functools
import gc
import os
import pickle
import sqlite3
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
import sqlalchemy.orm

import everfresh
from everfresh.errors import ConfigurationError
from everfresh.stores.sizing import size_of

from .conftest import JUNE, write

ONE = "SELECT arr_delay AS d FROM flights WHERE id = 5"


class Pause:
    """Stop a call after its work is done, until told to go on."""

    def __init__(self, monkeypatch, owner, name):
        self.reached, self.go = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def paused(*args, **options):
            result = real(*args, **options)
            if not self.reached.is_set():
                self.reached.set()
                assert self.go.wait(10)
            return result

        monkeypatch.setattr(owner, name, paused)


@pytest.mark.parametrize("warm", [False, True])
def test_nobody_joins_a_computation_whose_part_a_commit_has_overtaken(cache, monkeypatch, warm):
    """The inner answer is there, the outer one does not know its sources yet; then a commit."""

    @cache.cached
    def outer():
        return cache.sql(ONE).one().d

    write(cache, "UPDATE flights SET arr_delay = 10 WHERE id = 5")
    cache.sql(JUNE, m=1)
    if warm:
        cache.sql(ONE)
        pause = Pause(monkeypatch, cache.fills, "hit")
    else:
        pause = Pause(monkeypatch, cache.reader, "run")
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(outer)
        assert pause.reached.wait(10)
        write(cache, "UPDATE flights SET arr_delay = 999 WHERE id = 5")
        late = pool.submit(outer)
        assert late.result(timeout=10) == 999
        pause.go.set()
        assert early.result(timeout=10) == 10
    assert outer() == 999


def test_who_waits_for_a_voided_part_is_void_too(cache, monkeypatch):
    @cache.cached
    def outer():
        return cache.sql(ONE).one().d

    write(cache, "UPDATE flights SET arr_delay = 10 WHERE id = 5")
    cache.sql(JUNE, m=1)
    pause = Pause(monkeypatch, cache.reader, "run")
    with ThreadPoolExecutor(3) as pool:
        inner = pool.submit(cache.sql, ONE)
        assert pause.reached.wait(10)
        early = pool.submit(outer)  # joins the inner query
        while not any(
            f.lease and f.lease.future for f in list(cache.board._ledger.running.values())
        ):
            pass
        write(cache, "UPDATE flights SET arr_delay = 999 WHERE id = 5")
        assert pool.submit(outer).result(timeout=10) == 999
        pause.go.set()
        assert {early.result(10), inner.result(10).one().d} == {10}
    assert outer() == 999


def test_decorators_are_part_of_a_functions_identity(cache):
    def scale(factor):
        def decorate(function):
            @functools.wraps(function)
            def scaled(n):
                return factor * function(n)

            return scaled

        return decorate

    def price(n):
        return n

    calls = [cache.cached(price), cache.cached(scale(3)(price)), cache.cached(scale(5)(price))]
    assert [call(1) for call in calls] == [1, 3, 5]


def test_odd_callables_work_or_say_why_not(cache):
    class Callable:
        def __call__(self, n):
            return n + 1

    assert cache.cached(Callable())(1) == 2
    assert cache.cached(functools.partial(lambda a, b: a + b, 2))(3) == 5
    for wrong, message in (
        (classmethod(lambda cls: 1), "below @classmethod"),
        (functools.partial(max, 2), "does not tell its parameters"),
        (3, "takes a function, not int"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            cache.cached(wrong)


def test_a_task_that_dies_with_its_loop_gives_its_key_back(cache):
    calls = []

    @cache.cached
    async def compute():
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(3600)
        return "done"

    loop = asyncio.new_event_loop()
    task = loop.create_task(compute())
    loop.run_until_complete(asyncio.sleep(0.01))
    task._log_destroy_pending = False
    loop.close()
    del task
    gc.collect()
    assert asyncio.run(asyncio.wait_for(compute(), 5)) == "done"


def test_a_background_task_is_no_part_of_what_started_it(cache):
    tasks = []

    @cache.cached
    async def compute():
        async def later():
            await asyncio.sleep(0.01)
            for month in range(20):
                cache.sql(JUNE, m=month)
            return await compute()

        tasks.append(asyncio.create_task(later()))
        return "done"

    async def main():
        await compute()
        assert await tasks[0] == "done"  # not "asked for its own result"

    asyncio.run(main())
    assert compute.receipt().sources == ()


def test_the_limit_counts_what_an_entry_really_takes(url):
    import tracemalloc

    with everfresh.open(url, max_bytes=2_000_000) as cache:
        cache.sql("SELECT :n AS n", n=-1)
        tracemalloc.start()
        for n in range(4000):
            cache.sql("SELECT :n AS n, id FROM flights WHERE id = :n", n=n)
        for n in range(20):
            cache.sql("SELECT count(*) FROM flights WHERE id IN :ids", ids=list(range(n, n + 500)))
        gc.collect()  # an answer and its receipt know each other: what went waits for the collector
        real = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        # the memory of what went is bounded apart: some hundred bytes for each of 10,000
        assert real < 3 * cache.settings.max_bytes + 4_000_000


def test_large_cells_and_nested_cells_are_counted():
    from everfresh.engine.rows import make_rows

    blobs = make_rows(("id", "b"), [(n, b"x") for n in range(300)] + [(300, b"x" * 5_000_000)])
    assert size_of(blobs) > 5_000_000
    nested = make_rows(("j",), [({"a": [f"{n}" * 50 for n in range(500)]},)])
    assert size_of(nested) > 40_000


def test_sizing_never_fails_and_never_takes_long():
    class Odd:
        nbytes = property(lambda self: 1 / 0)

        def memory_usage(self):
            return "much"

        def __getattr__(self, name):
            raise RuntimeError(name)

    class Node:
        def __init__(self):
            self.others = []

    nodes = [Node() for _ in range(60)]
    for node in nodes:
        node.others = nodes
    assert size_of(Odd()) > 0
    assert size_of(nodes) < 1_000_000  # each counted once
    assert size_of([{"a": n} for n in range(50_000)]) > 2_000_000
    recursive = []
    recursive.append(recursive)
    assert size_of(recursive) > 0


def test_a_kept_error_does_not_grow_and_keeps_no_frames(cache):
    big = []

    @cache.cached(keep_errors=60)
    def fail():
        local = bytearray(1000)
        big.append(id(local))
        raise LookupError("no")

    seen = []
    for _ in range(50):
        with pytest.raises(LookupError) as caught:
            fail()
        seen.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(big) == 1
    assert max(seen[1:]) == min(seen[1:])
    entry = cache.entries()[0]
    assert entry.value.__traceback__ is None


def test_rows_pickle_and_their_columns_are_fixed(cache):
    rows = cache.sql(JUNE, m=6)
    assert pickle.loads(pickle.dumps(rows)) == rows
    with pytest.raises(AttributeError):
        rows.columns = ("other",)


def test_an_asyncio_engine_is_told_apart(url):
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))
    with everfresh.open(engine) as cache, pytest.raises(ConfigurationError, match="blocking"):
        cache.sql("SELECT 1")
    asyncio.run(engine.dispose())


def test_a_table_with_a_space_in_its_name_is_no_statement(cache):
    write(cache, 'CREATE TABLE "order details" (id INTEGER PRIMARY KEY)')
    cache.sql('SELECT count(*) FROM "order details"')
    assert cache.invalidate("order details") == 1


def test_errors_of_one_computation_are_each_waiters_own(cache):
    started, go = threading.Event(), threading.Event()

    @cache.cached
    def fail():
        started.set()
        assert go.wait(10)
        raise LookupError("no")

    def call(_):
        try:
            fail()
        except LookupError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(call, 0)
        assert started.wait(10)
        others = [pool.submit(call, n) for n in range(3)]
        go.set()
        errors = [future.result(10) for future in [first, *others]]
    assert len({id(error) for error in errors}) == 4


def test_sqlalchemy_objects_have_a_size(cache):
    class Base(sa.orm.DeclarativeBase):
        pass

    class Flight(Base):
        __tablename__ = "flights"
        id = sa.Column(sa.Integer, primary_key=True)

    @cache.cached(depends_on="flights")
    def load():
        with sa.orm.Session(cache.engine) as session:
            return session.get(Flight, 5)

    assert load().id == 5
    assert load() is load()


def test_tables_whose_names_differ_in_the_case_of_letters_beyond_ascii(tmp_path):
    path = tmp_path / "odd.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.executescript('CREATE TABLE "ÄB" (a); CREATE TABLE "äb" (a); CREATE TABLE t (a);')
    with everfresh.open(f"sqlite:///{path}", freshness="strict") as cache:
        for _ in range(2):
            assert cache.track().tracked == ("main.t",)
            for name in ("ÄB", "äb"):
                question = f'SELECT count(*) FROM "{name}"'
                count = cache.sql(question).scalar()
                other.execute(f'INSERT INTO "{name}" VALUES (1)')
                assert cache.sql(question).scalar() == count + 1
                with cache.engine.begin() as connection:
                    connection.exec_driver_sql(f'INSERT INTO "{name}" VALUES (1)')
                assert cache.sql(question).scalar() == count + 2
    other.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_bytes", "1"),
        ("max_bytes", True),
        ("store_bytes", None),
        ("half_life", float("nan")),
        ("ttl", True),
        ("poll_interval", 1e12),
        ("store", b"memory://"),
        ("catalogue", 5),
        ("clock", 5),
    ],
)
def test_settings_of_a_wrong_kind_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=name):
        everfresh.open("sqlite://", **{name: value})


@pytest.mark.parametrize("tables", [[5], [None], ["t", b"t"]])
def test_names_of_tables_of_a_wrong_kind_are_refused(tmp_path, tables):
    (tmp_path / "new.db").touch()
    with (
        everfresh.open(f"sqlite:///{tmp_path / 'new.db'}") as cache,
        pytest.raises(ConfigurationError, match="named by text"),
    ):
        cache.track(tables)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it has threads
def test_a_forked_child_has_connections_and_a_poller_of_its_own(url):
    rule = everfresh.bounded(0.05)
    with everfresh.open(url, freshness=rule, poll_interval=0.001) as cache:
        cache.sql(ONE)
        with cache.engine.connect() as connection:
            theirs = connection.connection.dbapi_connection
        child = os.fork()
        if child == 0:
            try:
                with cache.engine.connect() as connection:
                    apart = connection.connection.dbapi_connection is not theirs
                time.sleep(0.1)  # the bound is over: the reader looks, and finds no poller
                cache.sql(ONE)
                looks, until = cache.proof.looks, time.monotonic() + 10
                while cache.proof.looks < looks + 5 and time.monotonic() < until:
                    time.sleep(0.001)
                os._exit(0 if apart and cache.proof.looks >= looks + 5 else 3)
            finally:
                os._exit(4)
        assert os.waitpid(child, 0) == (child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it has threads
def test_a_forked_child_does_not_wait_for_its_parents_poller(tmp_path):
    path = tmp_path / "file.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (a)")
    settings = {"freshness": "strict", "store": f"sqlite:///{tmp_path / 'answers.db'}"}
    with everfresh.open(f"sqlite:///{path}", **settings) as cache:
        cache.track()
        assert cache.sql("SELECT count(*) FROM t").scalar() == 0
        watch, held = cache.feed.watch, threading.Event()

        def poll():
            with watch.bracket.mutex, watch._lock:
                held.set()
                time.sleep(0.2)

        poller = threading.Thread(target=poll)
        poller.start()
        assert held.wait(10)
        child = os.fork()
        if child == 0:
            try:
                answer = cache.sql("SELECT count(*) FROM t")
                again = cache.sql("SELECT count(*) FROM t").receipt.status
                kept = cache.fills.durable.flush()
                os._exit(0 if (answer.scalar(), again, kept) == (0, "hit", True) else 3)
            finally:
                os._exit(4)
        poller.join()
        until = time.monotonic() + 10
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
            time.sleep(0.01)
        if ended == (0, 0):
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert ended == (child, 0)
        assert cache.sql("SELECT count(*) FROM t").receipt.status == "hit"
    other.close()


def test_a_file_that_is_gone_is_not_made_by_tracking_it_and_receipts_say_so(tmp_path):
    path = tmp_path / "file.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    with everfresh.open(f"sqlite:///{path}", freshness="strict") as cache:
        cache.track()
        cache.sql("SELECT count(*) FROM t")
        for file in tmp_path.iterdir():
            file.unlink()
        assert "no such file" in cache.sql("SELECT count(*) FROM t").receipt.reason
        for call in (cache.track, cache.untrack, cache.tracking):
            with pytest.raises(ConfigurationError, match="there is no file"):
                call()
        assert not path.exists()


def test_where_no_thread_is_to_be_had_the_readers_do_it_all(tmp_path, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    path = tmp_path / "file.db"
    path.touch()
    monkeypatch.setattr(threading.Thread, "start", start)
    with everfresh.open(f"sqlite:///{path}", store=f"sqlite:///{tmp_path / 's.db'}") as cache:
        assert cache.sql("SELECT count(*) FROM sqlite_master").scalar() == 0
        cache.track()
        assert [cache.sql("SELECT 1").receipt.status for _ in range(2)] == ["fill", "hit"]
