"""From a URL to a cache."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import URL, Engine

from everfresh.connect.engines import make_engine
from everfresh.engine.cache import Cache
from everfresh.settings import Settings

__all__ = ["open"]


def open(database: str | URL | Engine, **settings: Any) -> Cache:  # noqa: A001 - everfresh.open
    """Open a cache for a database.

    ``database`` is a URL (``"sqlite:///flights.db"``, ``"postgresql://user@host/name"``) or a
    SQLAlchemy engine of your own; ``settings`` are the fields of `everfresh.Settings`. Raises
    `UnknownURLError`, `DatabaseNotFoundError`, `MissingExtraError` or `ConfigurationError`.

    >>> cache = open("sqlite://", max_bytes=10_000_000)
    >>> cache.sql("SELECT 1 AS one")[0].one
    1
    """
    chosen = Settings(**settings)
    engine, owned = make_engine(database)
    return Cache(engine, chosen, owned=owned)
