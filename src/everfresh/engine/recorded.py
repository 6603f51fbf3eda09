"""Rows as the driver gave them, and a cursor that gives them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from sys import getsizeof
from typing import Any
from uuid import UUID

from everfresh.stores.sizing import size_of

__all__ = ["Recorded", "Replay", "mutable_columns", "record"]

_SAFE = frozenset(
    {int, float, bool, type(None), str, bytes, complex}
    | {Decimal, date, datetime, time, timedelta, UUID}
)
_NUMBERS = frozenset({int, float, bool, type(None)})
_PIECE = 1000  # rows fetched at a time

Description = tuple[tuple[Any, ...], ...]


class Recorded:
    """Hold the answer of a driver: raw rows, the cursor's description and its row count.

    ``mutable`` are the positions of columns with cells that a reader could change: they are copied
    for each. ``shaped`` is where a surface keeps what it makes of the rows, once for all hits.
    """

    __slots__ = ("description", "mutable", "rowcount", "rows", "shaped")

    def __init__(
        self,
        rows: tuple[tuple[Any, ...], ...],
        description: Description,
        rowcount: int,
        mutable: tuple[int, ...] = (),
    ) -> None:
        self.rows = rows
        self.description = description
        self.rowcount = rowcount
        self.mutable = mutable
        self.shaped: dict[object, Any] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(column[0] for column in self.description)

    @property
    def nbytes(self) -> int:
        """About how many bytes the rows take, with what a surface makes of them."""
        rows = self.rows
        cells = sum(map(_column_size, zip(*rows, strict=True))) if rows else 0
        return 400 + len(self.description) * 120 + 2 * (len(rows) * 120 + cells)

    def copies(self) -> list[tuple[Any, ...]]:
        """Return the rows for one reader."""
        if not self.mutable:
            return list(self.rows)
        mutable = self.mutable
        return [
            tuple(deepcopy(cell) if n in mutable else cell for n, cell in enumerate(row))
            for row in self.rows
        ]


def record(cursor: Any, limit: int) -> Recorded | Replay:
    """Read a cursor to its end; one of more than ``limit`` rows goes on where this stopped.

    It is then a `Replay`, to be read once.
    """
    rows: list[Any] = []
    while len(rows) <= limit:
        piece = cursor.fetchmany(min(_PIECE, limit + 1 - len(rows)))
        rows.extend(piece)
        if not piece:
            break
    kept = [row if type(row) is tuple else tuple(row) for row in rows]
    description = tuple(tuple(column) for column in cursor.description)
    rowcount = getattr(cursor, "rowcount", -1)
    found = Recorded(tuple(kept), description, rowcount, mutable_columns(kept))
    if len(rows) <= limit:
        return found
    found.mutable = ()  # nobody else gets them
    return Replay(found, cursor, rest=True)


class Replay:
    """Be a DBAPI cursor that gives recorded rows; for the rest, the real one, which it closes.

    ``rest``: the real one holds more rows, which come after those recorded.
    """

    __slots__ = ("_at", "_real", "_rest", "_rows", "arraysize", "description", "rowcount")

    def __init__(self, recorded: Recorded, real: Any, *, rest: bool = False) -> None:
        self._rows: Sequence[tuple[Any, ...]] = (
            recorded.copies() if recorded.mutable else recorded.rows
        )
        self._at = 0
        self._real = real
        self._rest = rest
        self.description = recorded.description
        self.rowcount = recorded.rowcount
        self.arraysize = 1

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, None after the last."""
        at = self._at
        if at < len(self._rows):
            self._at = at + 1
            return self._rows[at]
        return self._real.fetchone() if self._rest else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """Return the next rows, at most ``size``."""
        count = self.arraysize if size is None else size
        found = list(self._rows[self._at : self._at + count])
        self._at += len(found)
        if self._rest and len(found) < count:
            found.extend(self._real.fetchmany(count - len(found)))
        return found

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        found = list(self._rows[self._at :])
        self._at = len(self._rows)
        if self._rest:
            found.extend(self._real.fetchall())
        return found

    def close(self) -> None:
        """Close the real cursor."""
        self._rows = ()
        self._rest = False
        self._real.close()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchone, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def mutable_columns(rows: Sequence[Sequence[Any]]) -> tuple[int, ...]:
    """Return the positions of columns with cells that a reader could change."""
    if not rows:
        return ()
    return tuple(
        n for n, column in enumerate(zip(*rows, strict=True)) if not set(map(type, column)) <= _SAFE
    )


def _column_size(cells: tuple[Any, ...]) -> int:
    kinds = set(map(type, cells))
    if kinds <= _NUMBERS:
        return len(cells) * 28
    measure: Callable[[Any], int] = getsizeof if kinds <= _SAFE else size_of
    return sum(map(measure, cells))
