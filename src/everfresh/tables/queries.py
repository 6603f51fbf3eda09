"""Queries made from one SELECT: all of its rows, those with some keys, those of some pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from everfresh.errors import ConfigurationError
from everfresh.tables.byattributes import Piece
from everfresh.tables.db import QueryArgsDbRecordsSpec, RecordParser
from everfresh.tables.intervals import Interval
from everfresh.tables.ordering import MIDDLE, NULL, NULL_LAST, After, Limit, unplace
from everfresh.tables.types import PrimaryKey

__all__ = ["Queries"]

_BINARY = {"postgresql": '"C"', "sqlite": "BINARY"}


class Queries:
    """Make queries of rows of ``statement``, with ``$1`` for arguments."""

    def __init__(self, statement: str, dialect: str, record_parser: RecordParser | None) -> None:
        if dialect not in _BINARY:
            raise ConfigurationError(f"the dialect is one of {', '.join(_BINARY)}, not {dialect!r}")
        self.statement = statement.strip().rstrip(";")
        self._dialect = dialect
        self._parser = record_parser

    def all(self) -> QueryArgsDbRecordsSpec:
        """Return the query of all rows."""
        return QueryArgsDbRecordsSpec(self.statement, (), record_parser=self._parser)

    def some(
        self, columns: Sequence[str], keys: Sequence[PrimaryKey], pieces: Iterable[Piece]
    ) -> QueryArgsDbRecordsSpec:
        """Return the query of rows with these keys, or in these pieces."""
        args: list[Any] = []
        parts = [self._keys(columns, list(keys), args)] if keys else []
        parts += [self._piece(piece, args) for piece in pieces]
        where = " OR ".join(f"({part})" for part in parts) or "1 = 0"
        query = f"SELECT * FROM ({self.statement}) AS everfresh_records WHERE {where}"
        return QueryArgsDbRecordsSpec(query, tuple(args), record_parser=self._parser)

    def _keys(self, columns: Sequence[str], keys: list[Any], args: list[Any]) -> str:
        if len(columns) > 1:
            rows = ", ".join(f"({', '.join(_bind(value, args) for value in key)})" for key in keys)
            names = ", ".join(map(_quote, columns))
            values = "VALUES " if self._dialect == "sqlite" else ""
            return f"({names}) IN ({values}{rows})"
        column = _quote(columns[0])
        if self._dialect == "postgresql":
            return f"{column} = ANY ({_bind(keys, args)})"
        if all(type(key) in (int, str) and _fits(key) for key in keys):  # one argument, not many
            return f"{column} IN (SELECT value FROM json_each({_bind(json.dumps(keys), args)}))"
        return f"{column} IN {_bind(keys, args)}"

    def _piece(self, piece: Piece, args: list[Any]) -> str:
        by = piece.by
        parts = [
            self._equal(column, value, args)
            for column, value in zip(by.columns, piece.values, strict=False)
        ]
        if piece.next is not None:
            number = len(piece.values)
            column, falling = by.columns[number], by.falling[number]
            parts.append(self._between(column, piece.next, args, falling=falling))
        return " AND ".join(parts) or "1 = 1"

    def _equal(self, column: str, value: Any, args: list[Any]) -> str:
        if value is None:
            return f"{_quote(column)} IS NULL"
        binary = self._dialect == "sqlite" and isinstance(value, str)
        return f"{self._column(column, binary=binary)} = {_bind(value, args)}"

    def _between(self, column: str, span: Interval, args: list[Any], *, falling: bool) -> str:
        """Return the condition that a column's value has its place in an interval of places."""
        null = NULL_LAST if falling else NULL
        holds_null = null in span
        parts: list[str] = []
        for bound, inside, upper in ((span.ge, True, False), (span.lt, False, True)):
            if isinstance(bound, After):
                bound, inside = bound.value, not inside
            if isinstance(bound, Limit):
                continue
            value = unplace(bound) if falling else bound
            sign = ("<" if upper != falling else ">") + ("=" if inside else "")
            name = self._column(column, binary=isinstance(value, str))
            parts.append(f"{name} {sign} {_bind(value, args)}")
        if parts:
            condition = " AND ".join(parts)
            return f"({condition} OR {_quote(column)} IS NULL)" if holds_null else condition
        if not span.ge < MIDDLE < span.lt:
            return f"{_quote(column)} IS NULL" if holds_null else "1 = 0"
        return "1 = 1" if holds_null else f"{_quote(column)} IS NOT NULL"

    def _column(self, column: str, *, binary: bool) -> str:
        """Return a column; ``binary`` compares text as Python does, by code points."""
        return _quote(column) + (f" COLLATE {_BINARY[self._dialect]}" if binary else "")


def _bind(value: Any, args: list[Any]) -> str:
    args.append(value)
    return f"${len(args)}"


def _quote(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _fits(key: int | str) -> bool:
    return isinstance(key, str) or -(2**63) <= key < 2**63
