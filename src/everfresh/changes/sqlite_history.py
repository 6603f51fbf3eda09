"""From rows of the change table to changes; a gap in their numbers is found, never passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from everfresh.changes.sqlite_status import HIGHEST, META, Mapped
from everfresh.changes.sqlite_triggers import CHANGES, DELETE, INSERT, UNKNOWN, UPDATE, WHOLE
from everfresh.connect.description import Query
from everfresh.kernel.change import Change

__all__ = ["MARK", "decode", "highest", "read_changes", "stamp"]

MARK = (
    f"{HIGHEST}, (SELECT value FROM main.{META} WHERE item = 'history'),"
    " (SELECT schema_version FROM pragma_schema_version),"
    f" (SELECT at FROM main.{CHANGES} ORDER BY seq DESC LIMIT 1)"
)
"""Answers the newest sequence, the history, the schema version and the newest time, at once."""

_BULK = 20  # row limits; above, rows are counted and not read
_UNDECODABLE = object()

Rows = Callable[[str], Iterable[Sequence[Any]]]


def decode(data: bytes) -> object:
    """Return a text of the database; what is not UTF-8 becomes a value that counts as unknown."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _UNDECODABLE


def highest(query: Query) -> int:
    """Return the newest sequence."""
    return int(query(HIGHEST)[0][0])


def stamp(query: Query, sequence: int) -> float | None:
    """Return when the row of a sequence was written, None if there is none."""
    found = query(f"SELECT at FROM main.{CHANGES} WHERE seq = {sequence:d}")
    return found[0][0] if found else None


def read_changes(
    rows: Rows, after: int, newest: int, mapped: Mapping[int, Mapped], limit: int
) -> list[Change] | None:
    """Return the changes numbered above ``after``, None if some are missing.

    More than ``limit`` rows of one table become one change of the whole table. Writers are
    serialised and their numbers roll back with them, so a number that is missing was deleted.
    """
    if newest < after:
        return None
    if newest - after > _BULK * limit:
        return _counted(rows, after, newest, mapped)
    found: dict[int, list[Change]] = {}
    last: dict[int, int] = {}
    count = 0
    for sequence, number, operation, _, *values in rows(
        f"SELECT * FROM main.{CHANGES} WHERE seq > {after} ORDER BY seq"
    ):
        count += 1
        table = mapped.get(number)
        if table is None:
            return None
        last[number] = sequence
        changes = found.setdefault(number, [])
        if len(changes) <= limit:
            change = _change(table, sequence, operation, values)
            changes.extend(() if change is None else (change,))
    return None if count != newest - after else _limited(found, last, mapped, limit)


def _limited(
    found: Mapping[int, list[Change]],
    last: Mapping[int, int],
    mapped: Mapping[int, Mapped],
    limit: int,
) -> list[Change]:
    told: list[Change] = []
    for number, changes in found.items():
        if len(changes) > limit:
            changes = [Change(mapped[number].canonical, sequence=last[number])]
        told.extend(changes)
    return sorted(told, key=lambda change: change.sequence)


def _counted(
    rows: Rows, after: int, newest: int, mapped: Mapping[int, Mapped]
) -> list[Change] | None:
    total, told = 0, []
    for number, sequence, count in rows(
        f"SELECT tab, max(seq), count(*) FROM main.{CHANGES} WHERE seq > {after} GROUP BY tab"
    ):
        if number not in mapped:
            return None
        total += count
        told.append(Change(mapped[number].canonical, sequence=sequence))
    return told if total == newest - after else None


def _change(
    table: Mapped, sequence: int, operation: int, values: Sequence[object]
) -> Change | None:
    width = len(table.columns)
    if operation == WHOLE or not width:
        return Change(table.canonical, sequence=sequence)
    first, second = values[:width], values[width : 2 * width]
    if operation == UPDATE and table.whole and _same(first, second):
        return None
    old = None if operation == INSERT else _image(table, first)
    new = _image(table, first) if operation == INSERT else None
    if operation == UPDATE:
        new = _image(table, second)
    elif operation not in (INSERT, DELETE):
        return Change(table.canonical, sequence=sequence)  # a newer version of us wrote it
    image = old if new is None else new
    key = tuple((image or {}).get(column) for column in table.key)
    return Change(table.canonical, old=old, new=new, key=key or None, sequence=sequence)


def _image(table: Mapped, values: Sequence[object]) -> dict[str, object]:
    pairs = zip(table.columns, values, strict=True)
    return {name: value for name, value in pairs if not _unknown(value)}


def _unknown(value: object) -> bool:
    return value is _UNDECODABLE or value == UNKNOWN


def _same(old: Sequence[object], new: Sequence[object]) -> bool:
    return all(
        a == b and type(a) is type(b) and not _unknown(a) for a, b in zip(old, new, strict=True)
    )
