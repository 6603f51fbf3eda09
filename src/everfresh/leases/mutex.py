"""A lock that may be held while a coroutine driver is awaited, by threads and greenlets alike.

SQLAlchemy runs blocking code over asyncio drivers in greenlets of the event loop's own thread. If
one of them awaited under a `threading.Lock` and another asked for that lock, the thread would wait
for itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from threading import Lock

from sqlalchemy.util import await_only

__all__ = ["Mutex"]


class Mutex:
    """Be held by one at a time, in the order of asking; a context manager.

    >>> with Mutex() as held:
    ...     print(held)
    True
    """

    def __init__(self) -> None:
        self._guard = Lock()  # never held over a wait
        self._held = False
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> bool:
        with self._guard:
            if not self._held:
                self._held = True
                return True
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            _wait(turn)
        except BaseException:
            if not turn.cancel():  # it was this one's turn already
                self._pass_on()
            raise
        return True

    def __exit__(self, *error: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        with self._guard:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    break
            else:
                self._held = False
                return
        turn.set_result(None)


def _wait(turn: Future[None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        turn.result()
    else:
        # shield: it is `turn` itself that says whether a cancelled one had got its turn
        await_only(asyncio.shield(asyncio.wrap_future(turn)))
