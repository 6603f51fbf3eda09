"""Who hears the other writers of which database."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from everfresh.changes import sqlite_watch
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.publisher import Publisher
from everfresh.changes.watching import Watch

__all__ = ["watch"]


def watch(engine: Engine, publisher: Publisher, row_limit: int = 1000) -> Watch | None:
    """Return a watch of the engine's database, None where nobody else can write to it."""
    if engine.dialect.name == "sqlite":
        return sqlite_watch.watch(engine, publisher, row_limit)
    return PostgresWatch(engine, publisher, row_limit=row_limit)
