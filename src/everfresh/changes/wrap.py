"""Put functions of ours around those a dialect calls the driver with, and take them off again.

They are attributes of the one dialect object that an engine, and all engines made from it by
``execution_options``, share. The driver's own functions stay reachable through the class.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy.engine import Dialect

from everfresh.changes.psycopg_raw import watch
from everfresh.errors import ConfigurationError

__all__ = ["Answering", "Call", "Watcher", "Wrapping"]

T = TypeVar("T")

Answering = Callable[[Callable[[], None], Any, str, Any, Any], None]
"""Run a query, or answer it otherwise: (run, cursor, text, parameters, execution context)."""


@dataclass(frozen=True, slots=True)
class Call:
    """Hold one call of a cursor: ``many`` is set for executemany."""

    cursor: Any
    text: str
    raw: Any
    many: bool


class Watcher(Protocol):
    """Be called around the driver's functions; must call ``run`` once, or again to retry."""

    def harmless(self, text: str) -> bool:
        """Whether a text is known to change nothing."""

    def reads(self, text: str) -> bool:
        """Whether a text is a query that changes nothing."""

    def execute(self, run: Callable[[], None], call: Call) -> None:
        """Run a statement."""

    def copying(self, call: Call) -> AbstractContextManager[None]:
        """Return a context to run psycopg's COPY in."""

    def handed_out(self, raw: Any) -> None:
        """Note that somebody takes the driver's own connection, which is not watched."""

    def began(self, raw: Any) -> None:
        """Note that a SQLAlchemy Connection begins to use a DBAPI connection."""

    def commit(self, run: Callable[[], None], raw: Any) -> None:
        """Run the driver's commit."""

    def rollback(self, run: Callable[[], None], raw: Any) -> None:
        """Run the driver's rollback."""

    def only_read(self, raw: Any) -> bool:
        """Whether the end of this connection's transaction has nothing to tell anybody."""

    def prepare(self, run: Callable[[], None], raw: Any, gid: str) -> None:
        """Run the first phase of a two-phase commit."""

    def finish(self, run: Callable[[], None], raw: Any, gid: str, *, committed: bool) -> None:
        """Run the second phase of a two-phase commit."""


class Wrapping:
    """Watch one dialect object until `undo`; raises `ConfigurationError` if it is watched."""

    def __init__(self, dialect: Dialect, watcher: Watcher) -> None:
        if hasattr(dialect, "_everfresh"):
            raise ConfigurationError(
                "this engine is watched by another cache: close that one first, or use its own"
            )
        self._dialect: Any = dialect
        self._watcher: Watcher | None = watcher
        self.answering: Answering | None = None
        # Inside one of our functions the dialect calls others of itself: those pass through.
        self._inside: ContextVar[bool] = ContextVar("everfresh_inside", default=False)
        self._before: dict[str, Any] = {}
        self._mine: dict[str, Any] = {}
        dialect.__dict__["_everfresh"] = self
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            self._put(name, self._executing(getattr(dialect, name), name == "do_executemany"))
        self._put("do_begin", self._beginning(dialect.do_begin))
        self._put("do_begin_twophase", self._beginning(dialect.do_begin_twophase))
        for name in ("commit", "rollback"):
            self._put(f"do_{name}", self._ending(getattr(dialect, f"do_{name}"), name))
        self._put("do_prepare_twophase", self._preparing(dialect.do_prepare_twophase))
        if dialect.is_async and dialect.name == "postgresql":  # SQLite itself tells of it
            self._put("get_driver_connection", self._handing_out(dialect.get_driver_connection))
            self._put("initialize", self._initializing(dialect.initialize))
        for name, committed in (("commit", True), ("rollback", False)):
            function = getattr(dialect, f"do_{name}_twophase")
            self._put(f"do_{name}_twophase", self._finishing(function, committed))

    def watch_driver(self, raw: Any) -> None:
        """Watch what is done with a psycopg connection directly."""
        watch(raw, self)

    def passes(self, text: str) -> bool:
        """Whether the driver is to run this text without further ado."""
        watcher = self._watcher
        return watcher is None or watcher.harmless(text) or self._inside.get()

    def driver_execute(
        self, run: Callable[[], None], cursor: Any, text: str, raw: Any, *, many: bool
    ) -> None:
        """Run a statement somebody gave to the driver."""
        if (watcher := self._watcher) is not None:
            self._guarded(lambda: watcher.execute(run, Call(cursor, text, raw, many)))

    def driver_copy(self, cursor: Any, text: str, raw: Any) -> AbstractContextManager[None]:
        """Return a context for a COPY somebody gave to the driver."""
        watcher = self._watcher
        return nullcontext() if watcher is None else watcher.copying(Call(cursor, text, raw, False))

    def driver_end(self, run: Callable[[], None], raw: Any, how: str) -> None:
        """Run the driver's commit or rollback that somebody called."""
        watcher = self._watcher
        if watcher is None or self._inside.get() or (how == "rollback" and watcher.only_read(raw)):
            run()
        else:
            end = watcher.commit if how == "commit" else watcher.rollback
            self._guarded(lambda: end(run, raw))

    def undo(self) -> None:
        """Give the dialect its functions back; where others wrapped ours, ours stay and sleep."""
        self._watcher = self.answering = None
        for name, mine in self._mine.items():
            if self._dialect.__dict__.get(name) is not mine:
                continue
            if name in self._before:
                self._dialect.__dict__[name] = self._before[name]
            else:
                del self._dialect.__dict__[name]
        del self._dialect.__dict__["_everfresh"]

    def _put(self, name: str, function: Any) -> None:
        if name in self._dialect.__dict__:
            self._before[name] = self._dialect.__dict__[name]
        self._mine[name] = function
        self._dialect.__dict__[name] = function

    def inside(self, run: Callable[[], T]) -> T:
        """Run a function as if the dialect itself had called it: nothing of it is watched."""
        token = self._inside.set(True)
        try:
            return run()
        finally:
            self._inside.reset(token)

    def _guarded(self, call: Callable[[], None]) -> None:
        token = self._inside.set(True)
        try:
            call()
        finally:
            self._inside.reset(token)

    def _executing(self, original: Any, many: bool) -> Any:
        inside = self._inside

        def do_execute(cursor: Any, statement: str, *rest: Any, **named: Any) -> None:
            watcher = self._watcher
            answering = self.answering
            if answering is not None and watcher is not None and len(rest) == 2 and not many:
                compiled = getattr(rest[1], "compiled", None)
                if compiled is not None and watcher.reads(statement) and not inside.get():
                    answering(lambda: original(cursor, statement, *rest), cursor, statement, *rest)
                    return
            if watcher is None or watcher.harmless(statement) or inside.get():
                original(cursor, statement, *rest, **named)
                return
            context = named.get("context") or (rest[-1] if rest else None)
            call = Call(cursor, statement, _raw_of(cursor, context), many)
            self._guarded(
                lambda: watcher.execute(lambda: original(cursor, statement, *rest, **named), call)
            )

        return do_execute

    def _handing_out(self, original: Any) -> Any:
        def get_driver_connection(raw: Any) -> Any:
            if self._watcher is not None and raw is not None and not self._inside.get():
                self._watcher.handed_out(raw)
            return original(raw)

        return get_driver_connection

    def _initializing(self, original: Any) -> Any:
        def initialize(connection: Any) -> None:
            self._guarded(lambda: original(connection))  # it takes the driver's own connection too

        return initialize

    def _beginning(self, original: Any) -> Any:
        def do_begin(fairy: Any, *xid: Any) -> None:
            original(fairy, *xid)
            if self._watcher is not None:
                proxy = fairy.connection if xid else fairy  # two phases come with a Connection
                self._watcher.began(getattr(proxy, "dbapi_connection", None))

        return do_begin

    def _ending(self, original: Any, how: str) -> Any:
        def do_end(fairy: Any) -> None:
            watcher = self._watcher
            raw = getattr(fairy, "dbapi_connection", None)
            if watcher is None or raw is None or self._inside.get():
                original(fairy)
                return
            if how == "rollback" and watcher.only_read(raw):  # as most sessions have
                original(fairy)
                return
            end = watcher.commit if how == "commit" else watcher.rollback
            self._guarded(lambda: end(lambda: original(fairy), raw))

        return do_end

    def _preparing(self, original: Any) -> Any:
        def do_prepare_twophase(connection: Any, xid: Any) -> None:
            watcher = self._watcher
            if watcher is None or self._inside.get():
                original(connection, xid)
                return
            raw = connection.connection.dbapi_connection
            self._guarded(
                lambda: watcher.prepare(lambda: original(connection, xid), raw, _gid(xid))
            )

        return do_prepare_twophase

    def _finishing(self, original: Any, committed: bool) -> Any:
        def do_finish_twophase(
            connection: Any, xid: Any, is_prepared: bool = True, recover: bool = False
        ) -> None:
            def run() -> None:
                original(connection, xid, is_prepared, recover)

            watcher = self._watcher
            if watcher is None or self._inside.get():
                run()
                return
            raw = connection.connection.dbapi_connection
            if is_prepared:
                self._guarded(lambda: watcher.finish(run, raw, _gid(xid), committed=committed))
            else:
                end = watcher.commit if committed else watcher.rollback
                self._guarded(lambda: end(run, raw))

        return do_finish_twophase


def _raw_of(cursor: Any, context: Any) -> Any:
    """Return the DBAPI connection a statement runs on."""
    if context is not None and hasattr(context, "root_connection"):
        return context.root_connection.connection.dbapi_connection
    return cursor.connection


def _gid(xid: Any) -> str:
    """Return the id as pg_prepared_xacts shows it; psycopg encodes ids of three parts."""
    encode = getattr(xid, "_as_tid", None)
    return str(encode() if encode is not None else xid)
