"""Hear the commits of other connections and processes to a SQLite file.

Two modes. **tracked**: `sqlite_tracking` has put triggers and a change table into the file, and the
rows of every writer are read there. **watched**: only that somebody else committed is known, and
everything of the database is stale then. Either way the file itself is never opened here: closing
it would drop the locks of this process's own connections.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from everfresh.changes import sqlite_tracking
from everfresh.changes.publisher import Publisher
from everfresh.changes.sqlite_bracket import Bracket
from everfresh.changes.sqlite_history import MARK, highest, read_changes, stamp
from everfresh.changes.sqlite_monitor import Monitor, connect, named_file, passing, unwatched
from everfresh.changes.sqlite_status import Mapped, examine
from everfresh.changes.watching import FEED, Mode, Tracking
from everfresh.errors import ConfigurationError, EverfreshError
from everfresh.kernel.change import Change
from everfresh.kernel.mark import HistoryMark, SeenMark

__all__ = ["SqliteWatch", "watch"]

_PATIENCE = 0.05  # seconds a poll waits for a commit of ours that is under way
_watches: weakref.WeakSet[SqliteWatch] = weakref.WeakSet()
_held: list[SqliteWatch] = []  # over a fork: their pollers stand still, and hold no lock
_FOREIGN = "another connection or process committed to the database"


@dataclass(frozen=True, slots=True)
class _Known:
    """Hold what one schema version of the file says; ``history`` is "" where it keeps none."""

    version: int
    history: str
    mapped: dict[int, Mapped]
    tracked: frozenset[str]
    untracked: frozenset[str]
    why: str


def watch(engine: Engine, publisher: Publisher, row_limit: int) -> SqliteWatch | None:
    """Return a watch of the engine's database, None where it has no other writers to be heard."""
    if unwatched(engine):
        return None
    made = SqliteWatch(engine, publisher, row_limit=row_limit)
    if made.in_memory:
        made.close()
        return None
    return made


class SqliteWatch:
    """Publish what others commit to one SQLite file, whenever it is polled; for many threads."""

    def __init__(self, engine: Engine, publisher: Publisher, *, row_limit: int = 1000) -> None:
        self._engine = engine
        self._publisher = publisher
        self._limit = row_limit
        self._lock = threading.RLock()
        self._monitor: Monitor | None = None
        self._known: _Known | None = None
        self._seen = -1  # the monitor's data_version up to which all is published
        self._position = 0
        self._stamp: float | None = None
        self._unhealed = False
        self._closed = False
        self._trouble = "it was not polled yet"
        self._file = named_file(engine)
        self.patience = 5000  # milliseconds that installing waits for a lock
        self.in_memory = False
        self.bracket = Bracket(self._lock, self._ask)
        _watches.add(self)
        with contextlib.suppress(sqlite3.Error, EverfreshError), self._lock:
            self._open()
            if not self.in_memory:
                self._begin()

    # -- what is known

    @property
    def mode(self) -> Mode:
        """How commits of others are heard now."""
        known = self._known
        if known is None:
            return "none"
        return "tracked" if known.tracked else "watched"

    @property
    def reason(self) -> str:
        """Why the mode is what it is, in words for a receipt."""
        known = self._known
        return self._trouble if known is None else known.why

    @property
    def untracked(self) -> frozenset[str]:
        """Tables of main of which a foreign commit is heard only as one of all of them."""
        known = self._known
        return frozenset() if known is None else known.untracked

    @property
    def means(self) -> str:
        """What proves an answer, in a few words."""
        return "change table" if self.mode == "tracked" else "data_version"

    def covers(self, table: str) -> bool:
        """Whether others' commits to this table are heard: those of attached files are not.

        ``table`` is a canonical name: ``"main.flights"``, or ``"other.flights"`` of ATTACH.
        """
        return table.startswith("main.")

    # -- polling

    def poll(self, definitions: float = 0.0) -> bool:
        """Publish what was committed before now; return whether that is certain.

        The schema is looked at every time: that costs nothing here.

        False means that nothing is proven (the file is locked, gone, or a commit of this process
        takes its time): ask again. It recovers by itself.
        """
        try:
            with self._lock:
                if self._closed or not self._ready():
                    return False
                if self._ask() == self._seen and not self._unhealed:
                    return True
            mutex = self.bracket.mutex
            if not mutex.acquire(timeout=_PATIENCE):
                return False
            try:
                with self._lock:
                    return not self._closed and self._look()
            finally:
                mutex.release()
        except sqlite3.Error as error:
            self._failed(error)
            return False

    def mark(self, raw: Any) -> HistoryMark | None:
        """Return how much of the history this DBAPI connection sees, None if nothing is tracked.

        Call it before the query, or in one snapshot with it, and not after own uncommitted writes.
        """
        known = self._known
        if known is None or not known.history:
            return None
        try:
            cursor = raw.cursor()
            try:
                if hasattr(cursor, "row_factory"):
                    cursor.row_factory = None
                cursor.execute(MARK)
                position, name, version, at = cursor.fetchall()[0]
            finally:
                cursor.close()
        except Exception:
            return None
        text = name.decode() if isinstance(name, bytes) else str(name)
        history = f"{text}.{version}"
        return HistoryMark(FEED, history, int(position), at) if history == known.history else None

    def told(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return these changes: a commit of this process told its rows by itself."""
        return changes

    def wait(self, stop: threading.Event, interval: float, bound: float) -> bool:
        """Wait for the interval: nothing in SQLite wakes a reader."""
        return stop.wait(interval)

    def since(self, mark: SeenMark) -> Sequence[Change] | None:
        """Return all changes after the mark up to now, None if the history does not tell.

        Each untracked table counts as changed.
        """
        if not isinstance(mark, HistoryMark):
            return None
        try:
            with self._lock:
                known = self._known
                if self._closed or known is None or not self._ready():
                    return None
                if not known.history or mark.history != known.history:
                    return None
                return self._since(known, mark)
        except sqlite3.Error as error:
            self._failed(error)
            return None

    def close(self) -> None:
        """Close the monitor's connection; every later poll says False."""
        with self._lock:
            self._closed = True
            self._known = None
            self._trouble = "it is closed"
            self._drop()

    # -- tracking, on a connection of its own

    def install(self, tables: Sequence[str] | None = None, readers: Sequence[str] = ()) -> Tracking:
        """Track these tables, or all; see `sqlite_tracking.install`."""
        _refuse(readers)
        with self._maintenance() as connection:
            return sqlite_tracking.install(connection, tables)

    def remove(self) -> Tracking:
        """Stop tracking; see `sqlite_tracking.remove`."""
        with self._maintenance() as connection:
            return sqlite_tracking.remove(connection)

    def status(self) -> Tracking:
        """Return what is tracked; see `sqlite_tracking.status`."""
        with self._maintenance() as connection:
            return sqlite_tracking.status(connection)

    def plan(self, tables: Sequence[str] | None = None, readers: Sequence[str] = ()) -> list[str]:
        """Return the SQL that `install` would run; see `sqlite_tracking.plan`."""
        _refuse(readers)
        with self._maintenance() as connection:
            return sqlite_tracking.plan(connection, tables)

    def announce(self, tables: Sequence[str] | None = None) -> list[str]:
        """Tell every process that these tables changed; see `sqlite_tracking.announce`."""
        with self._maintenance() as connection:
            return sqlite_tracking.announce(connection, tables)

    def prune(self, keep_rows: int) -> int:
        """Delete all but the latest changes; see `sqlite_tracking.prune`."""
        with self._maintenance() as connection:
            return sqlite_tracking.prune(connection, keep_rows=keep_rows)

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[sqlite3.Connection]:
        if self._file and not Path(self._file).exists():  # do not make one
            raise ConfigurationError(f"there is no file {self._file}: nothing was done")
        try:
            connection = connect(self._engine)
        except sqlite3.Error as error:
            raise ConfigurationError(f"{self._file} cannot be opened: {error}") from error
        try:
            connection.execute(f"PRAGMA busy_timeout = {self.patience:d}").close()
            yield connection
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"the database could not be used: {error}; nothing was done"
                + ("; try again" if passing(error) else "")
            ) from error
        finally:
            connection.close()
            self.poll()

    # -- the monitor; all of this under the lock

    def _ask(self) -> int:
        if self._monitor is None:
            raise sqlite3.OperationalError(self._trouble)
        return self._monitor.data_version()

    def _ready(self) -> bool:
        """Connect again if the file was replaced, or the connection was given up."""
        if self._monitor is not None and self._monitor.current:
            return True
        self._drop()
        try:
            self._open()
        except (sqlite3.Error, EverfreshError) as error:
            self._known, self._trouble = None, f"the database cannot be opened: {error}"
            return False
        self._begin()
        # nobody knows what was committed before, nor whether it is the same database
        self._publisher.report([Change(None)])
        return True

    def _open(self) -> None:
        if self._file and not Path(self._file).exists():
            raise sqlite3.OperationalError("there is no such file")  # do not make one
        monitor = Monitor(self._engine)
        self._file = monitor.file
        if not monitor.file:
            self.in_memory = True
            monitor.close()
            return
        if not monitor.current:
            monitor.close()
            raise sqlite3.OperationalError("the file was replaced just now")
        self._monitor = monitor

    def _drop(self) -> None:
        if self._monitor is not None:
            with contextlib.suppress(sqlite3.Error):
                self._monitor.close()
        self._monitor, self._seen = None, -1

    def _begin(self) -> None:
        """Take what is committed now for the beginning."""
        assert self._monitor is not None  # noqa: S101
        try:
            with self._monitor.snapshot():
                seen = self._ask()
                self._learn()
        except sqlite3.Error:
            self._drop()
            raise
        self._mend()
        self._seen = self.bracket.explained = seen

    def _failed(self, error: sqlite3.Error) -> None:
        with self._lock:
            self._trouble = f"the database could not be asked: {error}"
            if not passing(error):
                self._known = None
                self._drop()

    # -- looking; under the lock, and the mutex of own commits

    def _look(self) -> bool:
        assert self._monitor is not None  # noqa: S101
        self.bracket.settle(_PATIENCE / 2)
        before = self._known
        with self._monitor.snapshot():
            moved = self._ask()
            ours = moved == self.bracket.explained
            changes: list[Change] | None = []
            if before is None or not self._holds(before):
                self._learn()
            elif before.history:
                changes = self._read(before, ours=ours)
        self._mend()
        if not ours:
            self._tell(before, changes)
        self._seen = self.bracket.explained = moved
        return True

    def _read(self, known: _Known, *, ours: bool) -> list[Change] | None:
        """Return what was logged since the last look; our own commits were told of already."""
        assert self._monitor is not None  # noqa: S101
        newest, _, _, at = self._monitor.rows(MARK)[0]
        changes: list[Change] | None = []
        if stamp(self._monitor.rows, self._position) != self._stamp:
            changes = None  # an older state of the file was put in its place
        elif not ours:
            changes = self._changes(known, self._position, newest)
        self._position, self._stamp = newest, at
        return changes

    def _tell(self, before: _Known | None, changes: list[Change] | None) -> None:
        known = self._known
        if known is None or before is None or known is not before:
            self._publisher.report([Change(None)])  # plans are void: the schema is another one
        elif not known.history:
            self._publisher.lost(_FOREIGN)
        elif changes is None:
            self._publisher.lost("rows are missing from the change table")
        elif told := [*changes, *map(Change, sorted(known.untracked))]:
            self._publisher.report(told)

    def _since(self, known: _Known, mark: HistoryMark) -> list[Change] | None:
        assert self._monitor is not None  # noqa: S101
        with self._monitor.snapshot():
            if not self._holds(known) or stamp(self._monitor.rows, mark.position) != mark.stamp:
                return None
            changes = self._changes(known, mark.position, highest(self._monitor.rows))
        return None if changes is None else [*changes, *map(Change, sorted(known.untracked))]

    def _changes(self, known: _Known, after: int, newest: int) -> list[Change] | None:
        assert self._monitor is not None  # noqa: S101
        told = read_changes(self._monitor.raw.execute, after, newest, known.mapped, self._limit)
        if told is None:
            return None
        return [replace(change, history=known.history) for change in told]

    def _holds(self, known: _Known) -> bool:
        """Whether schema and history are what they were, in the snapshot that is open."""
        assert self._monitor is not None  # noqa: S101
        if int(self._monitor.rows("PRAGMA main.schema_version")[0][0]) != known.version:
            return False
        if not known.history:
            return True
        _, name, version, _ = self._monitor.rows(MARK)[0]
        return f"{name}.{version}" == known.history

    def _learn(self) -> None:
        """Read what is tracked, in the snapshot that is open."""
        assert self._monitor is not None  # noqa: S101
        version = int(self._monitor.rows("PRAGMA main.schema_version")[0][0])
        found = examine(self._monitor.rows)
        healthy, reasons = found.healthy(), found.reasons()
        why = f"{len(healthy)} tables are tracked"
        if not healthy:
            why = "no table is tracked: a commit of others makes everything stale"
        elif reasons:
            why += f"; a commit of others makes these stale: {', '.join(sorted(reasons))}"
        self._known = _Known(
            version=version,
            history=f"{found.history}.{version}" if healthy else "",
            mapped=dict(found.mapped),
            tracked=frozenset(healthy),
            untracked=frozenset(reasons),
            why=why,
        )
        self._unhealed = bool(found.triggers) and not found.sound
        self._position, self._stamp = 0, None
        if healthy:
            self._position, _, _, self._stamp = self._monitor.rows(MARK)[0]

    def _mend(self) -> None:
        """Make the change table anew if it is gone: until then every write to the file fails."""
        if not self._unhealed or self._monitor is None:
            return
        with contextlib.suppress(sqlite3.Error):  # somebody writes just now: the next poll does it
            sqlite_tracking.heal(self._monitor.raw)
            with self._monitor.snapshot():
                self._learn()

    # -- over a fork

    def hold(self) -> bool:
        """Let no other thread be at work here; return whether that was managed."""
        return self._lock.acquire(timeout=1.0)

    def let_go(self, *, child: bool) -> None:
        """End what `hold` began."""
        if child:
            self.bracket.renew()
        self._lock.release()


def _refuse(readers: Sequence[str]) -> None:
    if readers:
        raise ConfigurationError("SQLite has no roles: whoever may open the file may read it")


def _before_fork() -> None:
    _held.extend(watch for watch in list(_watches) if watch.hold())


def _after_fork(*, child: bool) -> None:
    while _held:
        _held.pop().let_go(child=child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, child=False),
        after_in_child=partial(_after_fork, child=True),
    )
