"""Sources: the rows of one table that an answer depends on, before and after binding."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

from everfresh.kernel.affinity import ANY, Domain
from everfresh.kernel.change import Change
from everfresh.kernel.plan import Anchor, Source
from everfresh.kernel.predicate import ABSENT, TRUE, UNKNOWN, Always, And, Condition, Row

__all__ = ["RowSource", "RowSourceTemplate"]

_PLAIN = (bool, int, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class RowSourceTemplate:
    """Hold the condition under which rows of one occurrence of a table matter.

    ``named`` are the columns the statement reads of it, None for all; an UPDATE of others only
    changes nothing the statement could see.
    """

    table: str
    condition: Condition = Always(UNKNOWN)  # noqa: RUF009 - immutable
    named: frozenset[str] | None = None
    domains: Mapping[str, Domain] = field(default_factory=dict, compare=False, repr=False)
    primary_key: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def bind(self, parameters: Mapping[str, object]) -> Source:
        """Return the source with these parameter values put in."""
        condition = self.condition.bind(parameters)
        return RowSource(self.table, condition, self.named, self.domains, self._anchor(condition))

    def _anchor(self, condition: Condition) -> Anchor | None:
        anchors = condition.anchors()
        if not anchors:
            return None
        column = min(anchors, key=lambda name: (len(anchors[name]), name not in self.primary_key))
        domain = cast("Hashable", self.domains[column])
        return Anchor(column, tuple(anchors[column]), domain)


@dataclass(frozen=True, slots=True, eq=False)
class RowSource:
    """Depend on the rows of one table that meet a condition.

    Hashable by identity. ``str()`` gives the text that receipts show.
    """

    table: str
    condition: Condition
    named: frozenset[str] | None
    domains: Mapping[str, Domain]
    anchor: Anchor | None

    def touched_by(self, change: Change) -> bool:
        """Return whether the change could alter what is read: see PROTOCOL, "which rows"."""
        if change.table is None or change.whole_table:
            return change.table in (None, self.table)
        if change.table != self.table or self._passes_over(change):
            return False
        return self._reads(change.old) or self._reads(change.new)

    def normal(self, column: str, value: object) -> object:
        """Return the value's normal form by the column's SQL equality; `ANY` if it has none."""
        domain = self.domains.get(column)
        return ANY if domain is None else domain.normal(value)

    def _reads(self, row: Row | None) -> bool:
        return row is not None and bool(self.condition.test(row) & TRUE)

    def _passes_over(self, change: Change) -> bool:
        if self.named is None or change.old is None or change.new is None:
            return False
        old, new = change.old, change.new
        return all(_same(old.get(name, ABSENT), new.get(name, ABSENT)) for name in self.named)

    def __str__(self) -> str:
        parts = self.condition.parts if isinstance(self.condition, And) else (self.condition,)
        shown = str(And(tuple(parts)))
        return _shown(self.table) + ("" if shown == "…" else f" WHERE {shown}")


def _same(old: object, new: object) -> bool:
    if old is ABSENT or new is ABSENT or type(old) is not type(new) or old != new:
        return False
    # 0.0 and -0.0, 1.0 and 1.00, a time in two zones: equal, but read differently
    return type(old) in _PLAIN or (repr(old) == repr(new) and _shows_itself(old))


def _shows_itself(value: object) -> bool:
    return isinstance(value, (float, Decimal)) or type(value).__repr__ is not object.__repr__


def _shown(table: str) -> str:
    schema, _, name = table.rpartition(".")
    return name if schema in ("main", "public") else table
