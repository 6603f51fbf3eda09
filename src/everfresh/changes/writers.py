"""Who hears the other writers of which database."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from everfresh.changes import sqlite_watch
from everfresh.changes.postgres_sources import OutboxSource, SlotSource
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.publisher import Publisher
from everfresh.changes.watching import Watch
from everfresh.errors import ConfigurationError

__all__ = ["watch"]


def watch(
    engine: Engine, publisher: Publisher, row_limit: int = 1000, *, slot: bool = False
) -> Watch | None:
    """Return a watch of the engine's database, None where nobody else can write to it.

    ``slot``: hear PostgreSQL through a replication slot. Raises `ConfigurationError` elsewhere.
    """
    if engine.dialect.name == "sqlite":
        if slot:
            raise ConfigurationError("only PostgreSQL has replication slots: leave feed= out")
        return sqlite_watch.watch(engine, publisher, row_limit)
    source = SlotSource() if slot else OutboxSource()
    return PostgresWatch(engine, publisher, row_limit=row_limit, source=source)
