"""The tables of one query block, and which column belongs to which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlglot import exp

from everfresh.kernel.schema import Column, Table
from everfresh.kernel.sqltext.grammar import column_named, fold, identifier

__all__ = [
    "Filter",
    "Inlined",
    "Joined",
    "Leaf",
    "Occurrence",
    "Opaque",
    "Output",
    "Relation",
    "Scope",
    "Side",
    "Target",
    "attach",
    "conjuncts",
    "items",
]

Side = Literal["", "LEFT", "RIGHT", "FULL"]


@dataclass(eq=False, slots=True)
class Occurrence:
    """Gather what is known of one mention of a table."""

    table: Table
    alias: str
    filters: list[Filter] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    everything: bool = False  # the statement may read every column


Target = tuple[Occurrence, Column]
Output = list[tuple[str, Target | None]]
"""Output columns of a query in their order: name, and the table's column that it is, if any."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Hold a condition that judges rows, with the scope its names are looked up in.

    ``weak`` means that rows may reach it with NULLs supplied by an outer join.
    """

    condition: Any
    scope: Scope
    weak: bool = False


@dataclass(eq=False, slots=True)
class Leaf:
    """Mention a table."""

    alias: str
    occurrence: Occurrence
    dialect: str
    renamed: bool = False  # AS t(a, b): the names are not those of the table

    def target(self, name: str) -> Target | None:
        """Return the column of this name."""
        if self.renamed:
            return None
        column = column_named(self.occurrence.table, name, self.dialect)
        return None if column is None else (self.occurrence, column)

    def has(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return self.target(name) is not None

    def output(self) -> Output | None:
        """Return all columns in order, None if they are not known."""
        columns = self.occurrence.table.columns
        if self.renamed or not columns:
            return None
        return [(fold(one.name, self.dialect), (self.occurrence, one)) for one in columns]


@dataclass(eq=False, slots=True)
class Opaque:
    """Mention a query whose rows cannot be traced to rows of a table."""

    alias: str
    columns: list[str] | None

    def target(self, name: str) -> Target | None:
        """Return None: no column can be traced."""
        return None

    def has(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return self.columns is not None and name in self.columns

    def output(self) -> Output | None:
        """Return all columns in order, None if they are not known."""
        return None if self.columns is None else [(name, None) for name in self.columns]


@dataclass(eq=False, slots=True)
class Inlined:
    """Mention a plain SELECT, whose rows are rows of its own relation."""

    alias: str
    columns: Output | None
    relation: Relation | None
    filters: list[Filter]

    def target(self, name: str) -> Target | None:
        """Return the table's column behind an output column."""
        found = [target for one, target in self.columns or () if one == name]
        return found[0] if len(found) == 1 else None

    def has(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return any(one == name for one, _ in self.columns or ())

    def output(self) -> Output | None:
        """Return all columns in order, None if they are not known."""
        return self.columns


@dataclass(frozen=True, slots=True)
class Joined:
    """Join two relations."""

    left: Relation
    right: Relation
    side: Side
    on: Any
    scope: Scope


Item = Leaf | Opaque | Inlined
Relation = Item | Joined


@dataclass(eq=False, slots=True)
class Scope:
    """Look up the columns of one query block."""

    dialect: str
    items: list[Item] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)  # USING
    natural: bool = False

    def resolve(self, node: Any) -> Target | None:
        """Return the table's column that a name means; None if it is not certain."""
        if not isinstance(node.this, exp.Identifier) or node.args.get("db"):
            return None
        name = identifier(node.this, self.dialect)
        owner = identifier(node.args.get("table"), self.dialect)
        if owner:
            found = [item for item in self.items if item.alias == owner]
        elif self.natural or name in self.merged:
            return None
        else:
            found = [item for item in self.items if item.has(name)]
        return found[0].target(name) if len(found) == 1 else None

    def star(self, owner: str = "") -> Output | None:
        """Return what ``*`` or ``owner.*`` stands for, None if it is not known."""
        if self.natural or self.merged:
            return None
        output: Output = []
        for item in self.items:
            if owner and item.alias != owner:
                continue
            columns = item.output()
            if columns is None:
                return None
            output.extend(columns)
        return output


def items(relation: Relation | None) -> Iterator[Item]:
    """Yield the items of a relation from left to right."""
    waiting = [relation]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Joined):
            waiting += [one.right, one.left]
        elif one is not None:
            yield one


def conjuncts(condition: Any) -> Iterator[Any]:
    """Yield the parts of a condition that all must hold.

    >>> [part.sql() for part in conjuncts(exp.condition("a = 1 AND (b = 2 AND (c OR d))"))]
    ['a = 1', 'b = 2', '(c OR d)']
    """
    waiting = [condition]
    while waiting:
        node = waiting.pop()
        inner = node
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if isinstance(inner, exp.And):
            waiting += [inner.expression, inner.this]
        elif node is not None:
            yield node


def attach(relation: Relation | None, filters: list[Filter]) -> None:
    """Hand each table the conditions that its rows must pass to matter.

    A condition goes down a join unless the join could supply NULLs in place of the row it drops:
    then it is weak. An ON condition judges the rows of both sides of an inner join, and those of
    the null-supplied side of an outer one.
    """
    if isinstance(relation, Leaf):
        relation.occurrence.filters.extend(filters)
    elif isinstance(relation, Inlined):
        attach(relation.relation, filters + relation.filters)
    elif isinstance(relation, Joined):
        own = [Filter(part, relation.scope) for part in conjuncts(relation.on)]
        left = _weakened(filters) if relation.side in ("RIGHT", "FULL") else filters
        right = _weakened(filters) if relation.side in ("LEFT", "FULL") else filters
        attach(relation.left, left + own * (relation.side in ("", "RIGHT")))
        attach(relation.right, right + own * (relation.side in ("", "LEFT")))


def _weakened(filters: list[Filter]) -> list[Filter]:
    return [Filter(one.condition, one.scope, weak=True) for one in filters]
