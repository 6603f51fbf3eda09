"""A few connections to one PostgreSQL, for threads that each need one for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock

from everfresh.connect.breaker import Breaker
from everfresh.connect.wire import Wire
from everfresh.errors import ConnectionFailedError

__all__ = ["SCHEMA", "Wires"]

SCHEMA = "everfresh_store"
"""Where stores and leases keep their tables; changes of it are none of the data's."""

_KEPT = 4  # idle connections
_MAKING = 0x45465354  # the advisory lock under which tables and functions are made


class Wires:
    """Lend connections; whoever had trouble with one gives back none.

    ``made`` are statements that make what is used, run once before anything else. A server that
    failed is left alone for a moment: then `ConnectionFailedError` is raised at once.
    """

    def __init__(self, parameters: str, timeout: float, made: Sequence[str]) -> None:
        self.breaker = Breaker()
        self._parameters, self._timeout, self._made = parameters, timeout, made
        self._idle: list[Wire] = []
        self._ready = False
        self._making = Lock()
        self._process = os.getpid()

    @contextmanager
    def lend(self, timeout: float | None = None) -> Iterator[Wire]:
        """Yield a connection, whose answers may take ``timeout`` seconds, None for the usual."""
        if not self.breaker.closed:
            raise ConnectionFailedError(f"PostgreSQL is left alone: {self.breaker.reason}")
        wire: Wire | None = None
        try:
            wire = self._take()
            wire.timeout = self._timeout if timeout is None else timeout
            yield wire
        except ConnectionFailedError as error:
            if wire is None or wire.closed:
                self.breaker.failed(str(error))
            else:
                self._ready = False  # perhaps somebody dropped what we use: it is made again
                wire.close()
            raise
        except BaseException:
            if wire is not None:
                wire.close()
            raise
        self.breaker.worked()
        self._idle.append(wire)
        if len(self._idle) > _KEPT:
            self._idle.pop(0).close()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Wire:
        if self._process != os.getpid():  # a parent's connections are not for its child
            for wire in self._idle:
                wire.leave()
            self._idle, self._process = [], os.getpid()
            self._making = Lock()
        with suppress(IndexError):  # other threads take them, too
            while True:
                wire = self._idle.pop()
                if not wire.closed:
                    return wire
        wire = Wire(self._parameters, timeout=self._timeout, settings="SET TimeZone = 'UTC'")
        try:
            self._make(wire)
        except BaseException:
            wire.close()
            raise
        return wire

    def _make(self, wire: Wire) -> None:
        with self._making:
            if not self._ready:
                lock = f"SELECT pg_advisory_xact_lock({_MAKING})"
                schema = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
                wire.rows("; ".join(("BEGIN", lock, schema, *self._made, "COMMIT")))
                self._ready = True
