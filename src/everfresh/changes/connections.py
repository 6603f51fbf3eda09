"""The connections of one engine, each with what it has written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine

from everfresh.changes.pending import Pending
from everfresh.changes.postgres_pending import PostgresPending, SharedSchema
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.psycopg_raw import unwatch
from everfresh.changes.sqlite_pending import SqlitePending
from everfresh.changes.watching import Watch

__all__ = ["Connections"]


class Connections:
    """Map DBAPI connections to what they have written; they cannot be referred to weakly."""

    def __init__(
        self, engine: Engine, shared: SharedSchema, row_limit: int, watch: Watch | None
    ) -> None:
        self._engine = engine
        self._shared = shared
        self._row_limit = row_limit
        self._others = watch if isinstance(watch, PostgresWatch) else None
        self._by_id: dict[int, Pending] = {}
        self.watch: Callable[[Any], None] = lambda raw: None

    def get(self, raw: object) -> Pending | None:
        """Return what is known of this connection, None if it is a stranger."""
        return self._by_id.get(id(raw))

    def adopt(self, raw: Any, *, known: bool = False, suspicious: bool = False) -> Pending:
        """Return what is known of this connection, and follow it from now on.

        One that was checked out before the feed was there may have written already, unless it
        is ``known`` to be fresh from the pool; where it has no open transaction but is about to
        commit it is ``suspicious`` all the same.
        """
        pending = self._by_id.get(id(raw))
        if pending is None:
            pending = self._make(raw)
            if not known and (suspicious or pending.in_transaction()):
                pending.suspect()
            self._by_id[id(raw)] = pending
            self.watch(raw)
        return pending

    def writing(self) -> bool:
        """Whether any connection has written and not committed."""
        return any(pending.written() for pending in tuple(self._by_id.values()))

    def discard(self, raw: object) -> Pending | None:
        """Forget a connection that is being closed."""
        return self._by_id.pop(id(raw), None)

    def close(self) -> None:
        """Take our triggers off the connections where that can be done now."""
        for pending in list(self._by_id.values()):
            pending.detach()
            unwatch(pending.raw)
        self._by_id.clear()

    def _make(self, raw: Any) -> Pending:
        if self._engine.dialect.name == "sqlite":
            return SqlitePending(raw, self._row_limit)
        return PostgresPending(raw, self._shared, self._others)
