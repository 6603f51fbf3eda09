"""Statement options: which statements are answered from a region."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Query, QueryableAttribute, Session
from sqlalchemy.orm.interfaces import UserDefinedOption

from everfresh.engine.reading import OPTION
from everfresh.errors import ConfigurationError
from everfresh.orm.instances import own_listeners
from everfresh.orm.regions import attached, reading_in, region_of, regions

__all__ = ["FromCache", "RelationshipCache"]

_listening = Lock()
_heard = False


class FromCache(UserDefinedOption):
    """Specify that a statement should load its results from a cache.

    ``region`` is a label in `everfresh.orm.regions` (or in those of the `CachingQuery` or model it
    is used with). ``cache_key`` names the answer, for ``flush`` and for the region's own key; the
    statement and its parameters are always part of what is looked up.

    >>> from sqlalchemy import select, text
    >>> FromCache("default", "my cache").cache_key
    'my cache'
    """

    propagate_to_loaders = False

    def __init__(self, region: str = "default", cache_key: str | None = None) -> None:
        super().__init__(self)
        self.region = region
        self.cache_key = cache_key
        self.regions: Mapping[str, Any] | None = regions
        _listen()

    def process_query(self, query: Query[Any]) -> None:
        """Process a Query during normal loading operation."""
        named: Any = query
        named._cache_region = self  # noqa: SLF001 - the document's name for it

    def among(self, found: Mapping[str, Any] | None) -> FromCache:
        """Return this option for regions of one's own, unless it has some already."""
        if self.regions is not regions or found is regions:
            return self
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.payload = made
        made.regions = found
        return made

    def matches(self, state: ORMExecuteState) -> bool:
        """Whether this option speaks of the statement that is being executed."""
        return not state.is_relationship_load and not state.is_column_load

    def apply(self, state: ORMExecuteState) -> None:
        """Let the statement be answered from the region."""
        region = region_of(self.regions, self.region)
        bind = state.session.get_bind(**state.bind_arguments)
        attached(bind, region)
        if not isinstance(state.execution_options.get(OPTION), (type(None), bool)):
            return  # somebody asks for something of this very execution
        reading = reading_in(self.regions, self.region, self.cache_key or "")
        state.update_execution_options(**{OPTION: reading})


class RelationshipCache(FromCache):
    """Specify that the lazy loads of one relationship should come from a cache.

    ``attribute`` is a relationship such as ``User.addresses``; the rest is as in `FromCache`.
    """

    propagate_to_loaders = True

    def __init__(
        self,
        attribute: QueryableAttribute[Any],
        region: str = "default",
        cache_key: str | None = None,
    ) -> None:
        found = getattr(attribute, "property", None)
        if found is None or not hasattr(found, "mapper"):
            raise ConfigurationError(
                f"RelationshipCache takes a relationship such as User.addresses, not {attribute!r}"
            )
        super().__init__(region, cache_key)
        self.attribute = attribute
        self._key = found.key
        self._class = found.parent.class_

    def process_query(self, query: Query[Any]) -> None:
        """Leave the Query itself alone."""

    def matches(self, state: ORMExecuteState) -> bool:
        """Whether a lazy load of this relationship is being executed."""
        path: Any = state.loader_strategy_path if state.is_relationship_load else None
        if path is None:
            return False
        mapper, attribute = path[-2], path[-1]
        owner: Any = getattr(mapper, "mapper", mapper)
        return attribute.key == self._key and issubclass(owner.class_, self._class)


def _listen() -> None:
    """Hear what sessions execute, from the first option on: nobody else pays for it."""
    global _heard
    with _listening:
        if not _heard:
            own_listeners.add(_on_execute)
            event.listen(Session, "do_orm_execute", _on_execute)
            _heard = True


def _on_execute(state: ORMExecuteState) -> None:
    if not state.is_select:
        return
    for option in state.user_defined_options:
        if isinstance(option, FromCache) and option.matches(state):
            option.apply(state)
