"""Trace the rows of a SELECT back to the rows of the table they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from everfresh.kernel.predicate import ABSENT, TRUE, And, Condition, Row
from everfresh.kernel.schema import Schema
from everfresh.kernel.sqltext.blocks import Walker
from everfresh.kernel.sqltext.conditions import Translator
from everfresh.kernel.sqltext.grammar import Misunderstood, parse
from everfresh.kernel.sqltext.outputs import plain

__all__ = ["Trace", "trace"]


_ALWAYS = And(())


@dataclass(frozen=True, slots=True)
class Trace:
    """Say what the columns of a SELECT are.

    ``columns`` are the output columns in order, each with the table and the column it is taken
    from, or None for what is computed. With ``rowwise`` every output row is one row of the only
    table there is, if that row passes ``condition``.
    """

    columns: tuple[tuple[str, tuple[str, str] | None], ...]
    rowwise: bool = False
    condition: Condition = _ALWAYS

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
    if len(walker.occurrences) != 1 or not plain(trees[0]):
        return Trace(columns)
    (only,) = walker.occurrences
    parts = tuple(Translator(only, one.scope).condition(one.condition) for one in only.filters)
    direct = all(target is not None and target[0] is only for _, target in walker.output)
    return Trace(columns, rowwise=direct, condition=And(parts).bind({}))
