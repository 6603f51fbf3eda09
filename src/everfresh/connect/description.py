"""What a database says of itself, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everfresh.kernel.schema import Table
from everfresh.kernel.sqltext.functions import VOLATILE

__all__ = ["DatabaseSchema", "ForeignKey", "Query"]

_TAME = frozenset(VOLATILE) - {"setval", "load_extension"}

Query = Callable[[str], Sequence[Sequence[Any]]]
"""Runs one statement without parameters, returns its rows."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Say that rows of ``child`` refer to rows of ``parent`` (canonical names).

    ``acts`` is set when a DELETE or UPDATE of the parent changes rows of the child: CASCADE,
    SET NULL, SET DEFAULT.
    """

    child: str
    parent: str
    acts: bool


@dataclass(frozen=True, eq=False)
class DatabaseSchema:
    """Hold the tables of one database as one session sees them; a `kernel.schema.Schema`.

    ``search`` lists the schemas an unqualified name is looked up in. A write to a table of
    ``triggering`` runs code of the user's (trigger, rule, volatile default) that may write
    anything. A write to a table of ``replacing`` may delete rows without triggers seeing it.
    ``kin`` are pairs (parent, child) of inheritance and partitioning. ``modules`` names the
    module of each virtual table.
    """

    dialect: str
    tables: Mapping[str, Table]
    search: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    kin: tuple[tuple[str, str], ...] = ()
    triggering: frozenset[str] = frozenset()
    replacing: frozenset[str] = frozenset()
    modules: Mapping[str, str] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)  # name → "i", "s" or "v"
    stamp: tuple[int, ...] = ()  # `version` when it was read; empty on PostgreSQL

    def table(self, schema: str | None, name: str) -> Table | None:
        """Return the table that this possibly unqualified name means, None if there is none."""
        if self.dialect == "sqlite":
            schema, name = schema and schema.lower(), name.lower()
        for place in (schema,) if schema else self.search:
            found = self.tables.get(f"{place}.{name}")
            if found is not None:
                return found
        return None

    def volatile_function(self, name: str) -> bool | None:
        """Whether a function the user defined may answer differently for the same arguments.

        True also for STABLE ones: they may read tables that their call does not name.
        """
        kind = self.functions.get(name.rpartition(".")[2])
        return None if kind is None else kind != "i"

    def writing_functions(self) -> frozenset[str]:
        """Return the names of the functions that may write: VOLATILE, and not known to be tame."""
        return frozenset(
            name.lower()
            for name, kind in self.functions.items()
            if kind == "v" and name not in _TAME
        )

    def names(self, kinds: Iterable[str]) -> frozenset[str]:
        """Return the canonical names of the tables of these kinds."""
        wanted = set(kinds)
        return frozenset(name for name, table in self.tables.items() if table.kind in wanted)
