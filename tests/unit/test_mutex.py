"""A lock over awaits: greenlets of one event loop, and threads, take turns."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.util import await_only, greenlet_spawn

from everfresh.leases.mutex import Mutex


def run(story):
    return asyncio.run(asyncio.wait_for(story, 10))


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def test_greenlets_of_one_loop_take_turns_over_an_await():
    mutex, seen = Mutex(), []

    def hold(n):
        with mutex:
            seen.append(("in", n))
            await_only(asyncio.sleep(0))
            seen.append(("out", n))

    async def main():
        await asyncio.gather(*(greenlet_spawn(hold, n) for n in range(5)))

    run(main())
    assert seen == [(how, n) for n in range(5) for how in ("in", "out")]


def test_threads_and_greenlets_exclude_each_other():
    mutex, inside, most = Mutex(), [], []

    def hold(wait):
        with mutex:
            inside.append(1)
            most.append(len(inside))
            wait()
            inside.pop()

    async def main():
        threads = [asyncio.to_thread(hold, threading.Event().is_set) for _ in range(20)]
        greenlets = [greenlet_spawn(hold, lambda: await_only(asyncio.sleep(0))) for _ in range(20)]
        await asyncio.gather(*threads, *greenlets)

    run(main())
    assert most == [1] * 40


def test_a_waiter_that_is_cancelled_hands_its_turn_on():
    mutex, seen = Mutex(), []

    def hold(n):
        with mutex:
            seen.append(n)

    async def main():
        mutex.__enter__()
        tasks = [asyncio.create_task(greenlet_spawn(hold, n)) for n in range(3)]
        await turns()
        tasks[0].cancel()  # while it waits
        await turns()
        mutex.__exit__()
        tasks[1].cancel()  # it was given the turn, and has not run since
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    assert seen == [2]
    with ThreadPoolExecutor(1) as pool:  # nobody holds it for ever
        pool.submit(hold, 7).result(5)
    assert seen == [2, 7]


def test_an_error_inside_lets_go():
    mutex = Mutex()

    def fail():
        with mutex:
            raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            fail()
