"""Every SELECT of an engine's sessions and connections from memory, where that is proven."""

from __future__ import annotations

from functools import reduce
from typing import Any
from weakref import WeakSet

from sqlalchemy.engine import Engine
from sqlalchemy.orm import registry

from everfresh.engine.aio import AsyncCache
from everfresh.engine.attaching import executions_of
from everfresh.engine.cache import Cache
from everfresh.engine.executions import Executions
from everfresh.engine.reading import Reading
from everfresh.errors import ConfigurationError
from everfresh.settings import check_seconds

__all__ = ["install", "invalidate", "uninstall"]


def install(
    cache: Cache | AsyncCache,
    engine: Any = None,
    *,
    everything: bool = True,
    max_age: float | None = None,
    row_limit: int = 10_000,
) -> None:
    """Answer the SELECTs of an engine's sessions and connections from memory.

    Nothing in the application changes: sessions load their objects as ever, from rows that are
    kept until a commit changes them. ``engine`` must be the cache's own and may be left out.
    ``everything=False`` keeps only statements of models with ``__everfresh__``, and statements with
    the execution option ``everfresh=True``. ``max_age``: seconds that a kept answer may be old.
    ``row_limit``: answers of more rows are not kept.

    >>> import everfresh, sqlalchemy as sa
    >>> engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    >>> install(everfresh.open(engine), engine)
    """
    blocking = _blocking(cache, engine)
    check_seconds("max_age", max_age)
    if not isinstance(row_limit, int) or isinstance(row_limit, bool) or row_limit < 1:
        raise ConfigurationError(f"row_limit is a number of rows above 0, not {row_limit!r}")
    executions = executions_of(blocking)
    executions.default = Reading(enabled=everything, max_age=max_age)
    executions.row_limit = row_limit
    executions.reading_of = _Rules().reading_of
    executions.forget()


def uninstall(cache: Cache | AsyncCache) -> None:
    """Let every statement reach the database again, but what asks for the cache."""
    executions = _of(cache)
    executions.default = None
    executions.forget()


def invalidate(cache: Cache | AsyncCache, *tags: str) -> int:
    """Drop the answers of statements and models with these tags; return how many went."""
    return _of(cache).invalidate(*tags)


def _of(cache: Cache | AsyncCache) -> Executions:
    return executions_of(cache.blocking if isinstance(cache, AsyncCache) else cache)


def _blocking(cache: Any, engine: Any) -> Cache:
    blocking = cache.blocking if isinstance(cache, AsyncCache) else cache
    if not isinstance(blocking, Cache):
        raise ConfigurationError(
            f"install() takes a cache of everfresh.open(engine), not {type(cache).__name__}"
        )
    watched = getattr(engine, "sync_engine", engine)
    if engine is not None and not isinstance(watched, Engine):
        raise ConfigurationError(f"install() takes an engine, not {type(engine).__name__}")
    if watched is not None and watched.dialect is not blocking.engine.dialect:
        raise ConfigurationError(
            "this is another engine than the cache's: open the cache with everfresh.open(engine)"
        )
    return blocking


class _Rules:
    """Find the rules of models by their tables: ``__everfresh__`` is True, False or a Reading."""

    def __init__(self) -> None:
        self._registries: WeakSet[registry] = WeakSet()

    def reading_of(self, tables: frozenset[str], statement: Any) -> Reading | None:
        """Return the rule of a statement that reads these tables, None if no model has one."""
        for described in getattr(statement, "column_descriptions", ()):
            mapper = getattr(described.get("entity"), "__mapper__", None)
            if mapper is not None:
                self._registries.add(mapper.registry)
        rules = self._by_table()
        found = [rules.get(name.rpartition(".")[2].lower()) for name in tables]
        if not any(rule is not None for rule in found):
            return None
        return reduce(_both, (rule or Reading(enabled=None) for rule in found))

    def _by_table(self) -> dict[str, Reading]:
        rules = {}
        for known in tuple(self._registries):
            for mapper in known.mappers:
                rule = getattr(mapper.class_, "__everfresh__", None)
                for table in mapper.tables if rule is not None else ():
                    rules[str(getattr(table, "name", "")).lower()] = _reading(rule, mapper.class_)
        return rules


def _reading(rule: object, model: type) -> Reading:
    if isinstance(rule, Reading):
        return rule
    if isinstance(rule, bool):
        return Reading(enabled=rule)
    raise ConfigurationError(
        f"{model.__name__}.__everfresh__ is True, False or a Reading, not {rule!r}"
    )


def _both(one: Reading, other: Reading) -> Reading:
    """Return the rule for what reads both: off if one is off, on only if both are."""
    together = one.within(other)
    states = {one.enabled, other.enabled}
    enabled = False if False in states else (None if None in states else True)
    return Reading(enabled=enabled, max_age=together.max_age, tags=together.tags)
