"""Reads inside a transaction of the caller's: when a kept answer may stand in for the query.

A hit takes no snapshot. In a transaction that keeps one, an answer from outside it could show what
the transaction itself cannot see, or hide from the database that it read at all. So a kept answer
is given only where the query itself would provably return the same; the source is the database's
own definition of its isolation levels (PROTOCOL: "Transactions that read").
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from everfresh.changes.session import SessionFeed
from everfresh.connect.describe import session_unheard
from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Entry
from everfresh.kernel.ports import Clock

__all__ = ["Transactions"]


class _Snapshot:
    """Hold where the feed was when a transaction began, and whether its snapshot is taken.

    One is made for every transaction: a dataclass would take twice as long.
    """

    __slots__ = ("at", "position", "taken")

    def __init__(self, position: int, at: float) -> None:
        self.position, self.at, self.taken = position, at, False


class Transactions:
    """Judge whether a transaction may be answered from what is kept."""

    def __init__(self, engine: Engine, feed: SessionFeed, clock: Clock) -> None:
        self.engine = engine
        self.feed = feed
        self._clock = clock
        self._seen_usual = False
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._begun: dict[int, _Snapshot] = {}  # by the identity of the DBAPI connection
        feed.on_begin(self._on_begin, self._on_close)

    def connection_of(self, connection: Any) -> Connection:
        """Return the Connection of a Session or a Connection of this engine."""
        if not isinstance(connection, Connection) and callable(
            getattr(connection, "connection", None)
        ):
            session = connection
            if session.autoflush and (session.new or session.dirty or session.deleted):
                session.flush()  # as the query itself would have done
            connection = session.connection()
        if not isinstance(connection, Connection):
            raise ConfigurationError(
                f"connection= takes a SQLAlchemy Connection or Session, "
                f"not {type(connection).__name__}"
            )
        if connection.engine.pool is not self.engine.pool:
            raise ConfigurationError(
                "this connection belongs to another engine than the cache's: take it from "
                "cache.engine, or open the cache with everfresh.open(engine)"
            )
        return connection

    def objection(self, connection: Connection) -> str | None:
        """Return why nothing kept may answer on this connection now, None if something may.

        For a transaction that reads from one snapshot, takes that snapshot first.
        """
        raw: Any = connection.connection.dbapi_connection
        if self.feed.uncommitted(raw):
            return "its transaction has written"
        if self._is_sqlite:
            reason = self._sqlite_objection(connection, raw)
        else:
            reason = self._postgres_objection(connection, raw)
        own = "isolation_level" in connection.get_execution_options()
        if reason is None and not (self._seen_usual or own):
            self._seen_usual = self.free(raw)
        return reason

    def free(self, raw: Any) -> bool:
        """Whether what is fresh may answer on this DBAPI connection now, as far as is known.

        It costs no statement: False says only that `objection` has to be asked.
        """
        opened = self.feed.open_transaction(raw)
        if opened is None:
            return False
        # without BEGIN every SELECT on SQLite sees what is committed
        return not opened if self._is_sqlite else self.feed.settled(raw) == _options(raw)

    def free_on(self, connection: Connection) -> bool:
        """Do the same for a Connection, which must be of this engine."""
        if connection.dialect is not self.engine.dialect:
            return False
        raw = connection.connection.dbapi_connection
        return self.free(raw)

    def usual(self, bind: object) -> bool:
        """Whether a transaction that began now would be `free`: no connection has been chosen yet.

        Known once one was seen to be, as long as no statement changed the settings of any session.
        """
        return self._seen_usual and bind is self.engine and not self.feed.sessions_differ

    def overtaken(self, connection: Connection) -> bool:
        """Whether something was committed since the open transaction took its snapshot."""
        snapshot = self._snapshot(connection)
        return snapshot is None or self.feed.mark().position != snapshot.position

    def answers(self, connection: Connection, entry: Entry) -> bool:
        """Whether an entry that is fresh now was so, with the same value, at the snapshot too.

        What others have committed since is not in it if it was filled before; what they committed
        until then must have been heard after the snapshot was taken.
        """
        snapshot = self._snapshot(connection) if connection.in_transaction() else None
        if snapshot is None or not snapshot.taken:
            return True
        if entry.mark is None or entry.mark.position > snapshot.position:
            return False
        return self.feed.watch is None or entry.filled_at <= snapshot.at

    def keeps_snapshot(self, connection: Connection) -> bool:
        """Whether the open transaction reads from one snapshot that it has taken."""
        snapshot = self._snapshot(connection) if connection.in_transaction() else None
        return snapshot is not None and snapshot.taken

    def _sqlite_objection(self, connection: Connection, raw: Any) -> str | None:
        probe = "SELECT 1 FROM sqlite_master LIMIT 1"
        if not connection.in_transaction():
            connection.execute(text(probe))  # as the query would: it begins the transaction
        # without BEGIN, as the driver does by default, every SELECT sees what is committed
        driver = getattr(raw, "driver_connection", None) or raw  # aiosqlite's adapter does not tell
        return self._take_snapshot(connection, probe) if driver.in_transaction else None

    def _postgres_objection(self, connection: Connection, raw: Any) -> str | None:
        if self.free(raw):
            return None
        level = connection.get_isolation_level()
        if level == "SERIALIZABLE":
            return "a SERIALIZABLE transaction must read from the database itself"
        if level == "AUTOCOMMIT" or getattr(raw, "autocommit", False):  # asyncpg tells only so
            return "it runs on a connection in autocommit mode, which may be in any state"
        if level == "REPEATABLE READ":
            reason = self._take_snapshot(connection, "SELECT 1")
            if reason is not None:
                return reason
        mine = self.feed.unheard(lambda: session_unheard(connection))
        if self.feed.session is not None and mine != self.feed.session:
            return "its session has other settings than the cache's answers were made with"
        if level == "READ COMMITTED" and self.feed.session is not None:
            self.feed.settle(raw, _options(raw))
        return None

    def _take_snapshot(self, connection: Connection, statement: str) -> str | None:
        if not connection.in_transaction():
            connection.execute(text(statement))
        snapshot = self._snapshot(connection)
        if snapshot is None:
            return "its transaction began before the cache could see it"
        if not snapshot.taken:
            connection.execute(text(statement))
            snapshot.taken = True
        return None

    def _snapshot(self, connection: Connection) -> _Snapshot | None:
        return self._begun.get(id(connection.connection.dbapi_connection))

    def _on_begin(self, raw: object) -> None:
        self._begun[id(raw)] = _Snapshot(self.feed.mark().position, self._clock())

    def _on_close(self, raw: object) -> None:
        self._begun.pop(id(raw), None)


def _options(raw: Any) -> tuple[object, object]:
    """Return what a driver was told of how its next transaction begins."""
    return getattr(raw, "isolation_level", None), getattr(raw, "autocommit", None)
