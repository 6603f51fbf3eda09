"""Sources: the rows of one table that an answer depends on, before and after binding."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

from everfresh.kernel.affinity import ANY, Domain, Rank
from everfresh.kernel.change import Change
from everfresh.kernel.interval import EVERYTHING, NOWHERE, Interval
from everfresh.kernel.plan import Anchor, Source
from everfresh.kernel.predicate import ABSENT, TRUE, UNKNOWN, Always, And, Condition, Row
from everfresh.kernel.predicate_columns import Ordered

__all__ = ["Band", "RowSource", "RowSourceTemplate"]

_PLAIN = (bool, int, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Band:
    """Name the interval of one column that a row must lie in to matter: ``day >= 6``.

    The change index uses it for sources without an `Anchor`.
    """

    column: str
    domain: Domain
    interval: Interval

    def rank(self, row: Row) -> Rank | None:
        """Return where a row lies in the column's order, None if that is not known.

        NULL lies nowhere: no comparison with it holds.
        """
        value = row.get(self.column, ABSENT)
        normal = ANY if value is ABSENT else self.domain.normal(value)
        if normal is None:
            return NOWHERE
        return None if normal is ANY else self.domain.rank(normal)


def _band(condition: Condition) -> Band | None:
    """Return the narrowest interval among the parts that all must hold."""
    found: dict[tuple[str, Domain], Interval] = {}
    waiting = [condition]
    while waiting:
        part = waiting.pop()
        if isinstance(part, And):
            waiting.extend(part.parts)
        elif isinstance(part, Ordered) and (interval := part.interval()) is not None:
            place = (part.column, part.domain)
            found[place] = found.get(place, EVERYTHING).meet(interval)
    if not found:
        return None
    (column, domain), interval = max(found.items(), key=lambda one: one[1].ends)
    return Band(column, domain, interval)


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
        anchor = self._anchor(condition)
        band = None if anchor else _band(condition)
        return RowSource(self.table, condition, self.named, self.domains, anchor, band)

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
    band: Band | None = None

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
