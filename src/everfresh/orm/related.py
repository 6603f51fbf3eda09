"""What a relationship of one object leads to, from the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import (
    MANYTOONE,
    ONETOMANY,
    RelationshipProperty,
    Session,
    object_session,
    with_parent,
)

from everfresh.engine.reading import OPTION
from everfresh.errors import ConfigurationError

if TYPE_CHECKING:
    from everfresh.orm.model_cache import ModelCache

__all__ = ["related"]


def related(cache: ModelCache, instance: Any, name: str) -> Any:
    """Return the objects of a relationship, or the one object, as objects of the session.

    Relationships over one foreign key are lists and objects of the other model's cache; others,
    those with conditions or an order of their own, and those to a model without a cache, are
    statements of the ORM's that are kept as they are.
    """
    session = cache._session or object_session(instance)
    if session is None:
        raise ConfigurationError(
            f"this {type(instance).__name__} belongs to no session: load it again, or write "
            f"{type(instance).__name__}.cache.using(session)"
        )
    found: RelationshipProperty[Any] = inspect(type(instance)).relationships[name]
    theirs: Any = getattr(found.mapper.class_, "cache", None)
    simple = _simple(found)
    if simple is None or not hasattr(theirs, "using"):
        return _by_statement(cache, session, instance, found)
    mine, other = simple
    value = getattr(instance, mine)
    if value is None:
        return [] if found.uselist else None
    if found.direction is MANYTOONE and other == theirs.pk and not isinstance(value, tuple):
        return theirs.using(session).get(value)
    listed = theirs.using(session).all(**{other: value})
    if found.uselist:
        return listed
    return listed[0] if listed else None


def _simple(found: RelationshipProperty[Any]) -> tuple[str, str] | None:
    """Return the two attributes that a relationship compares, None if it does more than that."""
    plain = found.secondary is None and found.direction in (ONETOMANY, MANYTOONE)
    if not plain or found.order_by or len(found.local_remote_pairs or ()) != 1:
        return None
    local, remote = found.local_remote_pairs[0]
    if found.primaryjoin.compare(local == remote) or found.primaryjoin.compare(remote == local):
        try:
            mine = found.parent.get_property_by_column(local).key
            return mine, found.mapper.get_property_by_column(remote).key
        except Exception:
            return None
    return None


def _by_statement(
    cache: ModelCache, session: Session, instance: Any, found: RelationshipProperty[Any]
) -> Any:
    target = found.mapper.class_
    statement = select(target).where(with_parent(instance, found.class_attribute))
    if found.order_by:
        statement = statement.order_by(*found.order_by)
    cache._entities.attach(session)
    rows = session.scalars(statement, execution_options={OPTION: cache._reading("")}).unique().all()
    if found.uselist:
        return list(rows)
    return rows[0] if rows else None
