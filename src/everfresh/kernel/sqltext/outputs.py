"""The columns of a query, and whether they can be traced to those of a table."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from everfresh.kernel.sqltext.grammar import argument, identifier
from everfresh.kernel.sqltext.relations import Output, Scope

__all__ = ["output_of", "plain", "renamed"]

_ROWWISE = (exp.Cast, exp.Case, exp.If, exp.And, exp.Or, exp.Array)


def plain(query: Any) -> bool:
    """Whether each row of a query is one row of its relation, and each of those passes WHERE."""
    while isinstance(query, exp.Subquery):
        if any(argument(query, name) for name in ("limit", "offset", "with", "joins")):
            return False
        query = query.this
    if not isinstance(query, exp.Select):
        return False
    shaping = ("group", "having", "distinct", "limit", "offset", "windows", "qualify")
    if any(argument(query, name) for name in shaping):
        return False
    return not any(
        isinstance(node, (exp.Func, exp.Window, exp.Query)) and not isinstance(node, _ROWWISE)
        for projection in query.expressions
        for node in projection.walk()
    )


def output_of(node: Any, scope: Scope) -> Output | None:
    """Return what the columns of a SELECT are, None if their number is not known."""
    output: Output = []
    for projection in node.expressions:
        inner = projection.this if isinstance(projection, exp.Alias) else projection
        star = isinstance(inner, exp.Star) or isinstance(inner.this, exp.Star)
        if star and isinstance(inner, (exp.Star, exp.Column)):
            owner = identifier(inner.args.get("table"), scope.dialect)
            columns = scope.star(owner)
            if columns is None:
                return None
            output.extend(columns)
            continue
        name = projection.args.get("alias") or inner.this
        target = scope.resolve(inner) if isinstance(inner, exp.Column) else None
        shown = identifier(name, scope.dialect) if isinstance(name, exp.Identifier) else ""
        output.append((shown, target))
    return output


def renamed(output: Output | None, names: list[str] | None) -> Output | None:
    """Give the first columns the names of an alias: ``AS t(a, b)``."""
    if not names:
        return output
    targets = [target for _, target in output or ()]
    if output is None or len(names) > len(targets):
        return [(name, None) for name in names]
    kept = [name for name, _ in output][len(names) :]
    return list(zip(names + kept, targets, strict=True))
