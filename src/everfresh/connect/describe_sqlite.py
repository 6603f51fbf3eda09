"""Read the schema of a SQLite database and of what is attached to it."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError

from everfresh.connect.description import DatabaseSchema, ForeignKey, Query
from everfresh.kernel.schema import Column, Table, TableKind

__all__ = ["collations", "files", "is_virtual", "read", "version"]

_VIRTUAL = re.compile(r"\s*CREATE\s+VIRTUAL\s+TABLE\b.*?\bUSING\s+([\w\"`\[\]]+)", re.I | re.S)
_REPLACING = re.compile(r"ON\s+CONFLICT\s+REPLACE", re.I)
_VIEW = re.compile(
    r"\s*CREATE\s+(?:TEMP(?:ORARY)?\s+)?VIEW\s+.*?\bAS\b\s+(?=SELECT|WITH|VALUES|\()", re.I | re.S
)
_ACTS = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[(),]|[^\s(),'"`\[]+""",
    re.S,
)


@dataclass(slots=True)
class _Found:
    """Gather what is read, database by database."""

    tables: dict[str, Table] = field(default_factory=dict)
    keys: list[ForeignKey] = field(default_factory=list)
    triggering: set[str] = field(default_factory=set)
    replacing: set[str] = field(default_factory=set)
    modules: dict[str, str] = field(default_factory=dict)


def files(query: Query) -> list[tuple[str, str]]:
    """Return name and file of each database of the connection; "" for one in memory."""
    return [(str(row[1]).lower(), str(row[2] or "")) for row in query("PRAGMA database_list")]


def version(query: Query) -> tuple[int, ...]:
    """Return the schema versions of main, temp and what is attached."""
    names = [name for name, _ in files(query) if name != "temp"]
    return tuple(_schema_version(query, name) for name in [*names, "temp"])


def read(query: Query) -> DatabaseSchema:
    """Read the schema of main, temp and of every attached database."""
    stamp = version(query)
    databases = ["temp", *(name for name, _ in files(query) if name != "temp")]
    found = _Found()
    for database in databases:
        _read_database(query, database, found)
    return DatabaseSchema(
        dialect="sqlite",
        tables=found.tables,
        search=tuple(databases),
        foreign_keys=tuple(found.keys),
        triggering=frozenset(found.triggering),
        replacing=frozenset(found.replacing),
        modules=found.modules,
        stamp=stamp,
    )


def is_virtual(sql: str) -> bool:
    """Whether this text of sqlite_master made a virtual table."""
    return _VIRTUAL.match(sql) is not None


def _schema_version(query: Query, database: str) -> int:
    return int(query(f"PRAGMA {_quoted(database)}.schema_version")[0][0])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unquoted(name: str) -> str:
    quote = name[0]
    if quote == "[":
        return name[1:-1]
    return name[1:-1].replace(quote * 2, quote) if quote in "\"`'" else name


def _read_database(query: Query, database: str, found: _Found) -> None:
    master = f"{_quoted(database)}.sqlite_master"
    columns = _columns(query, master, database)
    for kind, name, on, sql in query(f"SELECT type, name, tbl_name, sql FROM {master}"):
        if kind in ("table", "view"):
            _add_table(found, database, str(name), sql or "", columns.get(str(name), []))
        elif kind == "trigger" and not str(name).startswith("everfresh_"):
            found.triggering.add(_trigger_target(database, str(on), sql or "", found))
    for name in ("sqlite_master", "sqlite_schema"):
        found.tables[f"{database}.{name}"] = Table(f"{database}.{name}", kind="system")
    _add_foreign_keys(query, master, database, found)


def _add_table(
    found: _Found, database: str, name: str, sql: str, columns: Sequence[Sequence[Any]]
) -> None:
    canonical = f"{database}.{name.lower()}"
    collated = collations(sql) if "collate" in sql.lower() else {}
    view, virtual = _VIEW.match(sql), _VIRTUAL.match(sql)
    found.tables[canonical] = Table(
        canonical,
        # names that differ in the case of letters beyond ASCII are two tables, and not told apart
        kind="system" if canonical in found.tables else _kind(database, name, sql, bool(virtual)),
        columns=tuple(
            Column(str(column), str(type_ or ""), collated.get(str(column).lower()))
            for column, type_, _ in columns
        ),
        definition=sql[view.end() :].strip() if view else None,
        primary_key=tuple(
            str(column) for column, _, pk in sorted(columns, key=lambda c: int(c[2])) if pk
        ),
    )
    if virtual:
        found.modules[canonical] = _unquoted(virtual[1]).lower()
    if _REPLACING.search(sql):
        found.replacing.add(canonical)


def _kind(database: str, name: str, sql: str, virtual: bool) -> TableKind:
    if name.lower().startswith("sqlite_"):
        return "system"
    if database == "temp":
        return "temporary"
    if virtual:
        return "virtual"
    return "view" if re.match(r"\s*CREATE\s+VIEW\b", sql, re.I) else "table"


def _columns(query: Query, master: str, database: str) -> dict[str, list[Sequence[Any]]]:
    """Return (name, type, place in the primary key) of the columns of each table and view.

    One broken view, or one virtual table whose module is not loaded, spoils a query over all:
    then they are asked one by one.
    """
    tables = "type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    gathered = _gather(query, master, database, tables)
    others = f"type IN ('table', 'view') AND NOT ({tables})"
    try:
        return gathered | _gather(query, master, database, others)
    except (DBAPIError, sqlite3.Error):
        for (name,) in query(f"SELECT name FROM {master} WHERE {others}"):
            literal = str(name).replace("'", "''")
            try:
                gathered |= _gather(query, master, database, f"name = '{literal}'")
            except (DBAPIError, sqlite3.Error):
                continue
        return gathered


def _gather(
    query: Query, master: str, database: str, condition: str
) -> dict[str, list[Sequence[Any]]]:
    literal = database.replace("'", "''")
    gathered: dict[str, list[Sequence[Any]]] = {}
    rows = query(
        f"SELECT m.name, x.name, x.type, x.pk FROM (SELECT name FROM {master} WHERE {condition}) m,"
        f" pragma_table_xinfo(m.name, '{literal}') x ORDER BY x.cid"
    )
    for table, *column in rows:
        gathered.setdefault(str(table), []).append(column)
    return gathered


def _trigger_target(database: str, on: str, sql: str, found: _Found) -> str:
    """Return the table a trigger is on; a TEMP trigger may be on a table of any database."""
    if database != "temp" or f"temp.{on.lower()}" in found.tables:
        return f"{database}.{on.lower()}"
    # Which database it names is not worth parsing: the name alone is matched, see `closure`.
    return f"*.{on.lower()}"


def _add_foreign_keys(query: Query, master: str, database: str, found: _Found) -> None:
    literal = database.replace("'", "''")
    rows = query(
        'SELECT m.name, f."table", f.on_update, f.on_delete FROM '
        f"(SELECT name FROM {master} WHERE type = 'table' AND sql LIKE '%REFERENCES%') m,"
        f" pragma_foreign_key_list(m.name, '{literal}') f"
    )
    for child, parent, on_update, on_delete in rows:
        acts = on_update in _ACTS or on_delete in _ACTS
        found.keys.append(
            ForeignKey(f"{database}.{child.lower()}", f"{database}.{parent.lower()}", acts)
        )


def collations(sql: str) -> dict[str, str]:
    """Return the collation each column of a CREATE TABLE declares, by lower-case column name.

    >>> collations('CREATE TABLE t (a TEXT COLLATE NOCASE, "b c" INT CHECK (a COLLATE RTRIM > 1))')
    {'a': 'nocase'}
    """
    result: dict[str, str] = {}
    for words in _definitions(sql):
        name = _unquoted(words[0]).lower()
        for word, following in itertools.pairwise(words):
            if word.upper() == "COLLATE":
                result[name] = _unquoted(following).lower()
    return result


def _definitions(sql: str) -> Iterator[list[str]]:
    """Yield the words of each column definition, without what stands in inner parentheses."""
    depth, words = 0, list[str]()
    for part in _TOKEN.findall(sql):
        if part.startswith(("--", "/*")):
            continue
        if part in "()":
            depth += 1 if part == "(" else -1
            if depth == 0:
                break
        elif depth == 1 and part == ",":
            if words:
                yield words
            words = []
        elif depth == 1:
            words.append(part)
    if words:
        yield words
