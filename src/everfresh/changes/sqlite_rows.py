"""Row images on SQLite: TEMP triggers on one connection that hand each row to Python.

A trigger calls a function that appends to a list. A TEMP table would do for a log too, but the
rows inserted there would show in ``total_changes()``, and it has to be emptied. Neither the
schema nor ``last_insert_rowid()``, ``changes()`` or ``total_changes()`` notice these triggers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from everfresh.connect.description import DatabaseSchema, Query
from everfresh.kernel.change import Change
from everfresh.kernel.schema import Table

__all__ = ["PREFIX", "RowLog"]

PREFIX = "everfresh_"
_FUNCTION = "everfresh_log"
_MAX_ARGUMENTS = 100  # SQLITE_MAX_FUNCTION_ARG's default until 3.47
_LONG = 1024  # characters of text, or bytes of a blob, that are worth an image
_INSERT, _UPDATE, _DELETE = 1, 2, 3
_EVENTS = ((_INSERT, "INSERT", "NEW"), (_DELETE, "DELETE", "OLD"), (_UPDATE, "UPDATE", "OLD NEW"))
_UNKNOWN = object()

Row = tuple[Any, ...]


class RowLog:
    """Log the rows that one DBAPI connection writes to the tables it is told to watch."""

    def __init__(self, raw: Any, query: Query, limit: int) -> None:
        self.rows: list[Row] = []
        self.overflow: set[int] = set()
        self._raw = raw
        self._query = query
        self._limit = limit
        self._watched: dict[str, int] = {}
        self._tables: list[Table] = []
        self._encoding: str | None = None

    @property
    def installed(self) -> bool:
        """Whether any trigger is in place."""
        return bool(self._watched)

    def covers(self, names: AbstractSet[str]) -> bool:
        """Whether triggers are in place on all of these tables."""
        return self._watched.keys() >= names

    def install(self, schema: DatabaseSchema, names: Iterable[str]) -> None:
        """Create triggers on these tables; raises the driver's error if that is not possible."""
        missing = [name for name in names if name not in self._watched]
        if not missing:
            return
        if self._encoding is None:
            self._encoding = str(self._query("PRAGMA encoding")[0][0]).lower()
            self.drop()  # what a feed that was closed on another thread had to leave
            self._raw.create_function(_FUNCTION, -1, self._logger())
        for name in missing:
            number = len(self._tables)
            self._tables.append(schema.tables[name])
            for statement in _triggers(schema.tables[name], number):
                self._query(statement)
            self._watched[name] = number

    def drop(self) -> None:
        """Drop every trigger of ours on this connection."""
        self._watched.clear()
        for (name,) in self._query(
            "SELECT name FROM sqlite_temp_master WHERE type = 'trigger'"
            f" AND substr(name, 1, {len(PREFIX)}) = '{PREFIX}'"
        ):
            self._query(f"DROP TRIGGER temp.{_quoted(name)}")

    def forget(self) -> None:
        """Distrust what is in place."""
        self._watched.clear()

    def clear(self) -> None:
        """Forget the rows logged so far."""
        self.rows.clear()
        self.overflow.clear()

    def changes(self) -> list[Change]:
        """Return the logged rows as changes; tables with too many become one change each."""
        counts: dict[int, int] = {}
        for row in self.rows:
            counts[row[0]] = counts.get(row[0], 0) + 1
        whole = self.overflow | {n for n, count in counts.items() if count > self._limit}
        found = [Change(self._tables[number].name) for number in sorted(whole)]
        images = (self._change(row) for row in self.rows if row[0] not in whole)
        return [*found, *(change for change in images if change is not None)]

    def _logger(self) -> Any:
        rows, append, overflow = self.rows, self.rows.append, self.overflow
        most = 4 * self._limit  # of all tables together, so that memory stays bounded

        def log(*row: Any) -> None:
            if len(rows) < most and len(row) > 1:
                append(row)
            else:
                overflow.add(row[0])

        return log

    def _change(self, row: Row) -> Change | None:
        table = self._tables[row[0]]
        width = len(table.columns)
        old = self._image(table, row[2 : 2 + width]) if row[1] != _INSERT else None
        new = self._image(table, row[-width:]) if row[1] != _DELETE else None
        if row[1] == _UPDATE and _same(row[2 : 2 + width], row[-width:]):
            return None  # an UPDATE that set what was there already
        image = new if new is not None else old
        key = tuple((image or {}).get(column) for column in table.primary_key)
        return Change(table.name, old=old, new=new, key=key or None)

    def _image(self, table: Table, values: Sequence[object]) -> dict[str, object]:
        image = {}
        for column, value in zip(table.columns, values, strict=True):
            decoded = self._decode(value)
            if decoded is not _UNKNOWN:
                image[column.name] = decoded
        return image

    def _decode(self, value: object) -> object:
        if isinstance(value, bytes):
            try:
                return value.decode(self._encoding or "utf-8")
            except UnicodeDecodeError:
                return _UNKNOWN
        if isinstance(value, str):
            return _UNKNOWN if value == "-" else bytes.fromhex(value)
        return value


def _triggers(table: Table, number: int) -> list[str]:
    database, _, name = table.name.partition(".")
    statements = []
    for event, verb, images in _EVENTS:
        values = [
            _exact(f"{image}.{_quoted(column.name)}")
            for image in images.split()
            for column in table.columns
        ]
        arguments = [str(number), str(event), *values]
        if len(arguments) > _MAX_ARGUMENTS or not table.columns:
            arguments = [str(number)]  # too many for a function: the whole table
        statements.append(
            f"CREATE TEMP TRIGGER {_quoted(f'{PREFIX}{number}_{event}')} AFTER {verb} ON"
            f" {_quoted(database)}.{_quoted(name)}"
            f" BEGIN SELECT {_FUNCTION}({', '.join(arguments)}); END"
        )
    return statements


def _exact(column: str) -> str:
    """Return an expression whose value reaches Python unchanged, whatever the bytes.

    Text goes as its bytes, for it may not be valid UTF-8 and the function must not fail; blobs
    go as hexadecimal text; what is too long for a condition goes as "-".
    """
    return (
        f"CASE typeof({column})"
        f" WHEN 'text' THEN CASE WHEN length({column}) > {_LONG} THEN '-'"
        f" ELSE CAST({column} AS BLOB) END"
        f" WHEN 'blob' THEN CASE WHEN length({column}) > {_LONG} THEN '-' ELSE hex({column}) END"
        f" ELSE {column} END"
    )


def _same(old: Sequence[object], new: Sequence[object]) -> bool:
    return "-" not in old and all(
        a == b and type(a) is type(b) for a, b in zip(old, new, strict=True)
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
