"""What one PostgreSQL connection has written: whole tables, with all they drag along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everfresh.changes.closure import reach
from everfresh.changes.pending import as_changes
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.statements import Statement
from everfresh.connect.describe import DatabaseSchema, describe_with
from everfresh.kernel.change import Change

__all__ = ["PostgresPending", "SharedSchema"]

_IDLE, _IN_ERROR = 0, 3  # libpq's PQTRANS_IDLE and PQTRANS_INERROR


class SharedSchema:
    """Hold the schema for every connection of one engine, until DDL is seen.

    ``temporary`` are the names of temporary tables, ``watchful`` is set once a trigger or a rule
    was made that may be on one of them: the catalogue of another connection does not show it.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.temporary: set[str] = set()
        self.watchful = False
        self._changed = changed
        self._schema: DatabaseSchema | None = None
        self._generation = 0

    @property
    def known(self) -> DatabaseSchema | None:
        """The schema, None if it has to be read."""
        return self._schema

    def forget(self) -> None:
        """Read the schema again before it is used."""
        self._generation += 1
        self._schema = None
        self._changed()

    def know(self, schema: DatabaseSchema) -> None:
        """Take a schema somebody else has read since the last `forget`."""
        if self._schema is None:
            self._schema = schema

    def read(self, query: Callable[[str], Sequence[Sequence[Any]]]) -> DatabaseSchema:
        """Return the schema, reading it if need be."""
        schema = self._schema
        if schema is None:
            generation = self._generation
            schema = describe_with("postgresql", query)
            if generation == self._generation:  # else DDL came in between: use it once
                self._schema = schema
        return schema


class PostgresPending:
    """Follow the transactions of one PostgreSQL connection."""

    def __init__(self, raw: Any, shared: SharedSchema, others: PostgresWatch | None = None) -> None:
        self.raw = raw
        self._shared = shared
        self._others = others
        self._statements: dict[Statement, None] = {}
        self._anything = False
        self.pid = _backend_pid(raw)
        self.direct = False  # checked out without a SQLAlchemy Connection

    # -- what the driver says

    def in_transaction(self) -> bool:
        """Whether the driver has a transaction open."""
        return _status(self.raw) != _IDLE

    def alone(self, statement: Statement) -> bool:
        """Whether this statement, run now, would be committed by itself."""
        return statement.several or (_autocommits(self.raw) and not self.in_transaction())

    # -- statements

    def before(self, statement: Statement) -> None:
        """Note a statement; what it reaches is looked up when it is about to be committed."""
        self._statements[statement] = None
        if statement.voids:
            self._anything = True

    def potential(self, statement: Statement) -> list[Change]:
        """Return what a statement that was noted may change at most."""
        return self.changes()

    def after(self, statement: Statement, cursor: Any, *, failed: bool) -> None:
        """Note that DDL has run: the schema is another one, for this connection at least."""
        if statement.alters:
            self._shared.watchful |= any(w in statement.text.upper() for w in ("TRIGGER", "RULE"))
            if not statement.effect.temporary:
                self._shared.forget()

    def retry(self, error: BaseException) -> bool:
        """Nothing of ours runs in a statement here."""
        return False

    def unfinished(self, cursor: Any) -> bool:
        """Return False: the server has committed when it answers."""
        return False

    def finished(self) -> bool:
        """Return True: the server has committed when it answers."""
        return True

    def savepoint(self, statement: Statement) -> None:
        """Do nothing: a table written before ROLLBACK TO counts as written, coarse, never wrong."""

    # -- transactions

    def written(self) -> bool:
        """Whether the open transaction has written, as far as is known."""
        schema = self._shared.known
        return self._anything or any(
            schema is None or self._reach(schema, statement) != frozenset()
            for statement in self._statements
        )

    def quiet(self) -> bool:
        """Whether nothing but queries ran since the last end."""
        return not (self._statements or self._anything or self.direct)

    def suspect(self) -> None:
        """Suppose that the open transaction has written anything."""
        self._anything = True

    def schema_changed(self) -> None:
        """Read the schema again before it is used."""
        self._shared.forget()

    def detach(self) -> None:
        """Nothing was attached."""

    def foreign(self) -> bool:
        """Whether this checkout bypassed SQLAlchemy's Connection: then nothing was seen."""
        return self.direct

    def altered(self, stamp: tuple[int, ...]) -> bool:
        """Return False: there is no stamp, and what was not seen counts as `foreign`."""
        return False

    def changes(self) -> list[Change]:
        """Return the tables that the open transaction may have changed."""
        if _status(self.raw) == _IN_ERROR:
            return []  # it can only be rolled back, whatever it is told
        if self._anything or self.direct:
            return [Change(None)]
        if not self._statements:
            return []
        try:
            schema = self._shared.known or self._read()
        except Exception:
            return [Change(None)]
        names: set[str | None] = set()
        for statement in self._statements:
            reached = self._reach(schema, statement)
            names |= self._anywhere() if reached is None else reached
        return as_changes(names)

    def ended(self) -> None:
        """Forget what was pending."""
        if self._anything:
            self._shared.forget()  # others see the new schema only now
        self._anything = self.direct = False
        self._statements.clear()

    def tell(self, changes: Sequence[Change]) -> None:
        """Let the open transaction, about to be committed, be known as ours by its id."""
        if self._others is None or self._others.mode != "watched" or not self.in_transaction():
            return
        if _status(self.raw) != _IN_ERROR:
            for (number,) in self._rows("SELECT pg_current_xact_id_if_assigned()::text"):
                if number is not None:
                    self._others.own(int(number), changes)

    # -- closure

    def _anywhere(self) -> frozenset[str | None]:
        """Return what code of the user's may write to: all tables, if every write is logged."""
        tables = None if self._others is None else self._others.tables()
        return frozenset({None} if tables is None else tables)

    def _reach(self, schema: DatabaseSchema, statement: Statement) -> frozenset[str] | None:
        if statement.selects:
            return None if statement.calls & schema.writing_functions() else frozenset()
        effect = statement.effect
        if effect.kind != "write":
            return None if effect.tables is None else frozenset()
        if effect.tables is None:
            return None
        names: set[str] = set()
        for place, name in effect.tables:
            found = _named(schema, place, name)
            known = found - schema.names(("temporary",))
            if not known and (name not in self._shared.temporary or self._shared.watchful):
                return None
            names |= found
        reached = reach(schema, names, truncates=statement.truncates)
        return reached and reached - schema.names(("temporary",))

    def _read(self) -> DatabaseSchema:
        """Read the schema on this connection, which sees its own DDL; never break its work."""
        if not self.in_transaction() and _autocommits(self.raw):
            return self._shared.read(self._rows)
        self._run("SAVEPOINT everfresh")
        try:
            schema = self._shared.read(self._rows)
        except BaseException:
            self._run("ROLLBACK TO SAVEPOINT everfresh")
            raise
        self._run("RELEASE SAVEPOINT everfresh")
        return schema

    def _run(self, statement: str) -> None:
        cursor = self.raw.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()

    def _rows(self, statement: str) -> Sequence[Sequence[Any]]:
        cursor = self.raw.cursor()
        try:
            cursor.execute(statement)
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
            return rows
        finally:
            cursor.close()


def _named(schema: DatabaseSchema, place: str | None, name: str) -> frozenset[str]:
    """Return the tables a name may mean, whatever search_path the session has."""
    if place is not None:
        return frozenset([f"{place}.{name}"]) & schema.tables.keys()
    return frozenset(
        table.name
        for table in schema.tables.values()
        if table.name.partition(".")[2] == name and table.kind != "system"
    )


def _status(raw: Any) -> int:
    """Return libpq's transaction status: 0 idle, 1 active, 2 in transaction, 3 in error."""
    driver = getattr(raw, "driver_connection", None) or raw
    info = getattr(driver, "info", None)
    if info is not None:
        return int(info.transaction_status)
    return 2 if driver.is_in_transaction() else _IDLE  # asyncpg


def _autocommits(raw: Any) -> bool:
    autocommit = getattr(raw, "autocommit", None)
    if autocommit is None:
        autocommit = getattr(raw, "isolation_level", None) == "autocommit"  # asyncpg
    return bool(autocommit)


def _backend_pid(raw: Any) -> int | None:
    driver = getattr(raw, "driver_connection", None) or raw
    info = getattr(driver, "info", None)
    if info is not None:
        return int(info.backend_pid)
    return int(driver.get_server_pid()) if hasattr(driver, "get_server_pid") else None
