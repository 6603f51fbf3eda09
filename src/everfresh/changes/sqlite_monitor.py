"""The connection that watches a SQLite file: it never waits, and holds no transaction open."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.pool import StaticPool

from everfresh.changes.sqlite_history import decode
from everfresh.errors import ConfigurationError

__all__ = ["Monitor", "connect", "named_file", "passing", "unwatched"]

_LEGACY = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, since Python 3.12
_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_INHERITED: list[object] = []  # connections of a parent process: closing one would be wrong here


def unwatched(engine: Engine) -> str:
    """Return why other writers of this engine's database cannot be watched, "" if they can.

    Another library than the interpreter's own would lose its locks whenever ours closes a file.
    """
    if engine.dialect.name != "sqlite":
        return "it is not a SQLite file"
    if engine.dialect.driver not in ("pysqlite", "aiosqlite"):
        return f"the driver {engine.dialect.driver} brings a SQLite of its own"
    name = engine.url.database or ""
    if _by_creator(engine):
        return ""
    if name in ("", ":memory:") or "mode=memory" in name or ":memory:" in name:
        return "a database in memory has no other writers"
    return ""


def named_file(engine: Engine) -> str:
    """Return the path the engine's URL names, "" if it is not told plainly."""
    name = engine.url.database or ""
    return "" if name.startswith("file:") or name == ":memory:" else name


def passing(error: sqlite3.Error) -> bool:
    """Whether the error is one of a lock, after which the connection is as good as before."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _PASSING


def connect(engine: Engine) -> sqlite3.Connection:
    """Return a connection of our own, made as the engine makes its, outside its pool."""
    if _by_creator(engine):
        create: Any = engine.pool._invoke_creator  # noqa: SLF001 - events of the pool stay out
        raw = create(None)
        if not engine.url.database and raw is create(None):
            raise ConfigurationError("the engine's creator hands out one connection to everybody")
        if isinstance(raw, sqlite3.Connection) and _shared_by_threads(raw):
            return _prepared(raw)
        path = _main_file(raw)
        raw.close()
        return _prepared(sqlite3.connect(path or ":memory:", check_same_thread=False))
    (path, *_), named = SQLiteDialect_pysqlite().create_connect_args(engine.url)
    uri = bool(named.get("uri", False))
    return _prepared(sqlite3.connect(path, uri=uri, check_same_thread=False))


def _by_creator(engine: Engine) -> bool:
    """Whether the engine's own way to connect makes a new connection that we can use."""
    return not engine.dialect.is_async and not isinstance(engine.pool, StaticPool)


def _prepared(raw: sqlite3.Connection) -> sqlite3.Connection:
    if getattr(raw, "autocommit", _LEGACY) != _LEGACY:
        raw.autocommit = True  # type: ignore[attr-defined, unused-ignore]
    raw.isolation_level = None
    raw.row_factory = None
    raw.text_factory = decode
    raw.execute("PRAGMA busy_timeout = 0").close()
    return raw


def _shared_by_threads(raw: sqlite3.Connection) -> bool:
    """Whether another thread than the one that made it may use the connection."""
    works: list[bool] = []

    def attempt() -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):
            raw.execute("SELECT 1").close()
            works.append(True)

    thread = threading.Thread(target=attempt, name="everfresh-watch-check")
    with contextlib.suppress(RuntimeError):  # no thread to be had: it cannot be told
        thread.start()
        thread.join()
    return bool(works)


def _main_file(raw: Any) -> str:
    for _, name, path in raw.execute("PRAGMA database_list").fetchall():
        if name in ("main", b"main"):
            return path.decode() if isinstance(path, bytes) else str(path or "")
    return ""


class Monitor:
    """Hold the connection and the file it was opened on; the caller holds a lock around it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = os.getpid()
        self.raw = connect(engine)
        self.file = _main_file(self.raw)
        self._identity = self._stat()

    @property
    def current(self) -> bool:
        """Whether the file is still the one that was opened, and this the process that did."""
        return self._process == os.getpid() and self._identity == self._stat()

    def data_version(self) -> int:
        """Return a number that moves when another connection commits."""
        return int(self.rows("PRAGMA main.data_version")[0][0])

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""
        return self.raw.execute(statement).fetchall()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read in one transaction; it ends with the context."""
        self.raw.execute("BEGIN").close()
        try:
            yield
        finally:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK").close()

    def close(self) -> None:
        """Close the connection; one that was inherited over a fork is left alone."""
        if self._process == os.getpid():
            self.raw.close()
        else:
            _INHERITED.append(self.raw)

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = Path(self.file).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
