"""Results somebody gave to a cache, as values that no session can change."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session, class_mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.exc import UnmappedClassError

__all__ = ["Frozen", "freeze", "thaw"]


class Frozen(tuple[Any, ...]):
    """Hold frozen results, in their order."""

    __slots__ = ()


class _Object:
    """Hold the loaded columns of one mapped object."""

    __slots__ = ("cells", "cls", "identity")

    def __init__(self, cls: type, identity: Any, cells: dict[str, Any]) -> None:
        self.cls, self.identity, self.cells = cls, identity, cells


class _Tuple(tuple[Any, ...]):
    __slots__ = ()


def freeze(results: Iterable[Any]) -> Frozen:
    """Return results as values: mapped objects by their loaded columns, the rest copied."""
    return Frozen(map(_freeze, results))


def thaw(frozen: Frozen, session: Session | None) -> list[Any]:
    """Return results as they were, in this session; without one as detached objects.

    An object that the session has already is given as it is there.
    """
    return [_thaw(item, session) for item in frozen]


def _freeze(item: Any) -> Any:
    if isinstance(item, (Row, tuple)):
        return _Tuple(map(_freeze, item))
    try:
        mapper = class_mapper(type(item))
    except UnmappedClassError:
        return deepcopy(item)
    state: Any = inspect(item)
    cells = {a.key: deepcopy(state.dict[a.key]) for a in mapper.column_attrs if a.key in state.dict}
    return _Object(type(item), state.key, cells)


def _thaw(item: Any, session: Session | None) -> Any:
    if isinstance(item, _Tuple):
        return tuple(_thaw(one, session) for one in item)
    if not isinstance(item, _Object):
        return deepcopy(item)
    there = (
        session.identity_map.get(item.identity) if session is not None and item.identity else None
    )
    if there is not None:
        return there
    made: Any = class_mapper(item.cls).class_manager.new_instance()
    for name, cell in item.cells.items():
        set_committed_value(made, name, deepcopy(cell))
    if item.identity is not None:
        make_transient_to_detached(made)
        _only_known(made, item.cells)
        if session is not None:
            session.add(made)
    return made


def _only_known(made: Any, cells: dict[str, Any]) -> None:
    """Put back what becoming detached has expired: columns are loaded, the rest is not."""
    for name, cell in cells.items():
        set_committed_value(made, name, deepcopy(cell))
