"""Parse SQL with sqlglot, keeping what it would normalise away: function names, unary plus."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlglot import TokenType, exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

from everfresh.kernel.schema import Column, Table
from everfresh.kernel.sqltext.bare import WORD, bare

__all__ = [
    "Misunderstood",
    "argument",
    "column_named",
    "fold",
    "function_name",
    "identifier",
    "parse",
]

_BIND_ESCAPE = re.compile(r"\\(:\w*)(?![:\w])")  # as SQLAlchemy's text() undoes it


class Misunderstood(ValueError):  # noqa: N818 - says what it is; never leaves this package
    """Say why a statement's answers are not kept, in words for the user."""


def _unary_plus(parser: Any) -> exp.Expression:
    # SQLite's +column has no affinity: not the same as the column
    return exp.Anonymous(this="+", expressions=[parser._parse_unary()])  # noqa: SLF001


def _grammar(dialect: Any, **tables: Any) -> Any:
    """Return a dialect whose parser leaves the names of functions as they are written."""
    parser = type("Parser", (dialect.Parser,), {"FUNCTIONS": {}, **tables})
    return type(f"_{dialect.__name__}Grammar", (dialect,), {"Parser": parser})


_UNARY: Final = {**SQLite.Parser.UNARY_PARSERS, TokenType.PLUS: _unary_plus}
_GRAMMARS: Final = {
    "sqlite": _grammar(SQLite, UNARY_PARSERS=_UNARY),
    "postgresql": _grammar(Postgres),
}


def parse(statement: str, dialect: str) -> list[Any]:
    """Return the trees of the statements in a text; raises `Misunderstood`."""
    grammar = _GRAMMARS.get(dialect)
    if grammar is None:
        raise Misunderstood(f"the SQL of {dialect} is not understood")
    if "\0" in statement:
        raise Misunderstood("the statement holds a NUL character")
    _check_start(statement)
    try:
        trees = grammar().parse(_BIND_ESCAPE.sub(r"\1", statement))
    except (SqlglotError, RecursionError) as error:
        raise Misunderstood("the statement could not be parsed") from error
    except Exception as error:  # sqlglot promises no more than this
        raise Misunderstood("the statement could not be parsed") from error
    return [tree for tree in trees if tree is not None and not isinstance(tree, exp.Semicolon)]


def argument(node: Any, name: str) -> Any:
    """Return a node's argument; sqlglot 28 renamed those that are Python keywords.

    >>> argument(parse("SELECT 1 FROM t", "sqlite")[0], "from").this.name
    't'
    """
    return node.args.get(name) or node.args.get(f"{name}_")


_QUERIES: Final = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})


def _check_start(statement: str) -> None:
    # for other statements sqlglot logs warnings of its own
    text = bare(statement)[0].strip("; \t\r\n\f")
    word = WORD.match(text)
    if not text:
        raise Misunderstood("there is no statement")
    if word is None or word[1].upper() not in _QUERIES:
        raise Misunderstood("only SELECT and VALUES are kept")
    if ";" in text:
        raise Misunderstood("there are several statements")


_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def fold(name: str, dialect: str, *, quoted: bool = False) -> str:
    """Fold an identifier as the database does: ASCII letters only.

    >>> fold("Flights", "postgresql"), fold("Flights", "postgresql", quoted=True)
    ('flights', 'Flights')
    """
    if quoted and dialect != "sqlite":
        return name
    return name.translate(_ASCII_LOWER)


def identifier(node: Any, dialect: str) -> str:
    """Return the folded name of an identifier, "" if there is none.

    >>> identifier(exp.to_identifier("Month"), "sqlite")
    'month'
    """
    if not isinstance(node, exp.Identifier):
        return node if isinstance(node, str) else ""
    return fold(node.this, dialect, quoted=bool(node.args.get("quoted")))


def function_name(node: exp.Anonymous, dialect: str) -> str:
    """Return the folded name of a function, with its schema unless that is pg_catalog."""
    name = node.this
    name = identifier(name, dialect) if isinstance(name, exp.Identifier) else fold(name, dialect)
    parent = node.parent
    if isinstance(parent, exp.Dot) and parent.expression is node:
        owner = identifier(parent.this, dialect) or parent.this.sql()
        return name if owner == "pg_catalog" else f"{owner}.{name}"
    return name


def column_named(table: Table, name: str, dialect: str) -> Column | None:
    """Return a table's column by its folded name."""
    if dialect != "sqlite":
        return table.column.get(name)
    found = table.column.get(name)
    if found is not None:
        return found
    return next((one for one in table.columns if fold(one.name, dialect) == name), None)
