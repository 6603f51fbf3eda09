"""Single-flight over threads and tasks, errors, voided fills, waiting without deadlock."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.engine.lineage import current
from everfresh.errors import NotKeptError, RecursiveFillError

from .conftest import JUNE, counted, write

COUNT = "SELECT count(*) FROM flights WHERE month = :m"


class Gate:
    """Holds a computation until it is opened, and tells when it was reached."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self):
        self.reached.set()
        assert self.opened.wait(10)


def in_threads(count, call):
    barrier = threading.Barrier(count)

    def run(n):
        barrier.wait()
        return call(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def slow_flights(cache, seconds=0.05):
    """Make every query of flights take a while, outside the database's lock."""

    def sleep(conn, cursor, statement, parameters, context, executemany):
        if "flights" in statement:
            threading.Event().wait(seconds)

    sa.event.listen(cache.engine, "before_cursor_execute", sleep)


def test_a_hundred_threads_at_one_cold_key_ask_once(cache):
    cache.sql("SELECT 1")
    slow_flights(cache)
    with counted(cache.engine) as seen:
        answers = in_threads(100, lambda n: cache.sql(JUNE, m=6))
    assert len(seen.selects()) == 1
    assert len({tuple(rows) for rows in answers}) == 1
    assert cache.stats().joined + cache.stats().hits == 99


def test_fifty_cold_keys_at_once_ask_fifty_times(cache):
    statement = "SELECT count(*) AS n FROM flights WHERE id > :n"
    slow_flights(cache, 0.005)
    with counted(cache.engine) as seen:
        answers = in_threads(100, lambda n: cache.sql(statement, n=n % 50).scalar())
    assert len(seen.selects()) == 50
    assert answers == [max(47 - n % 50, 0) for n in range(100)]


def test_a_thousand_tasks_at_one_cold_key_compute_once(cache):
    calls = []

    @cache.cached
    async def compute(n):
        calls.append(n)
        await asyncio.sleep(0.02)
        return n * 2

    async def main():
        return await asyncio.gather(*(compute(21) for _ in range(1000)))

    assert asyncio.run(main()) == [42] * 1000
    assert calls == [21]
    assert compute.receipt(21).status == "fill"


def test_fifty_keys_at_once_in_tasks(cache):
    calls = []

    @cache.cached
    async def compute(n):
        calls.append(n)
        await asyncio.sleep(0.01)
        return n

    async def main():
        return await asyncio.gather(*(compute(n % 50) for n in range(1000)))

    assert asyncio.run(main()) == [n % 50 for n in range(1000)]
    assert sorted(calls) == list(range(50))


def test_a_hit_on_another_key_is_not_delayed(cache):
    gate = Gate()

    @cache.cached
    def compute(n):
        if n:
            gate.wait()
        return n

    compute(0)
    thread = threading.Thread(target=compute, args=(1,))
    thread.start()
    assert gate.reached.wait(10)
    assert compute(0) == 0  # would hang here if hits waited for fills
    assert cache.sql(JUNE, m=6).receipt.status == "fill"
    gate.opened.set()
    thread.join()


def test_an_error_reaches_all_who_waited_and_is_not_kept(cache):
    gate, calls = Gate(), []

    @cache.cached
    def fail():
        calls.append(1)
        gate.wait()
        raise LookupError("no such thing")

    def call(_):
        with pytest.raises(LookupError, match="no such thing"):
            fail()

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(call, n) for n in range(5)]
        assert gate.reached.wait(10)
        while cache.board.stats().joined == 0 and len(calls) == 1:  # the others are on their way
            if all(f.running() for f in futures):
                break
        gate.opened.set()
        for future in futures:
            future.result()
    with pytest.raises(LookupError):
        fail()
    assert len(calls) >= 2
    with pytest.raises(NotKeptError):
        fail.receipt()


def test_an_error_is_kept_on_request(url):
    now, calls = [0.0], []
    with everfresh.open(url, clock=lambda: now[0]) as cache:

        @cache.cached(keep_errors=5)
        def fail():
            calls.append(1)
            raise LookupError("no")

        for _ in range(3):
            with pytest.raises(LookupError):
                fail()
        assert len(calls) == 1
        now[0] = 5.0
        with pytest.raises(LookupError):
            fail()
        assert len(calls) == 2


def test_nothing_found_is_kept_too(cache):
    calls = []

    @cache.cached
    def find(n):
        calls.append(n)
        return cache.sql("SELECT * FROM flights WHERE id = :n", n=n).first()

    assert find(999) is None
    assert find(999) is None
    assert calls == [999]
    write(cache, "INSERT INTO flights VALUES (999, 6, 'UA', 1)")
    assert find(999).id == 999


def test_a_fill_that_a_commit_overtakes_is_not_kept(cache):
    gate = Gate()

    @cache.cached(depends_on="flights")
    def count():
        with cache.engine.connect() as connection:
            n = connection.execute(sa.text("SELECT count(*) FROM flights")).scalar()
        if not gate.reached.is_set():
            gate.wait()
        return n

    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(count)
        assert gate.reached.wait(10)
        write(cache, "DELETE FROM flights WHERE id = 1")
        late = pool.submit(count)  # asked after the commit: must not share the early one
        assert late.result() == 47
        gate.opened.set()
        assert early.result() == 48  # it was waiting since before the change
    assert count() == 47
    assert cache.stats().voided == 1


def test_what_is_asked_while_a_commit_is_under_way_is_not_kept(cache):
    """Flux: between the start and the end of a commit the source answers."""
    seen = []
    cache.sql(JUNE, m=6)
    cache.sql(JUNE, m=5)

    class Spy:
        """Listens after the cache: at `begin` its entries are in flux."""

        def begin(self, changes):
            seen.append(cache.sql(JUNE, m=6).receipt)
            seen.append(cache.sql(JUNE, m=5).receipt)

        def end(self, token, *, committed, changes=None):
            pass

        def lost(self, reason):
            pass

    cache.feed.subscribe(Spy())
    with cache.engine.begin() as connection:
        connection.execute(sa.text("UPDATE flights SET arr_delay = 9 WHERE id = 5"))
    assert [receipt.status for receipt in seen] == ["bypass", "hit"]
    assert "in progress" in seen[0].reason
    assert cache.sql(JUNE, m=6)[0].delay == pytest.approx((9 + 8.5 + 14.5 + 20.5) / 4)


def test_a_computation_that_asks_for_itself_is_told(cache):
    @cache.cached
    def loop(n):
        return loop(n)

    with pytest.raises(RecursiveFillError, match="own result"):
        loop(1)

    @cache.cached
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(30) == 832040


def test_two_computations_that_need_each_other_do_not_deadlock(cache):
    barrier = threading.Barrier(2)
    first = threading.local()

    @cache.cached
    def left(depth):
        if depth == 0:
            return 1
        barrier.wait(10)
        return right(0 if getattr(first, "deep", False) else depth)

    @cache.cached
    def right(depth):
        if depth == 0:
            return 2
        if not getattr(first, "deep", False):
            first.deep = True
            barrier.wait(10)
            return left(depth)
        return 3

    def go_left():
        first.deep = True
        return left(1)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(go_left), pool.submit(right, 1)]
        results = [future.result(timeout=10) for future in futures]
    assert all(isinstance(result, int) for result in results)


def test_cross_waiting_is_found_before_it_hangs(cache):
    """A waits for B's key while B waits for A's: one of them computes on its own."""
    barrier = threading.Barrier(2)
    tries = []

    @cache.cached
    def a(n):
        tries.append("a")
        if len(tries) <= 2:
            barrier.wait(10)
            return ("a", b(n))
        return ("a", None)

    @cache.cached
    def b(n):
        tries.append("b")
        if len(tries) <= 2:
            barrier.wait(10)
            return ("b", a(n))
        return ("b", None)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(a, 1), pool.submit(b, 1)
        assert {one.result(timeout=10)[0], two.result(timeout=10)[0]} == {"a", "b"}


def test_an_owner_that_is_cancelled_hands_over(cache):
    calls = []

    @cache.cached
    async def compute():
        calls.append(1)
        await asyncio.sleep(0.05 if len(calls) > 1 else 30)
        return len(calls)

    async def main():
        owner = asyncio.create_task(compute())
        await asyncio.sleep(0.01)
        waiters = [asyncio.create_task(compute()) for _ in range(10)]
        await asyncio.sleep(0.01)
        owner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await owner
        return await asyncio.gather(*waiters)

    assert asyncio.run(main()) == [2] * 10
    assert len(calls) == 2


def test_a_waiter_that_is_cancelled_harms_nobody(cache):
    calls = []

    @cache.cached
    async def compute():
        calls.append(1)
        await asyncio.sleep(0.05)
        return "done"

    async def main():
        owner = asyncio.create_task(compute())
        await asyncio.sleep(0.01)
        first, second = asyncio.create_task(compute()), asyncio.create_task(compute())
        await asyncio.sleep(0.01)
        first.cancel()
        return await owner, await second, first

    owner, second, first = asyncio.run(main())
    assert (owner, second) == ("done", "done")
    assert first.cancelled()
    assert len(calls) == 1


def test_an_interrupted_owner_hands_over_to_a_thread(cache):
    gate, calls = Gate(), []

    @cache.cached
    def compute():
        calls.append(1)
        if len(calls) == 1:
            gate.wait()
            raise KeyboardInterrupt
        return "second"

    with ThreadPoolExecutor(2) as pool:
        owner = pool.submit(compute)
        assert gate.reached.wait(10)
        waiter = pool.submit(compute)
        gate.opened.set()
        with pytest.raises(KeyboardInterrupt):
            owner.result(timeout=10)
        assert waiter.result(timeout=10) == "second"


class Interruptions:
    """Raise KeyboardInterrupt at the n-th call or return in the fill protocol, as a signal would."""

    places = ("fills.py", "board.py", "ledger.py", "index.py", "local.py", "lineage.py")

    def __init__(self, at):
        self.left = at

    def __enter__(self):
        sys.setprofile(self.profile)

    def __exit__(self, *error):
        sys.setprofile(None)

    def profile(self, frame, event, arg):
        place = Path(frame.f_code.co_filename)
        plain = not frame.f_code.co_name.startswith("<")  # a generator cannot raise while it ends
        if event in ("call", "return") and plain and place.name in self.places:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("nested", [False, True])
def test_an_interrupt_at_any_step_leaves_nothing_that_hangs(url, nested):
    with everfresh.open(url) as cache:
        total = cache.cached(lambda month: cache.sql(COUNT, m=month).scalar())
        ask = total if nested else lambda month: cache.sql(COUNT, m=month).scalar()
        ask(1)
        interrupted = 0
        for at in range(1, 2000):
            cache.invalidate()
            try:
                with Interruptions(at):
                    ask(2)
                break
            except KeyboardInterrupt:
                interrupted += 1
            assert current() is None, at
            with ThreadPoolExecutor(1) as pool:
                before = pool.submit(ask, 2).result(timeout=10)
            write(cache, "INSERT INTO flights (month) VALUES (2)")
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(ask, 2).result(timeout=10) == before + 1, at
        assert interrupted > 40, interrupted
