"""What one SQLite connection has written: rows where triggers see them, tables where not.

Nothing here reads the database inside a transaction that has not written yet: a read would fix
the transaction's snapshot, and its first write could then fail with BUSY where it would have
waited otherwise. So triggers are put in place between transactions, or once the transaction
holds the lock; a first write in a deferred transaction before that is told of by whole tables.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from everfresh.changes.pending import as_changes
from everfresh.changes.sqlite_plan import SqlitePlan, make_plan
from everfresh.changes.sqlite_rows import PREFIX, RowLog
from everfresh.changes.statements import Statement
from everfresh.connect import describe_sqlite
from everfresh.connect.describe import DatabaseSchema, describe_with
from everfresh.kernel.change import Change

__all__ = ["SqlitePending"]

_LEGACY = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, since Python 3.12


_LOCKS = re.compile(r"\b(IMMEDIATE|EXCLUSIVE)\b", re.I)


class SqlitePending:
    """Follow the transactions of one SQLite connection."""

    def __init__(self, raw: Any, limit: int) -> None:
        self.raw = raw
        # the adapter of an async driver has no in_transaction; the driver's own object has
        self._driver = getattr(raw, "driver_connection", None) or raw
        self._log = RowLog(raw, self._rows, limit)
        self._schema: DatabaseSchema | None = None
        self._plans: dict[Statement, SqlitePlan] = {}
        self._coarse: set[str | None] = set()
        self._wanted: set[str] = set()
        self._refused: set[str] = set()
        self._unplanned: list[Statement] = []
        self._savepoints: list[tuple[str, int]] = []
        self._rebuild = False
        self._loose = False
        self._locked = False
        self._inside = False  # triggers were made in the open transaction, and go if it is undone
        self._temp_version = -1
        self._reader: Any = None
        self._total = int(self._driver.total_changes)
        self._before = self._total
        self.direct = False  # told by total_changes here

    # -- what the driver says

    def in_transaction(self) -> bool:
        """Whether the driver has a transaction open."""
        return bool(self._driver.in_transaction)

    def alone(self, statement: Statement) -> bool:
        """Whether this statement, run now, would be committed by itself."""
        if self._driver.in_transaction:
            return False
        legacy = getattr(self._driver, "autocommit", _LEGACY) == _LEGACY
        begins = legacy and self._driver.isolation_level is not None and statement.row_write
        return not begins

    # -- statements

    def before(self, statement: Statement) -> None:
        """Put triggers in place if no transaction is open, and note what they will not see."""
        self._before = int(self._driver.total_changes)
        if statement.alters:
            self._alter(statement)
        elif not self._driver.in_transaction:
            self._refresh()
            self._install(self._plan(statement).tracked)
            self._note(statement)
        elif self._locked or (
            self._schema is not None and self._log.covers(self._plan(statement).tracked)
        ):
            self._install(self._plan(statement).tracked)
            self._note(statement)
        else:
            self._unplanned.append(statement)

    def potential(self, statement: Statement) -> list[Change]:
        """Return what a statement that was noted may change at most."""
        if statement.alters:
            return as_changes(self._coarse)
        return as_changes(self._plan(statement).reach)

    def after(self, statement: Statement, cursor: Any, *, failed: bool) -> None:
        """Note what a statement did that could not be told before."""
        if failed and not self._driver.in_transaction and not self.finished():
            self._unplanned.clear()
            self._coarse.clear()  # it failed before it wrote anything, or began a transaction
        self._locked = self._driver.in_transaction and (
            self._locked or self._driver.total_changes != self._before
        )
        for waiting in self._unplanned:
            plan = self._plan(waiting)
            self._wanted |= plan.tracked
            self._coarse |= plan.reach
            if self._locked:  # now, before a savepoint could take the triggers away again
                self._install(plan.tracked)
        self._unplanned.clear()
        if statement.alters:
            self._forget_schema()
        self._loose = self._loose or cursor.description is not None
        self._total = int(self._driver.total_changes)

    def retry(self, error: BaseException) -> bool:
        """Drop the triggers if they made the statement fail: another connection altered a table.

        A statement that has changed rows already is not run again.
        """
        if not isinstance(error, sqlite3.Error) or self._driver.total_changes != self._before:
            return False
        if not self._log.installed:
            return False
        ours = PREFIX in str(error) or "user-defined function" in str(error)
        if not ours and not self._moved():
            return False
        self._drop()
        self._coarse.add(None)
        return True

    def unfinished(self, cursor: Any) -> bool:
        """Whether a RETURNING statement has yet to be read to its end, and so to commit."""
        waits = cursor.description is not None and bool(self._log.rows or self._coarse)
        return waits and self._driver.total_changes == self._before

    def finished(self) -> bool:
        """Whether the statement that was unfinished has ended since."""
        return bool(self._driver.total_changes != self._before)

    def savepoint(self, statement: Statement) -> None:
        """Undo with ROLLBACK TO what was logged since the savepoint."""
        if statement.verb == "begin":
            self._locked = bool(_LOCKS.search(statement.text))
            return
        names = [name for name, _ in self._savepoints]
        if statement.verb == "savepoint":
            self._savepoints.append((statement.name, len(self._log.rows)))
        elif statement.name in names:
            place = len(names) - 1 - names[::-1].index(statement.name)
            if statement.verb == "rollback to":
                del self._log.rows[self._savepoints[place][1] :]
                place += 1  # the savepoint itself stays
            del self._savepoints[place:]

    # -- transactions

    def written(self) -> bool:
        """Whether the open transaction has written, as far as is known."""
        logged = self._log.rows or self._coarse or self._log.overflow
        return bool(logged) or self._inside or self.foreign()

    def quiet(self) -> bool:
        """Whether nothing but queries ran since the last end."""
        log = self._log
        return self._driver.total_changes == self._total and not (
            log.rows
            or log.overflow
            or self._coarse
            or self._savepoints
            or self._inside
            or self._wanted
            or self._unplanned
            or self._loose
            or self._locked
            or self.direct
        )

    def suspect(self) -> None:
        """Suppose that the open transaction has written anything."""
        self._coarse.add(None)

    def schema_changed(self) -> None:
        """Read the schema again before it is used."""
        self._drop()

    def detach(self) -> None:
        """Drop our triggers, if this thread may use the connection.

        A driver's adapter for asyncio may not be used outside its event loop's greenlet.
        """
        if self._log.installed and self._driver is self.raw:
            with contextlib.suppress(Exception):  # another thread's: the log fills, bounded
                self._drop()

    def foreign(self) -> bool:
        """Whether rows changed that no statement seen here accounts for."""
        return not self._loose and self._driver.total_changes != self._total

    def altered(self, stamp: tuple[int, ...]) -> bool:
        """Whether the schema is not the one of this stamp: DDL does not move `total_changes`."""
        try:
            return describe_sqlite.version(self._rows)[:-1] != stamp
        except Exception:  # another thread's connection, or a locked file: not proven
            return True

    def changes(self) -> list[Change]:
        """Return what the open transaction has changed."""
        if self.foreign():
            return [Change(None)]
        if not self.written():
            return []
        if None in self._coarse:
            return [Change(None)]
        if self._moved():
            self._rebuild = True
            return [Change(None)]
        return as_changes(self._coarse, self._log.changes())

    def tell(self, changes: Sequence[Change]) -> None:
        """Do nothing: the bracket around the commit tells."""

    def ended(self) -> None:
        """Forget what was pending, and put the triggers in place that were missing."""
        self._log.clear()
        self._coarse.clear()
        self._savepoints.clear()
        self._loose = self._locked = False
        if self._inside:
            self._inside = False
            self._distrust()
        if self._wanted:
            self._catch_up()
        self._total = int(self._driver.total_changes)

    # -- triggers and schema

    def _alter(self, statement: Statement) -> None:
        """Get out of the way of DDL: ALTER TABLE DROP COLUMN fails for a column in a trigger."""
        if statement.effect.temporary:
            return
        self._drop()
        if statement.voids:
            self._coarse.add(None)

    def _drop(self) -> None:
        try:
            self._log.drop()
        except sqlite3.Error:
            self._log.forget()
        self._rebuild = True  # a rollback would bring them back
        self._forget_schema()

    def _distrust(self) -> None:
        """Make triggers anew that a ROLLBACK has taken away."""
        try:
            undone = self._temp() != self._temp_version
        except Exception:  # the connection is closed, or another thread's
            undone = True
        if undone:
            self._log.forget()
            self._rebuild = True

    def _forget_schema(self) -> None:
        self._schema = None
        self._plans.clear()
        self._refused.clear()

    def _refresh(self) -> None:
        """Read the schema again if it changed, and drop triggers made for another one."""
        if self._rebuild or (self._schema and self._stamp() != self._schema.stamp[:-1]):
            self._drop()
            self._rebuild = False  # nothing can undo it: no transaction is open

    def _install(self, names: frozenset[str]) -> None:
        if self._log.covers(names) or names & self._refused:
            return
        if self._driver.in_transaction and self._moved():
            self._coarse.add(None)  # a ROLLBACK TO has undone triggers made in this transaction
            self._drop()
        try:
            self._log.install(self._described(), names)
            self._inside = self._inside or bool(self._driver.in_transaction)
        except sqlite3.Error:
            self._refused |= names
        self._temp_version = self._temp()

    def _catch_up(self) -> None:
        """Make the triggers the transaction lacked, now that it is over."""
        manual = getattr(self._driver, "autocommit", _LEGACY) is False
        if self._driver.in_transaction and not manual:
            return
        wanted, self._wanted = frozenset(self._wanted), set()
        self._refresh()
        self._install(frozenset(name for name in wanted if name in self._described().tables))
        if manual:
            self.raw.commit()  # this driver mode has opened a transaction: ours, not the user's

    def _note(self, statement: Statement) -> None:
        plan = self._plan(statement)
        if not self._log.covers(plan.tracked):
            self._coarse |= plan.reach
        self._coarse |= plan.coarse
        if plan.replaces and not self._rows("PRAGMA recursive_triggers")[0][0]:
            self._coarse |= plan.reach

    def _plan(self, statement: Statement) -> SqlitePlan:
        plan = self._plans.get(statement)
        if plan is None:
            if len(self._plans) > 2048:
                self._plans.clear()
            plan = self._plans[statement] = make_plan(self._described(), statement)
        return plan

    def _described(self) -> DatabaseSchema:
        if self._schema is None:
            self._schema = describe_with("sqlite", self._rows)
            self._temp_version = self._schema.stamp[-1]
        return self._schema

    def _stamp(self) -> tuple[int, ...]:
        """Return the schema versions of main and what is attached."""
        databases = self._described().search[1:]
        return tuple(self._number(f'PRAGMA "{name}".schema_version') for name in databases)

    def _moved(self) -> bool:
        """Whether the schema is not the one the triggers were made for."""
        if self._schema is None:
            return True
        return self._stamp() != self._schema.stamp[:-1] or self._temp() != self._temp_version

    def _temp(self) -> int:
        """Return the version of the temporary schema: triggers of ours, and tables."""
        return self._number("PRAGMA temp.schema_version")

    def _number(self, statement: str) -> int:
        """Return the one number that a PRAGMA answers; asked several times a transaction."""
        if self._driver is not self.raw:
            return int(self._rows(statement)[0][0])
        if self._reader is None:
            self._reader = self.raw.cursor()
            self._reader.row_factory = None
        return int(self._reader.execute(statement).fetchall()[0][0])

    def _rows(self, statement: str) -> Sequence[Sequence[Any]]:
        cursor = self.raw.cursor()
        try:
            if hasattr(cursor, "row_factory"):  # the adapter of an async driver has none
                cursor.row_factory = None
            cursor.execute(statement)
            return [
                tuple(v.decode() if isinstance(v, bytes) else v for v in row)
                for row in cursor.fetchall()
            ]
        finally:
            cursor.close()
