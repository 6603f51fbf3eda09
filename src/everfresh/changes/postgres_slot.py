"""Hear commits through a replication slot: a thread that decodes, and who waits for it.

There are no triggers, and writers pay next to nothing. What is decoded comes in the order of
commits in the log, which is not the order in which they become visible: so transactions are
compared with snapshots by their ids, as everywhere.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from threading import Condition, Event, Thread, current_thread

from everfresh.changes.pgoutput import Decoder, Transaction, widened
from everfresh.changes.postgres_tables import Tracked
from everfresh.connect.replication import Stream
from everfresh.errors import ConnectionFailedError
from everfresh.kernel.change import Change

__all__ = ["PUBLICATION", "Slot"]

PUBLICATION = "everfresh"
# Seconds for the decoder; then the database is asked instead. What others have written and not
# committed is in the log, too, and the log's writer may take three of its rounds to flush it.
_WAIT = 2.0
_ROWS = 100_000  # decoded rows that wait to be taken; beyond, everything is unproven


class Slot:
    """Hold a stream and what it has brought; ``woken`` is set when a transaction has come."""

    def __init__(self, parameters: str) -> None:
        self._read, self._wake = os.pipe()  # a line is for one thread: who waits wakes it
        os.set_blocking(self._read, False)
        self.woken = Event()
        self._stream = Stream(parameters, PUBLICATION)
        self._decoder = Decoder()
        self._changed = Condition()
        self._ended: list[Transaction] = []
        self._waiting_rows = self._reached = 0
        self._trouble: str | None = None
        self._thread = Thread(
            target=_decode, args=(weakref.ref(self),), name="everfresh-slot", daemon=True
        )
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether it has missed something: then everything is unproven, and another is made."""
        return self._trouble is not None

    def take(
        self, until: int, tables: Mapping[int, Tracked], history: str, near: int, limit: int
    ) -> list[Change] | None:
        """Return the changes of all transactions that were committed before a position in the log.

        ``near`` is any transaction of about now. None where a table is not known. Raises
        `ConnectionFailedError` when the decoder does not get there in time, or is lost.
        """
        if not self.reaches(until, _WAIT):
            raise ConnectionFailedError(f"the decoder is behind by over {_WAIT:g} s")
        with self._changed:
            if self._trouble is not None:
                raise ConnectionFailedError(f"the replication slot was lost: {self._trouble}")
            ended, self._ended, self._waiting_rows = self._ended, [], 0
        told: list[Change] = []
        for transaction in ended:
            xid = widened(transaction.xid, near)
            found = self._decoder.changes(transaction, tables, history, xid, limit)
            if found is None:
                return None
            told += found
        return told

    def reaches(self, until: int, seconds: float) -> bool:
        """Wait for the decoder to get to a position; return whether it did in time, or is lost."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._trouble is None and self._reached < until:
                os.write(self._wake, b"?")
                if not self._changed.wait(max(deadline - time.monotonic(), 0.0)):
                    return False
        return True

    def step(self) -> bool:
        """Read what has come; return whether to go on."""
        try:
            messages = self._stream.read(1.0, self._read)
            if self._asked():
                self._stream.tell(ask=True)
            ended = [each for each in map(self._decoder.feed, messages) if each is not None]
        except Exception as error:  # a lost line, or bytes that nobody understands
            self._fail(str(error))
            return False
        with self._changed:
            self._ended += [each for each in ended if each.rows]
            self._reached = self._stream.received  # with what it brought, or some would be missed
            self._waiting_rows += sum(len(rows) for each in ended for rows in each.rows.values())
            if self._waiting_rows > _ROWS:
                self._ended.clear()
                self._trouble = "more was written than is kept for a look"
            self._changed.notify_all()
        if ended:
            self.woken.set()
        return self._trouble is None

    def _asked(self) -> bool:
        """Whether somebody waits to know how far it has come."""
        try:
            return bool(os.read(self._read, 1000))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """End the stream; the server drops the slot."""
        self._fail("it was closed")
        os.write(self._wake, b"?")
        if self._thread is not current_thread():
            self._thread.join(5.0)

    def __del__(self) -> None:
        for each in (self._read, self._wake):
            with suppress(OSError):
                os.close(each)

    def end(self) -> None:
        """Let go of the line, in the thread that reads it."""
        self._stream.close()

    def _fail(self, reason: str) -> None:
        with self._changed:
            self._trouble = self._trouble or reason
            self._changed.notify_all()
        self.woken.set()


def _decode(reference: weakref.ref[Slot]) -> None:
    while (slot := reference()) is not None and slot.step():
        del slot
    if slot is not None:
        slot.end()
