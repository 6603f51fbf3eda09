"""Hearts of leases, without a server."""

import os
import signal
import time

import pytest

from everfresh.leases.postgres import PostgresLeases
from everfresh.leases.redis import _Ears
from everfresh.leases.shared import Hearts, Held


@pytest.mark.parametrize("locked", [False, True])
def test_a_child_keeps_nothing_alive_that_its_parent_holds(locked: bool) -> None:
    read, write = os.pipe()
    hearts = Hearts(lambda held: bool(os.write(write, held.key.encode())), 0.1)
    hearts._held.add(Held("parent", 1))
    if locked:
        hearts._lock.acquire()
    child = os.fork()
    if child == 0:
        try:
            hearts.add(Held("child", 2))
            time.sleep(0.35)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 5.0
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child waits for a lock of its parent")
        time.sleep(0.02)
    os.close(write)
    heard = os.read(read, 1000)
    os.close(read)
    assert heard
    assert b"parent" not in heard


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_child_waits_for_no_thread_of_its_parent(kind: str) -> None:
    leases = PostgresLeases("host=127.0.0.1 port=1", "name")
    ears = _Ears(None, "channel")
    leases._lock.acquire()
    ears._lock.acquire()
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # whoever waits for ever is ended by it
        try:
            if kind == "postgres":
                assert leases.acquire("key") is None
            else:
                ears.wait("key", 0.1, lambda: True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
