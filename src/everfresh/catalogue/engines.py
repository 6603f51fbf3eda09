"""The SQLAlchemy engine of a catalogue."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import StaticPool

from everfresh.errors import ConfigurationError, MissingExtraError, UnknownURLError

__all__ = ["WRITES", "make_engine", "missing_file", "switch_to_wal"]

WRITES = "everfresh_writes"  # the execution option of connections that are going to write
_WAIT = 5.0  # seconds for another process's lock on a SQLite file, or for a connection


def make_engine(url: str | URL) -> Engine:
    """Return an engine for a SQLite or PostgreSQL URL; nothing is opened yet.

    Raises `UnknownURLError` for others and `MissingExtraError` without the driver.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UnknownURLError(
            "a catalogue is named by a URL: sqlite:///file.db or postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite(parsed)
    if backend == "postgresql":
        return _postgres(parsed)
    raise UnknownURLError(f"a catalogue cannot lie in {backend!r}: use sqlite:// or postgresql://")


def missing_file(engine: Engine) -> bool:
    """Whether it is the engine of a SQLite file that does not exist."""
    name = engine.url.database
    return engine.dialect.name == "sqlite" and bool(name) and not Path(str(name)).exists()


def switch_to_wal(engine: Engine) -> None:
    """Let readers of a SQLite file go on while another process writes.

    SQLite itself does not wait when two processes do so at once.
    """
    give_up = time.monotonic() + _WAIT
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up:
                raise
        finally:
            raw.close()
        time.sleep(0.005)


def _sqlite(url: URL) -> Engine:
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigurationError(f"a catalogue is written to in threads: {url.drivername} is not")
    options: dict[str, Any] = {"connect_args": {"timeout": _WAIT}}
    if not url.database or url.database == ":memory:":
        # one connection: every connection of its own would be a database of its own
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    elif not url.database.startswith("file:"):
        url = url.set(database=str(Path(url.database).absolute()))  # the folder may be changed
    engine = create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        record.info["file"] = _identify(engine)
        connection.isolation_level = None  # transactions are begun below, DDL is part of them
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # a reader that turns writer would be refused at once if another process writes
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "checkout")
    def _check(_connection: Any, record: Any, _proxy: object) -> None:
        if record.info["file"] != _identify(engine):
            raise DisconnectionError("the file was deleted or replaced")

    return engine


def _identify(engine: Engine) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name, None for one in memory."""
    name = engine.url.database
    try:
        found = Path(name).stat() if name else None
    except OSError:
        found = None
    return None if found is None else (found.st_dev, found.st_ino)


def _postgres(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(int(_WAIT))})
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError:
        raise MissingExtraError("postgres", "a catalogue in PostgreSQL") from None
