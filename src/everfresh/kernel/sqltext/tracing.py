"""Trace the rows of a SELECT back to the rows of the table they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from everfresh.kernel.predicate import ABSENT, TRUE, And, Condition, Row
from everfresh.kernel.schema import Schema
from everfresh.kernel.sqltext.blocks import Walker
from everfresh.kernel.sqltext.conditions import Translator
from everfresh.kernel.sqltext.grammar import Misunderstood, argument, parse
from everfresh.kernel.sqltext.outputs import plain

__all__ = ["Trace", "trace"]


_ALWAYS = And(())


@dataclass(frozen=True, slots=True)
class Trace:
    """Say what the columns of a SELECT are.

    ``columns`` are the output columns in order, each with the table and the column it is taken
    from, or None for what is computed. With ``rowwise`` every output row is one row of the only
    table there is, if that row passes ``condition``. A change of one row of a table that is in
    ``once`` alters only output rows that are made of that row: there is nothing like a LIMIT, an
    aggregate or a window, and the table is mentioned once. ``roots`` are those of them that no
    outer join supplies NULLs for: an output row is there only while their row is.
    """

    columns: tuple[tuple[str, tuple[str, str] | None], ...]
    rowwise: bool = False
    condition: Condition = _ALWAYS
    once: frozenset[str] = frozenset()
    roots: frozenset[str] = frozenset()

    def origin(self, column: str) -> tuple[str, str] | None:
        """Return the table and column that one output column is taken from, if it is one."""
        found = [origin for name, origin in self.columns if name == column]
        return found[0] if len(found) == 1 else None

    def passes(self, image: Row) -> bool | None:
        """Whether a row of the table is in the answer; None if that cannot be told."""
        values = self.condition.test(image)
        return None if values & TRUE and values != TRUE else bool(values & TRUE)

    def row(self, image: Mapping[str, object]) -> tuple[object, ...] | None:
        """Return the output row made of a row of the table, None if some of it is not known."""
        if not self.rowwise:
            return None
        values = tuple(
            image.get(origin[1], ABSENT) if origin else ABSENT for _, origin in self.columns
        )
        return None if any(value is ABSENT for value in values) else values


def trace(statement: str, schema: Schema) -> Trace | None:
    """Return what the columns of a SELECT without parameters are, None if that is not certain.

    >>> from everfresh.kernel.schema import Column, Table
    >>> class One:
    ...     dialect = "sqlite"
    ...     def table(self, schema, name):
    ...         return Table("main.t", columns=(Column("a", "INT"), Column("b")))
    ...     def volatile_function(self, name):
    ...         return None
    >>> found = trace("SELECT b AS x, a + 1 AS y FROM t WHERE a > 3", One())
    >>> found.columns, found.rowwise, found.passes({"a": 2})
    ((('x', ('main.t', 'b')), ('y', None)), False, False)
    """
    try:
        return _trace(statement, schema)
    except (Misunderstood, RecursionError):
        return None


def _trace(statement: str, schema: Schema) -> Trace | None:
    trees = parse(statement, schema.dialect)
    if len(trees) != 1:
        return None
    walker = Walker(schema)
    walker.walk(trees[0])
    if walker.output is None:
        return None
    columns = tuple(
        (name, None if target is None else (target[0].table.name, target[1].name))
        for name, target in walker.output
    )
    mentioned = Counter(occurrence.table.name for occurrence in walker.occurrences)
    once = frozenset(name for name, times in mentioned.items() if times == 1)
    once = once if _by_row(trees[0]) else frozenset()
    if len(walker.occurrences) != 1 or not plain(trees[0]):
        return Trace(columns, once=once, roots=_preserved(trees[0], once))
    (only,) = walker.occurrences
    parts = tuple(Translator(only, one.scope).condition(one.condition) for one in only.filters)
    direct = all(target is not None and target[0] is only for _, target in walker.output)
    return Trace(columns, direct, And(parts).bind({}), once, once)


def _by_row(tree: Any) -> bool:
    """Whether no row of a SELECT is there, or is what it is, because of other rows."""
    shaping = ("group", "having", "distinct", "limit", "offset", "windows", "qualify", "with")
    if not isinstance(tree, exp.Select) or any(argument(tree, name) for name in shaping):
        return False
    joins = tree.args.get("joins") or ()
    if any((join.args.get("side") or "").upper() in ("RIGHT", "FULL") for join in joins):
        return False
    unsure = (exp.AggFunc, exp.Window, exp.Anonymous, exp.Query)
    parts = [*tree.expressions, argument(tree, "from"), *joins]
    return not any(
        isinstance(node, unsure) for part in parts if part is not None for node in part.walk()
    )


def _preserved(tree: Any, once: frozenset[str]) -> frozenset[str]:
    """Return the tables that are not on the right of a LEFT JOIN."""
    supplied = {
        node.name.lower()
        for join in tree.args.get("joins") or ()
        if join.args.get("side")
        for node in join.this.find_all(exp.Table)
    }
    return frozenset(name for name in once if name.rpartition(".")[2].lower() not in supplied)
