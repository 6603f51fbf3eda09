"""Rows straight into instance state: the one place that knows SQLAlchemy's private interfaces.

What `sqlalchemy.orm.loading` does for a row of a plain mapper is done here without a Query: an
instance is made by its class manager, gets its attributes and its identity, and is put into the
session's identity map. Mappers and sessions for which more would happen (events, eager loading,
inheritance, criteria) are not `plain`, and go through SQLAlchemy's own loading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.orm import ColumnProperty, Mapper, Session
from sqlalchemy.orm.attributes import set_committed_value

__all__ = [
    "Layout",
    "begin",
    "bind_of",
    "connections_of",
    "is_plain_session",
    "own_listeners",
    "untouched",
]

own_listeners: set[Any] = set()
"""Listeners of ours for ``do_orm_execute``, which leave alone what does not concern them."""
_BINDS = "binds" if hasattr(Session(), "binds") else "_Session__binds"  # 2.1 and 2.0
_state_of = attrgetter("_sa_instance_state")
_LAZY = frozenset({"select", "raise", "raise_on_sql", "noload", "dynamic", "write_only", True})


class Layout:
    """Know how the rows of one mapper become its instances; `objection` says why they cannot.

    ``columns`` are what has to be selected, in the order of ``keys``, the names of the attributes.
    """

    def __init__(self, mapper: Mapper[Any]) -> None:
        self.mapper = mapper
        self.objection = _objection(mapper)
        loaded = [p for p in mapper.column_attrs if not p.deferred and _column(p) is not None]
        self.keys: tuple[str, ...] = tuple(p.key for p in loaded)
        self.columns: tuple[Any, ...] = tuple(p.columns[0] for p in loaded)
        places = [self.columns.index(c) for c in mapper.primary_key if c in self.columns]
        if len(places) != len(mapper.primary_key):
            self.objection = self.objection or "its primary key is not loaded"
        else:
            self.pk_of = _getter(places)
        self._manager = mapper.class_manager
        self._class = mapper.class_

    def key(self, pk: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], None]:
        """Return the identity key of a primary key."""
        return (self._class, pk, None)

    def find(self, session: Session, pk: tuple[Any, ...]) -> Any:
        """Return the session's own object with this primary key, if it is there and loaded."""
        state = session.identity_map._dict.get((self._class, pk, None))
        if state is None or state.expired or state.expired_attributes or state._deleted:
            return None
        return state.obj()

    def load(
        self, session: Session, rows: Iterable[Sequence[Any]], mutable: Sequence[int] = ()
    ) -> list[Any]:
        """Return session objects for these rows; those that are there already stay as they are.

        Their expired attributes are set, as the query would do. ``mutable`` are the positions of
        cells to be copied for each object.
        """
        identities: Any = session.identity_map
        states, add = identities._dict, identities._add_unpresent
        keys, pk_of, cls, sid = self.keys, self.pk_of, self._class, session.hash_key
        new_instance = self._manager.new_instance
        found = []
        for row in rows:
            cells = _copied(row, mutable) if mutable else row
            key = (cls, pk_of(row), None)
            state = states.get(key)
            instance = None if state is None else state.obj()
            if instance is None:
                instance = new_instance()
                instance.__dict__.update(zip(keys, cells, strict=True))
                state = _state_of(instance)
                state.key = key
                state.session_id = sid
                add(state, key)
            elif state.expired_attributes:
                self._complete(instance, state, cells)
            found.append(instance)
        return found

    def detached(self, row: Sequence[Any]) -> Any:
        """Return an object of no session."""
        instance = self._manager.new_instance()
        instance.__dict__.update(zip(self.keys, deepcopy(row), strict=True))
        _state_of(instance).key = (self._class, self.pk_of(row), None)
        return instance

    def _complete(self, instance: Any, state: Any, row: Sequence[Any]) -> None:
        for name, cell in zip(self.keys, row, strict=True):
            if name in state.expired_attributes:
                set_committed_value(instance, name, cell)


def _copied(row: Sequence[Any], mutable: Sequence[int]) -> list[Any]:
    cells = list(row)
    for n in mutable:
        cells[n] = deepcopy(cells[n])
    return cells


def _getter(places: list[int]) -> Any:
    if len(places) == 1:
        place = places[0]
        return lambda row: (row[place],)
    return itemgetter(*places)


def _column(attribute: ColumnProperty[Any]) -> Column[Any] | None:
    column = attribute.columns[0]
    return column if isinstance(column, Column) else None


def _objection(mapper: Mapper[Any]) -> str | None:
    if (
        mapper.inherits is not None
        or mapper.polymorphic_on is not None
        or len(set(mapper.self_and_descendants)) > 1
    ):
        return "it is part of an inheritance hierarchy"
    table = mapper.local_table
    if not isinstance(table, Table) or mapper.persist_selectable is not table:
        return "it is not mapped to a table"
    for attribute in mapper.column_attrs:
        if any(getattr(c, "table", None) is not table for c in attribute.columns):
            return f"{attribute.key} is not a column of its table"
    for relationship in mapper.relationships:
        if relationship.lazy not in _LAZY:
            return f"{relationship.key} is loaded eagerly"
    manager = mapper.class_manager
    if manager.dispatch.load or manager.dispatch.refresh:
        return "somebody listens to its load or refresh events"
    if "__slots__" in vars(mapper.class_):
        return "its class has slots"
    return None


def is_plain_session(session: Session) -> bool:
    """Whether nothing but loading would happen in this session when a row is loaded."""
    dispatch = session.dispatch
    if dispatch.loaded_as_persistent:
        return False
    heard = dispatch.do_orm_execute
    return not heard or all(listener in own_listeners for listener in heard)


def bind_of(session: Session, mapper: Mapper[Any]) -> Any:
    """Return the engine or connection that a mapper's statements run on in this session."""
    if type(session).get_bind is Session.get_bind and not getattr(session, _BINDS):
        return session.bind or session.get_bind(mapper)
    return session.get_bind(mapper)


def untouched(session: Session) -> bool:
    """Whether a query would have nothing to flush first, and the session deletes nothing."""
    return not (session._new or session._deleted or session.identity_map._modified)


def begin(session: Session) -> None:
    """Begin the session's transaction, as its first query would."""
    if session._transaction is None:
        session._autobegin_t()


def connections_of(session: Session) -> list[Any]:
    """Return the connections that take part in the session's open transaction.

    A nested transaction has those of the one around it, which it may not know yet.
    """
    transaction: Any = session._transaction
    while transaction is not None:
        if transaction._connections:
            return [pair[0] for pair in set(transaction._connections.values())]
        transaction = transaction._parent
    return []
