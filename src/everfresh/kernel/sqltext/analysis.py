"""Find the sources of a SELECT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlglot import exp

from everfresh.kernel.affinity import Domain
from everfresh.kernel.plan import Plan
from everfresh.kernel.predicate import UNKNOWN, Always, And, Condition, NullRejecting
from everfresh.kernel.predicate_source import RowSourceTemplate
from everfresh.kernel.schema import Schema
from everfresh.kernel.sqltext.allowed import clock_parameters
from everfresh.kernel.sqltext.blocks import Walker
from everfresh.kernel.sqltext.comparison import column_domain
from everfresh.kernel.sqltext.conditions import Translator
from everfresh.kernel.sqltext.grammar import (
    Misunderstood,
    column_named,
    identifier,
    parse,
)
from everfresh.kernel.sqltext.relations import Occurrence

__all__ = ["analyse"]

_ROW_IDENTITY: Final = frozenset(
    {"rowid", "oid", "_rowid_", "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
)


def analyse(statement: str, schema: Schema) -> Plan:
    """Return the sources of one SELECT, or why its answers are not kept. Never raises.

    ``statement`` is written as for SQLAlchemy's ``text()``: parameters are ``:name``. Takes about
    a millisecond: keep the plan by the text.
    """
    try:
        return _plan(statement, schema)
    except Misunderstood as reason:
        return Plan(refusal=str(reason))
    except RecursionError:
        return Plan(refusal="the statement is nested too deeply")
    except Exception as error:  # noqa: BLE001, RUF100 - an answer not kept is never wrong
        return Plan(refusal=f"the statement was not understood ({type(error).__name__})")


def _plan(statement: str, schema: Schema) -> Plan:
    trees = parse(statement, schema.dialect)
    if len(trees) != 1:
        raise Misunderstood(
            "there is no statement" if not trees else "there are several statements"
        )
    tree = trees[0]
    if not isinstance(tree, (exp.Query, exp.Values)):
        raise Misunderstood("only SELECT and VALUES are kept")
    walker = Walker(schema)
    walker.walk(tree)
    for one in walker.trees:
        _name_columns(one, walker.occurrences, schema.dialect)
    sources = [_template(occurrence, schema.dialect) for occurrence in walker.occurrences]
    clocks = dict.fromkeys(clock_parameters(tree, schema.dialect))
    return Plan(tuple(_distinct(sources)), clock_parameters=tuple(clocks))


def _template(occurrence: Occurrence, dialect: str) -> RowSourceTemplate:
    parts: list[Condition] = []
    for one in occurrence.filters:
        part = Translator(occurrence, one.scope).condition(one.condition)
        if part != Always(UNKNOWN):
            parts.append(NullRejecting(part) if one.weak else part)
    table = occurrence.table
    domains: dict[str, Domain] = {}
    for column in table.columns:
        domain = column_domain(column, dialect)
        if domain is not None:
            domains[column.name] = domain
    all_read = occurrence.everything or not table.columns
    return RowSourceTemplate(
        table.name,
        And(tuple(parts)) if parts else Always(UNKNOWN),
        None if all_read else frozenset(occurrence.named),
        domains,
        table.primary_key,
    )


def _distinct(sources: list[RowSourceTemplate]) -> Iterator[RowSourceTemplate]:
    """Leave out what says no more than another: a table read whole is one source."""
    whole = {one.table for one in sources if one.named is None and one.condition == Always(UNKNOWN)}
    for source in dict.fromkeys(sources):
        if source.table not in whole or source == RowSourceTemplate(source.table):
            yield source


# -- which columns are named: rather one too many


def _name_columns(tree: Any, occurrences: list[Occurrence], dialect: str) -> None:
    for node in tree.find_all(exp.Column, exp.Join):
        if isinstance(node, exp.Join):
            for one in node.args.get("using") or ():
                inner = one.this if isinstance(one, exp.Column) else one
                _name(identifier(inner, dialect), "", occurrences, dialect)
        else:
            owner = identifier(node.args.get("table"), dialect)
            star = isinstance(node.this, exp.Star)
            _name("" if star else identifier(node.this, dialect), owner, occurrences, dialect)


def _name(name: str, owner: str, occurrences: list[Occurrence], dialect: str) -> None:
    """Note a column wherever it could belong; "" stands for all columns.

    A name may also be that of a table, meaning its whole row, or stand for the row's place.
    """
    for occurrence in occurrences:
        if owner and occurrence.alias != owner:
            continue
        column = column_named(occurrence.table, name, dialect)
        if column is not None:
            occurrence.named.add(column.name)
        elif owner or name in _ROW_IDENTITY:
            occurrence.everything = True
        if not owner and occurrence.alias == name:
            occurrence.everything = True
