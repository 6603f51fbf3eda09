"""SQLAlchemy models that read from memory and are never stale.

>>> import everfresh, sqlalchemy as sa
>>> from everfresh import orm
>>> engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
>>> orm.install(everfresh.open(engine), engine)  # from here on every SELECT may be a hit
"""

from __future__ import annotations

from everfresh.engine.reading import Asked, Questions, Reading, asked
from everfresh.orm.explaining import explain
from everfresh.orm.model_cache import CacheableMixin, ModelCache
from everfresh.orm.options import FromCache, RelationshipCache
from everfresh.orm.query import CachingQuery, query_callable
from everfresh.orm.regions import cache_config, md5_key_mangler, memoize, regions
from everfresh.orm.timing import ServerTimingMiddleware, server_timing
from everfresh.orm.transparent import install, invalidate, uninstall

Cache = ModelCache
"""The document's name for it."""

__all__ = [
    "Asked",
    "Cache",
    "CacheableMixin",
    "CachingQuery",
    "FromCache",
    "ModelCache",
    "Questions",
    "Reading",
    "RelationshipCache",
    "ServerTimingMiddleware",
    "asked",
    "cache_config",
    "explain",
    "install",
    "invalidate",
    "md5_key_mangler",
    "memoize",
    "query_callable",
    "regions",
    "server_timing",
    "uninstall",
]
