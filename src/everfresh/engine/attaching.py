"""From an engine to its cache, and to what answers on its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy.engine import Connection, Dialect, Engine

from everfresh.engine.executions import Executions

if TYPE_CHECKING:
    from everfresh.engine.cache import Cache

__all__ = ["cache_of", "executions_of", "ready_executions", "register"]

_NAME = "_everfresh_executions"  # a lookup that hits can afford

# engines made by execution_options() share the dialect, and what is wrapped is the dialect
_caches: WeakKeyDictionary[Dialect, ReferenceType[Cache]] = WeakKeyDictionary()


def register(cache: Cache) -> None:
    """Let a cache be found by its engine."""
    _caches[cache.engine.dialect] = ref(cache)


def cache_of(bind: Engine | Connection) -> Cache | None:
    """Return the open cache of an engine, None if it has none."""
    found = _caches.get(bind.dialect)
    cache = None if found is None else found()
    return None if cache is None or cache.board.closed else cache


def executions_of(cache: Cache) -> Executions:
    """Return what answers on the connections of a cache's engine, from now on if it is new."""
    cache.board.check_open()
    if cache.executions is None:
        cache.executions = Executions(cache.statements)
        cache.engine.dialect.__dict__[_NAME] = cache.executions
    return cache.executions


def ready_executions(bind: Engine | Connection) -> Executions | None:
    """Return what answers on an engine's connections already, None if nothing does."""
    found: Executions | None = bind.dialect.__dict__.get(_NAME)
    return None if found is None or found.board.closed else found
