"""Which tables a write may reach: through foreign keys, inheritance, and code of the user's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from everfresh.connect.description import DatabaseSchema

__all__ = ["reach", "shadows"]


def reach(
    schema: DatabaseSchema, names: Iterable[str], *, truncates: bool = False
) -> frozenset[str] | None:
    """Return every table that writing these may change, None if that cannot be told.

    Follows foreign keys that act on the child (any, for TRUNCATE … CASCADE), and inheritance and
    partitions both ways. A trigger, a rule, a volatile default or a view on the way may write
    anything.
    """
    edges = _edges(schema, truncates)
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        table = schema.tables.get(name)
        if table is None or table.kind == "view" or _runs_code(schema, name):
            return None
        seen.add(name)
        waiting.extend(edges.get(name, ()))
    return frozenset(seen)


def shadows(schema: DatabaseSchema, name: str) -> frozenset[str] | None:
    """Return a virtual table with the tables its module keeps it in, None for unknown modules."""
    if schema.modules.get(name) not in _MODULES:
        return None
    return frozenset(other for other in schema.tables if other.startswith(f"{name}_")) | {name}


_MODULES = frozenset({"fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"})


def _runs_code(schema: DatabaseSchema, name: str) -> bool:
    return name in schema.triggering or f"*.{name.partition('.')[2]}" in schema.triggering


def _edges(schema: DatabaseSchema, truncates: bool) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = defaultdict(set)
    for key in schema.foreign_keys:
        if key.acts or truncates:
            edges[key.parent].add(key.child)
    for parent, child in schema.kin:
        edges[parent].add(child)
        edges[child].add(parent)
    return edges
