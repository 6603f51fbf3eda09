"""Find out how commits ended whose answer was lost with the connection."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from everfresh.changes.publisher import Flux

__all__ = ["Resolver", "Unresolved"]

_LOG = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 5.0  # seconds


@dataclass(slots=True, eq=False)
class Unresolved:
    """Hold a commit whose outcome is open: by its backend, or by its two-phase id."""

    flux: Flux
    pid: int | None = None
    gid: str | None = None
    asked: str | None = None  # the server's clock when we asked first

    def question(self) -> str:
        """Return a statement whose one row is (server's clock, whether it is under way still)."""
        if self.gid is not None:
            gid = self.gid.replace("'", "''")
            return (
                "SELECT clock_timestamp()::text,"
                f" EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = '{gid}')"
            )
        # A backend that started after we asked first has only taken over the number.
        since = f" AND (backend_start IS NULL OR backend_start <= '{self.asked}')"
        return (
            "SELECT clock_timestamp()::text, EXISTS (SELECT FROM pg_stat_activity"
            f" WHERE pid = {self.pid}{since if self.asked else ''})"
        )


class Resolver:
    """Ask the server, from a thread and on connections of its own, until every outcome is known."""

    def __init__(self, engine: Engine, settle: Callable[[Unresolved], None]) -> None:
        self._engine = engine
        self._settle = settle
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._open: list[Unresolved] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, item: Unresolved) -> None:
        """Find out about one more commit; its flux stays until then."""
        with self._lock:
            self._open.append(item)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._work, name="everfresh-outcomes", daemon=True
                )
                self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Stop asking."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=_LONGEST_WAIT)

    def _work(self) -> None:
        wait = _FIRST_WAIT
        while True:
            with self._lock:
                waiting = list(self._open)
                if self._closed or not waiting:
                    self._thread = None
                    return
            settled = self._ask(waiting)
            with self._lock:
                self._open = [item for item in self._open if item not in settled]
            for item in settled:
                self._settle(item)
            wait = _FIRST_WAIT if settled else min(wait * 2, _LONGEST_WAIT)
            self._wake.clear()
            if not settled and not self._closed:
                self._wake.wait(wait)

    def _ask(self, waiting: list[Unresolved]) -> list[Unresolved]:
        try:
            if self._engine.dialect.is_async:
                return asyncio.run(greenlet_spawn(self._answers, waiting))
            return self._answers(waiting)
        except Exception as error:
            _LOG.info("the outcome of %d commits is still unknown: %s", len(waiting), error)
            return []

    def _answers(self, waiting: list[Unresolved]) -> list[Unresolved]:
        # A pool of the engine's own may be exhausted, or bound to another event loop.
        pool = NullPool(self._engine.pool._creator, dialect=self._engine.dialect)  # noqa: SLF001
        connection: Any = pool.connect()
        try:
            return [item for item in waiting if not self._under_way(connection, item)]
        finally:
            connection.close()

    def _under_way(self, connection: Any, item: Unresolved) -> bool:
        cursor = connection.cursor()
        try:
            cursor.execute(item.question())
            clock, under_way = cursor.fetchone()
        finally:
            cursor.close()
        item.asked = item.asked or str(clock)
        return bool(under_way)
