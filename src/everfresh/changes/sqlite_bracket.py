"""Tell the commits of this process from those of others on a SQLite file.

A connection's ``data_version`` moves with the commits of every other connection. Around a commit
of ours on W the monitor M is asked: moved before, somebody else committed; moved after, while W's
own did not, the commit was ours. W is asked first before the commit and last after it, so that
whoever comes between is seen by one of the two.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Bracket", "Ticket", "idle"]

_PATIENCE = 0.05  # seconds that a commit, perhaps under the write lock, waits for another of ours
_MOMENT = 0.002  # seconds it waits for one that is over but not told of yet
_IDLE = "non-text filename"


@dataclass(slots=True, eq=False)
class Ticket:
    """Hold what was read before a commit."""

    raw: Any
    writer: int
    monitor: int


class Bracket:
    """Keep how far the monitor's moves are explained by commits of our own.

    ``ask`` returns the monitor's data_version; it is called under ``lock``. ``mutex`` is held
    over a commit that has the write lock already: nobody waits for it longer than a moment, as
    the holder may itself wait for a reader that is about to ask for it.
    """

    def __init__(self, lock: threading.RLock, ask: Callable[[], int]) -> None:
        self.mutex = threading.Lock()
        self.explained = 0
        self._changed = threading.Condition(lock)
        self._lock = lock
        self._ask = ask
        self._alone = 0  # statements under way that commit by themselves

    def renew(self) -> None:
        """Forget, in a forked child, what other threads of its parent had begun."""
        self.mutex, self._alone = threading.Lock(), 0

    @contextlib.contextmanager
    def committing(self, raw: Any) -> Iterator[None]:
        """Bracket a COMMIT; where that fails the commit counts as somebody else's."""
        mutex = self.mutex
        mine = mutex.acquire(timeout=_PATIENCE)
        try:
            ticket = self._before(raw) if mine else None
            yield
            self._after(ticket)
        finally:
            if mine:
                mutex.release()

    def start(self, raw: Any) -> Ticket | None:
        """Begin to bracket a statement that commits by itself; it may have to wait for its lock."""
        ticket = self._before(raw)
        with self._lock:
            self._alone += 1
        return ticket

    def end(self, ticket: Ticket | None, *, committed: bool = True) -> None:
        """End what `start` began."""
        if committed:
            self._after(ticket)
        with self._changed:
            self._alone -= 1
            self._changed.notify_all()

    def finish(self, ticket: Ticket | None) -> None:
        """Bracket the late end of a statement that `end` was told had not committed."""
        self._after(ticket)

    def settle(self, seconds: float) -> None:
        """Wait for statements that are over but not told of; the caller holds the lock."""
        if self._alone and self._ask() != self.explained:
            self._changed.wait_for(lambda: not self._alone, seconds)

    def _before(self, raw: Any) -> Ticket | None:
        with contextlib.suppress(Exception):  # locked, or another thread's: not explained
            writer = _data_version(raw)
            with self._lock:
                if self._alone and self._ask() != self.explained:
                    self._changed.wait(_MOMENT)
                monitor = self._ask()
                return Ticket(raw, writer, monitor) if monitor == self.explained else None
        return None

    def _after(self, ticket: Ticket | None) -> None:
        if ticket is None:
            return
        with contextlib.suppress(Exception):
            with self._lock:
                monitor = self._ask()
            if monitor == ticket.monitor:
                return
            # not under the lock: W may wait for somebody else's
            ours = idle(ticket.raw) and _data_version(ticket.raw) == ticket.writer
            with self._lock:
                if ours and self.explained == ticket.monitor:
                    self.explained = monitor


def _data_version(raw: Any) -> int:
    cursor = raw.cursor()
    try:
        if hasattr(cursor, "row_factory"):
            cursor.row_factory = None
        cursor.execute("PRAGMA main.data_version")
        return int(cursor.fetchall()[0][0])
    finally:
        cursor.close()


def idle(raw: Any) -> bool:
    """Whether no statement is open on the connection: it would freeze its data_version.

    VACUUM looks for open transactions and statements before it looks at the name of its file.
    """
    cursor = raw.cursor()
    try:
        cursor.execute("VACUUM main INTO NULL")
    except Exception as error:
        return _IDLE in str(error)
    finally:
        cursor.close()
    return False
