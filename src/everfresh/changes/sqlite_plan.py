"""What one statement writes on SQLite, and what of it triggers will see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from everfresh.changes.closure import reach, shadows
from everfresh.changes.sqlite_shape import OWN
from everfresh.changes.statements import Statement
from everfresh.connect.description import DatabaseSchema

__all__ = ["SqlitePlan", "make_plan"]

Names = frozenset[str | None]
_ANYTHING: Names = frozenset([None])


@dataclass(frozen=True, slots=True)
class SqlitePlan:
    """Hold what one statement does under one schema; None among names means anything.

    ``reach`` is what it may write at most. ``tracked`` are the tables that must have triggers,
    ``coarse`` what triggers do not see. With ``replaces`` rows may go without triggers seeing
    it, unless recursive_triggers is on.
    """

    reach: Names
    tracked: frozenset[str] = frozenset()
    coarse: Names = frozenset()
    replaces: bool = False


def make_plan(schema: DatabaseSchema, statement: Statement) -> SqlitePlan:
    """Decide what to track for a statement."""
    effect = statement.effect
    if effect.kind != "write":
        return SqlitePlan(frozenset())
    if effect.tables is None:
        return _any_table(schema, replaces=True)
    found = [schema.table(database, name) for database, name in effect.tables]
    names = [table.name for table in found if table is not None]
    if len(names) < len(found):
        return SqlitePlan(_ANYTHING, coarse=_ANYTHING)
    special = [name for name in names if schema.tables[name].kind in ("virtual", "system")]
    reached = reach(schema, [name for name in names if name not in special])
    if reached is None:
        return _any_table(schema, replaces=effect.replaces or bool(schema.replacing))
    ordinary = _ordinary(schema)
    tracked = reached & ordinary
    untracked = [n for n in reached - ordinary if schema.tables[n].kind != "temporary"]
    coarse = _unseen(schema, [*special, *untracked])
    replaces = effect.replaces or bool(reached & schema.replacing)
    return SqlitePlan(tracked | coarse, tracked, coarse, replaces)


def _any_table(schema: DatabaseSchema, *, replaces: bool) -> SqlitePlan:
    """Watch every table, for what a trigger of the user's may write is not told."""
    unseen = _unseen(schema, schema.names(("virtual",)))
    return SqlitePlan(_ANYTHING, _ordinary(schema), unseen, replaces)


def _ordinary(schema: DatabaseSchema) -> frozenset[str]:
    """Return the tables that may have triggers of ours.

    Not our own bookkeeping. Not those that a virtual table keeps its rows in: FTS5 writes them
    from its savepoint method, a trigger that calls a function makes SQLite call that again, and
    the stack overflows.
    """
    virtual = tuple(f"{name}_" for name in schema.names(("virtual",)))
    return frozenset(
        name
        for name in schema.names(("table",))
        if not name.startswith(virtual) and not name.partition(".")[2].startswith(OWN)
    )


def _unseen(schema: DatabaseSchema, names: Iterable[str]) -> Names:
    """Return what has no triggers: system tables, virtual ones and where those keep their rows."""
    unseen: set[str | None] = set()
    for name in names:
        kept = shadows(schema, name) if schema.tables[name].kind == "virtual" else {name}
        unseen |= _ANYTHING if kept is None else kept
    return frozenset(unseen)
