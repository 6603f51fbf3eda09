"""Walk the query blocks of a statement and find every occurrence of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from sqlglot import exp

from everfresh.kernel.schema import Schema, Table
from everfresh.kernel.sqltext.allowed import check
from everfresh.kernel.sqltext.grammar import Misunderstood, argument, identifier, parse
from everfresh.kernel.sqltext.outputs import output_of, plain, renamed
from everfresh.kernel.sqltext.relations import (
    Filter,
    Inlined,
    Joined,
    Leaf,
    Occurrence,
    Opaque,
    Output,
    Relation,
    Scope,
    Side,
    attach,
    conjuncts,
    items,
)

__all__ = ["Walker"]

_MAX_INLINED = 100  # occurrences; after these a CTE or view is walked once, not once per mention

_KINDS = {
    "temporary": "the table {name} is temporary",
    "system": "{name} belongs to the system catalogue",
    "virtual": "the virtual table {name} is not watched",
    "foreign": "the foreign table {name} is not watched",
}
_SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})


@dataclass(eq=False, slots=True)
class _Named:
    """Hold a CTE or a view: a query that is known by name."""

    query: Any
    env: _Env
    columns: list[str] | None = None
    walking: bool = False
    walked: bool = False
    output: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Env:
    """Hold what names mean in a query: CTEs, and the schema a SQLite view looks into."""

    ctes: dict[str, _Named]
    schema: str | None = None


class Walker:
    """Find the occurrences of tables in one statement; raises `Misunderstood`.

    ``trees`` holds the statement and the views it reads.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.dialect = schema.dialect
        self.occurrences: list[Occurrence] = []
        self.trees: list[Any] = []
        self.output: Output | None = None  # of the statement, where it is a SELECT
        self._views: dict[str, _Named] = {}

    def walk(self, tree: Any) -> None:
        """Walk the whole statement."""
        self._check(tree)
        if not isinstance(tree, exp.Select):
            self._query(tree, _Env({}))
            return
        relation, filters, self.output = self._select(tree, _Env({}))
        attach(relation, filters)

    def _check(self, tree: Any) -> None:
        check(tree, self.schema)
        self.trees.append(tree)

    # -- queries

    def _query(self, node: Any, env: _Env) -> list[str] | None:
        """Walk a query whose rows are not traced; return the names of its columns."""
        if isinstance(node, exp.Select):
            relation, filters, output = self._select(node, env)
            attach(relation, filters)
            return None if output is None else [name for name, _ in output]
        env, own = self._with(node, env)
        names: list[str] | None = None
        if isinstance(node, exp.SetOperation):
            names = self._query(node.this, env)
            self._query(node.expression, env)
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
            names = self._query(node.this, env)
        elif not isinstance(node, exp.Values):
            raise Misunderstood("only SELECT and VALUES are kept")
        skipped = (node.this, node.expression, argument(node, "with"))
        for part in _children(node):
            if not any(part is one for one in skipped) or isinstance(node, exp.Values):
                self._expressions(part, env)
        self._rest(own)
        return names

    def _select(self, node: Any, env: _Env) -> tuple[Relation | None, list[Filter], Output | None]:
        """Walk a SELECT; return its relation, its WHERE, and what its columns are."""
        env, own = self._with(node, env)
        scope = Scope(self.dialect)
        relation = self._from(node, env, scope)
        where = argument(node, "where")
        filters = [Filter(part, scope) for part in conjuncts(where and where.this)]
        for part in _children(node):
            if not isinstance(part, (exp.From, exp.Join, exp.With)):
                self._expressions(part, env)
        self._stars(node, scope)
        self._rest(own)
        return relation, filters, output_of(node, scope)

    def _stars(self, node: Any, scope: Scope) -> None:
        bare = any(isinstance(one, exp.Star) for one in node.expressions)
        if scope.natural or (bare and not isinstance(node.parent, exp.Exists)):
            for item in scope.items:
                if isinstance(item, Leaf):
                    item.occurrence.everything = True

    def _expressions(self, node: Any, env: _Env) -> None:
        """Walk the subqueries of an expression, each a block of its own."""
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if isinstance(one, exp.Query):
                self._query(one, env)
            elif isinstance(one, (exp.Table, exp.Lateral, exp.With)):
                raise Misunderstood("a table in an unusual place is not understood")
            else:
                waiting.extend(_children(one))

    # -- names of queries

    def _with(self, node: Any, env: _Env) -> tuple[_Env, list[_Named]]:
        clause = argument(node, "with")
        if clause is None:
            return env, []
        own: list[_Named] = []
        # SQLite takes RECURSIVE as read
        mutual = bool(clause.args.get("recursive")) or self.dialect == "sqlite"
        ctes = dict(env.ctes)
        result = _Env(ctes, env.schema)
        for cte in clause.expressions:
            name = identifier(cte.args["alias"].this, self.dialect)
            inside = result if mutual else _Env(dict(ctes), env.schema)
            ctes[name] = _Named(cte.this, inside, self._alias_columns(cte))
            own.append(ctes[name])
        return result, own

    def _rest(self, own: list[_Named]) -> None:
        for named in own:
            self._once(named)

    def _once(self, named: _Named) -> None:
        """Walk a named query if it was not yet; inside itself it is only a name."""
        if named.walked or named.walking:
            return
        named.walking = True
        named.output = self._query(named.query, named.env)
        named.walking, named.walked = False, True

    def _mention(self, named: _Named, alias: str) -> Relation:
        """Return the relation that a CTE, view or derived table stands for."""
        if named.walking:
            return Opaque(alias, named.columns)
        if not plain(named.query) or len(self.occurrences) > _MAX_INLINED:
            self._once(named)
            return Opaque(alias, named.columns or named.output)
        named.walking = True
        query = named.query
        while isinstance(query, exp.Subquery):
            query = query.this
        relation, filters, output = self._select(query, named.env)
        named.walking, named.walked = False, True
        return Inlined(alias, renamed(output, named.columns), relation, filters)

    def _view(self, table: Table) -> _Named:
        named = self._views.get(table.name)
        if named is None:
            trees = parse(table.definition or "", self.dialect)
            if len(trees) != 1:
                raise Misunderstood(f"the view {table.name} is not understood")
            self._check(trees[0])
            columns = [one.name for one in table.columns]
            if self.dialect == "sqlite":
                columns = [name.lower() for name in columns]
            home = table.name.partition(".")[0] if self.dialect == "sqlite" else None
            named = _Named(trees[0], _Env({}, home if home != "temp" else None), columns or None)
            self._views[table.name] = named
        if named.walking:
            raise Misunderstood(f"the view {table.name} is defined by itself")
        return named

    # -- FROM

    def _from(self, node: Any, env: _Env, scope: Scope) -> Relation | None:
        if node.args.get("laterals"):
            raise Misunderstood("LATERAL VIEW is not understood")
        clause = argument(node, "from")
        if clause is None:
            return None
        return self._joins(self._item(clause.this, env, scope), node, env, scope)

    def _joins(self, relation: Relation, node: Any, env: _Env, scope: Scope) -> Relation:
        for join in node.args.get("joins") or ():
            side = (join.args.get("side") or "").upper()
            kind = (join.args.get("kind") or "").upper()
            method = (join.args.get("method") or "").upper()
            known = kind in ("", "INNER", "CROSS", "OUTER") and method in ("", "NATURAL")
            if not known or side not in ("", "LEFT", "RIGHT", "FULL"):
                raise Misunderstood("a kind of join is not understood")
            right = self._item(join.this, env, scope)
            scope.natural = scope.natural or method == "NATURAL"
            scope.merged.update(
                identifier(one.this if isinstance(one, exp.Column) else one, self.dialect)
                for one in join.args.get("using") or ()
            )
            on = join.args.get("on")
            if on is not None:
                self._expressions(on, env)
            relation = Joined(relation, right, cast("Side", side), on, scope)
        return relation

    def _item(self, node: Any, env: _Env, scope: Scope) -> Relation:
        """Return the relation of one entry of FROM, with the joins nested in it."""
        if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Query):
            relation = self._parenthesised(node, env, scope)
        else:
            relation = self._single(node, env)
            scope.items.extend(items(relation))
        return self._joins(relation, node, env, scope)

    def _parenthesised(self, node: Any, env: _Env, scope: Scope) -> Relation:
        relation = self._item(node.this, env, scope)
        if node.args.get("alias"):
            # (a JOIN b) AS z: what is said of z is said of both
            for item in items(relation):
                if isinstance(item, Leaf):
                    item.occurrence.everything = True
                item.alias = ""
        return relation

    def _single(self, node: Any, env: _Env) -> Relation:
        alias = identifier(node.args["alias"].this, self.dialect) if node.args.get("alias") else ""
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return self._table(node, alias, env)
        columns = self._alias_columns(node)
        if isinstance(node, exp.Subquery):
            self._no_order(node, env)
            return self._mention(_Named(node.this, env, columns), alias)
        if isinstance(node, exp.Lateral) and isinstance(node.this, exp.Subquery):
            self._query(node.this, env)
        elif isinstance(node, (exp.Table, exp.Lateral, exp.Unnest, exp.Values)):
            for part in _children(node):
                self._expressions(part, env)
        else:
            raise Misunderstood(f"{type(node).__name__} in FROM is not understood")
        name = alias or (node.name.lower() if isinstance(node, exp.Table) else "")
        return Opaque(name, columns)

    def _no_order(self, node: Any, env: _Env) -> None:
        for name in ("limit", "offset", "order", "with"):
            if argument(node, name) is not None:
                raise Misunderstood("a clause after a subquery's parenthesis is not understood")

    def _alias_columns(self, node: Any) -> list[str] | None:
        alias = node.args.get("alias")
        columns = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
        if not columns:
            return None
        return [
            identifier(one.this if isinstance(one, exp.ColumnDef) else one, self.dialect)
            for one in columns
        ]

    def _table(self, node: Any, alias: str, env: _Env) -> Relation:
        name = identifier(node.this, self.dialect)
        owner = identifier(node.args.get("db"), self.dialect) or None
        if node.args.get("catalog"):
            raise Misunderstood("tables of another database are not watched")
        columns = self._alias_columns(node)
        if owner is None and name in env.ctes:
            return self._renamed_mention(env.ctes[name], alias or name, columns)
        table = self._found(owner or env.schema, name, owner)
        if table.kind == "view":
            return self._renamed_mention(self._view(table), alias or name, columns)
        occurrence = Occurrence(table, alias or name)
        occurrence.everything = bool(columns)
        self.occurrences.append(occurrence)
        return Leaf(alias or name, occurrence, self.dialect, renamed=bool(columns))

    def _renamed_mention(self, named: _Named, alias: str, columns: list[str] | None) -> Relation:
        relation = self._mention(named, alias)
        if columns and isinstance(relation, Inlined):
            relation.columns = renamed(relation.columns, columns)
        elif columns and isinstance(relation, Opaque):
            relation.columns = columns + (relation.columns or [])[len(columns) :]
        return relation

    def _found(self, place: str | None, name: str, owner: str | None) -> Table:
        shown = f"{owner}.{name}" if owner else name
        table = self.schema.table(place, name)
        system = owner in _SYSTEM_SCHEMAS or name.startswith(
            "sqlite_" if self.dialect == "sqlite" else "pg_"
        )
        if name.startswith("everfresh_") and self.dialect == "sqlite":
            raise Misunderstood(f"{shown} is everfresh's own bookkeeping")
        if system or (table is not None and table.kind == "system"):
            raise Misunderstood(_KINDS["system"].format(name=shown))
        if table is None:
            raise Misunderstood(f"there is no table {shown}")
        if table.kind in _KINDS:
            raise Misunderstood(_KINDS[table.kind].format(name=shown))
        if table.row_security:
            raise Misunderstood("row-level security may answer each session differently")
        if table.kind == "view" and not table.definition:
            raise Misunderstood(f"the definition of the view {shown} is not known")
        return table


def _children(node: Any) -> Iterator[Any]:
    return iter(node.iter_expressions())
