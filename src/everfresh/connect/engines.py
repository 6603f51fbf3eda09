"""From a URL to a SQLAlchemy engine, with errors that say what to do."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from everfresh.errors import (
    ConfigurationError,
    DatabaseNotFoundError,
    MissingExtraError,
    UnknownURLError,
)

__all__ = ["DIALECTS", "make_engine"]

_made: weakref.WeakSet[Engine] = weakref.WeakSet()
_inherited: list[object] = []  # a parent's pools: closing their connections would harm the parent

DIALECTS = ("sqlite", "postgresql")
_EXTRAS = {"psycopg": "postgres", "asyncpg": "asyncpg", "aiosqlite": "aiosqlite"}  # by module


def make_engine(database: object) -> tuple[Engine, bool]:
    """Return an engine for a URL, or the engine given, and whether it was made here.

    Raises `UnknownURLError` for a database everfresh cannot prove freshness on,
    `DatabaseNotFoundError` for a SQLite file that does not exist and `MissingExtraError` when the
    driver is not installed.
    """
    watched = getattr(database, "sync_engine", database)  # an AsyncEngine has one
    if isinstance(watched, Engine):
        return _check_dialect(watched), False
    url = _parse(database)
    made = _sqlite_engine(url) if url.get_backend_name() == "sqlite" else _postgres_engine(url)
    _made.add(made)
    return made, True


def _parse(database: object) -> URL:
    if not isinstance(database, (str, URL)):
        raise ConfigurationError(
            f"open() takes a URL or a SQLAlchemy engine, not {type(database).__name__}"
        )
    try:
        url = make_url(database)
    except ArgumentError:
        raise UnknownURLError(
            "this is not a database URL: write it like sqlite:///file.db or "
            "postgresql://user@host/name"
        ) from None
    if url.get_backend_name() not in DIALECTS:
        raise UnknownURLError(
            f"everfresh cannot follow changes of {url.get_backend_name()!r} databases: use one of "
            f"{', '.join(name + '://' for name in DIALECTS)}"
        )
    return url


def _sqlite_engine(url: URL) -> Engine:
    name = url.database or ""
    if name in ("", ":memory:"):
        # one connection: every connection of its own would be a database of its own
        return _create(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    if not name.startswith("file:") and not Path(name).exists():
        raise DatabaseNotFoundError(
            f"there is no SQLite file {name!r} (looked from {Path.cwd()}): check the path, or "
            f"create the database first"
        )
    return _create(url)


def _postgres_engine(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return _create(url)


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, **options)
    except NoSuchModuleError as error:
        raise UnknownURLError(f"no driver for {url.drivername!r}: {error}") from None
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in _EXTRAS:
            raise MissingExtraError(_EXTRAS[module], f"{url.drivername}://") from error
        raise ConfigurationError(
            f"the driver {error.name!r} is not installed: install it with pip, or use "
            f"postgresql:// for psycopg"
        ) from error


def _check_dialect(engine: Engine) -> Engine:
    if engine.dialect.name not in DIALECTS:
        raise UnknownURLError(
            f"everfresh cannot follow changes of {engine.dialect.name!r} databases: use one of "
            f"{', '.join(DIALECTS)}"
        )
    if isinstance(engine.pool, SingletonThreadPool):
        raise ConfigurationError(
            "this in-memory database is another one in every thread: make its engine with "
            "poolclass=sqlalchemy.pool.StaticPool"
        )
    return engine


def _after_fork() -> None:
    for engine in list(_made):
        if not isinstance(engine.pool, StaticPool):
            _inherited.append(engine.pool)
            engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
