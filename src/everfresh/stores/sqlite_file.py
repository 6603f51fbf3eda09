"""The file of a SQLite store: its connections, whose it is, and what is done when it fails.

The file is looked at through SQLite alone, and by `os.stat`: closing a descriptor of one's own
would drop the locks that SQLite holds on it for the whole process.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from everfresh.errors import ConfigurationError, StoreUnavailableError
from everfresh.kernel.ports import Clock

__all__ = ["SqliteFile"]

_APPLICATION = 0x45465354  # "EFST"
_FORMAT = 1
_RETRY = 1.0  # seconds for which a file that failed is left alone
_GLANCE = 0.1  # seconds between two looks whether the path still names the same file
_JOURNAL = 16 << 20  # bytes of the write-ahead log that stay on disk after a checkpoint
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_HARMLESS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)  # what is kept can still be read

_SCHEMA = """
CREATE TABLE body (key TEXT PRIMARY KEY NOT NULL, checksum INTEGER NOT NULL, body BLOB NOT NULL)
    WITHOUT ROWID;
CREATE TABLE kept (key TEXT PRIMARY KEY NOT NULL, bytes INTEGER NOT NULL, cost REAL NOT NULL,
    rank REAL NOT NULL, weight REAL NOT NULL, hits INTEGER NOT NULL, digest TEXT NOT NULL)
    WITHOUT ROWID;
CREATE INDEX kept_by_rank ON kept (rank, key, bytes);
CREATE TABLE pool (id INTEGER PRIMARY KEY CHECK (id = 1), bytes INTEGER NOT NULL,
    entries INTEGER NOT NULL, touches INTEGER NOT NULL, floor REAL NOT NULL, policy TEXT NOT NULL);
INSERT INTO pool VALUES (1, 0, 0, 0, 0, '');
"""

_log = logging.getLogger("everfresh.stores")
_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
# Connections of a parent process: closing one here would checkpoint and delete the parent's log.
_abandoned: list[list[sqlite3.Connection]] = []


class SqliteFile:
    """Hold the idle connections to one file; any thread takes one and gives it back.

    ``busy``: seconds to wait for another process's lock. Whatever goes wrong with the file comes
    out as `StoreUnavailableError`; a file that is not ours, or is newer, as `ConfigurationError`
    at construction.
    """

    def __init__(self, path: str | os.PathLike[str], busy: float, clock: Clock) -> None:
        name = os.fspath(path)
        if name in ("", ":memory:"):
            raise ConfigurationError("a SQLite store needs a file: for memory use memory://")
        self.path = Path(name).absolute()
        self.trouble: str | None = None
        self.idle: list[sqlite3.Connection] = []
        self.glance_at = 0.0
        self._busy = busy
        self._clock = clock
        self._identity: tuple[int, int] | None = None
        self._down_until = float("-inf")
        self._closed = False
        self._opening = Lock()
        self._writing = Lock()
        _files.add(self)
        with suppress(StoreUnavailableError):
            self.idle.append(self.open())

    # connections --------------------------------------------------------------

    def open(self) -> sqlite3.Connection:
        """Return a new connection; makes the file, and moves a damaged one aside."""
        if self._closed:
            raise StoreUnavailableError("this store was closed: open another")
        if self.trouble is not None and self._clock() < self._down_until:
            raise StoreUnavailableError(self.trouble)
        with self._opening:
            try:
                connection = self._connect()
            except (sqlite3.Error, OSError) as error:
                raise self._down(str(error)) from error
            except ConfigurationError as error:
                self._down(str(error))
                if self._identity is None:
                    raise
                raise StoreUnavailableError(str(error)) from None
            self._identity = self._identify()
            self.trouble = None
            return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a write transaction, which is committed at the end."""
        with self._writing:
            if self._clock() < self._down_until:
                raise StoreUnavailableError(self.trouble or "the file failed a moment ago")
            self.glance()
            idle = self.idle
            try:
                connection = idle.pop()
            except IndexError:
                connection = self.open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    connection.rollback()
                if isinstance(error, sqlite3.Error):
                    raise self.failed(connection, error, writing=True) from error
                idle.append(connection)
                raise
            idle.append(connection)

    def glance(self) -> None:
        """Let go of the connections if the path names another file by now, or none."""
        self.glance_at = self._clock() + _GLANCE
        if self._identity is not None and self._identify() != self._identity:
            self._release()

    def failed(
        self, connection: sqlite3.Connection, error: sqlite3.Error, *, writing: bool = False
    ) -> StoreUnavailableError:
        """Return the error to raise for what the file did, and do what helps."""
        code = _code(error)
        if code in _HARMLESS:
            self.idle.append(connection)
            return StoreUnavailableError(f"{self.path}: {error}")
        if code in (*_DAMAGED, sqlite3.SQLITE_ERROR):  # the latter: a table of ours is missing
            with self._opening:
                self._move_aside(str(error), self._identity)
            return StoreUnavailableError(f"{self.path} is damaged, and was moved aside: {error}")
        if code == sqlite3.SQLITE_BUSY and writing:  # a writer does not block readers
            self.idle.append(connection)
        else:
            with suppress(sqlite3.Error):
                connection.close()
        return self._down(str(error))

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are let go of."""
        self._closed = True
        self._release()

    def forked(self) -> None:
        """Leave the parent's connections alone: this process must not close them."""
        self._opening, self._writing = Lock(), Lock()
        _abandoned.append(self.idle)
        self.idle = []

    def _release(self) -> None:
        """Close the idle connections; of a file that moved, SQLite leaves the path alone."""
        idle, self.idle = self.idle, []  # who is using a connection gives it back to the old list
        while idle:
            with suppress(sqlite3.Error):
                idle.pop().close()

    def _down(self, why: str) -> StoreUnavailableError:
        if self.trouble is None:
            _log.warning("the store %s is not used for now: %s", self.path, why)
        self.trouble = f"{self.path}: {why}"
        self._down_until = self._clock() + _RETRY
        return StoreUnavailableError(self.trouble)

    # the file -----------------------------------------------------------------

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        """Return a connection to a file that is ours and whole, made anew if it was damaged."""
        identity = self._identify()
        connection = self._raw()
        try:
            self._prepare(connection)
            return connection
        except sqlite3.DatabaseError as error:
            self._salvage(connection, error, identity)
        except BaseException:
            connection.close()
            raise
        connection = self._raw()
        self._prepare(connection)
        return connection

    def _salvage(
        self,
        connection: sqlite3.Connection,
        error: sqlite3.DatabaseError,
        identity: tuple[int, int] | None,
    ) -> None:
        """Move a damaged file of ours aside; raise for any other. Closes the connection."""
        code = _code(error)
        try:
            if code not in _DAMAGED:
                raise error
            if code == sqlite3.SQLITE_CORRUPT:
                self._check_ours(connection)
            self._move_aside(str(error), identity)
        finally:
            connection.close()

    def _raw(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=self._busy, isolation_level=None, check_same_thread=False
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL}")
        if not self._is_ours(connection):
            self._create(connection)

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Whether it is a store of this format; False for an empty file, refuses any other."""
        mark = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if mark == _APPLICATION:
            if version > _FORMAT:
                raise ConfigurationError(
                    f"the store {self.path} has format {version}, and this everfresh knows "
                    f"{_FORMAT}: upgrade everfresh, or name another file"
                )
            return True
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if mark or version or tables:
            raise self._foreign()
        return False

    def _foreign(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path} is a SQLite database, but no store of everfresh: name another file"
        )

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        """Refuse a damaged database that is not ours; its first page may still say whose it is."""
        if self._identity is not None and self._identity == self._identify():
            return
        try:
            connection.execute("PRAGMA writable_schema = ON")  # else a truncated file is not read
            mark = connection.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.Error:
            mark = None
        if mark != _APPLICATION:
            raise self._foreign()

    def _create(self, connection: sqlite3.Connection) -> None:
        self._switch_to_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self._is_ours(connection):  # another process may have made it meanwhile
                for statement in filter(str.strip, _SCHEMA.split(";\n")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.rollback()
            raise

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """Switch the journal mode, for which SQLite itself does not wait if another does it."""
        give_up = time.monotonic() + self._busy
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
            time.sleep(0.005)

    def _move_aside(self, why: str, identity: tuple[int, int] | None) -> None:
        """Rename a damaged file, unless another process has done so already."""
        if identity is None or self._identify() != identity:
            self._release()
            return
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        self._release()
        _log.warning("the store %s is damaged (%s): moved to %s", self.path, why, aside)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the module's own errors have none


def _after_fork() -> None:
    for file in list(_files):
        file.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
