"""What `cache.sql` returns: an immutable sequence of named rows, with a receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from sys import getsizeof
from typing import TYPE_CHECKING, Any, NoReturn, overload

from everfresh.errors import StatementError
from everfresh.stores.sizing import size_of

if TYPE_CHECKING:
    from everfresh.engine.receipts import Receipt

__all__ = ["FrozenDict", "FrozenList", "Row", "Rows", "frozen", "make_rows"]


_NUMBERS = frozenset({int, float, bool, type(None)})


class Row(tuple[Any, ...]):
    """Hold one row: a tuple whose cells also have the names of their columns.

    ``row.carrier``, ``row["carrier"]`` and ``row[0]`` are the same cell. A name that two columns
    share raises `StatementError`: give one an alias.
    """

    __slots__ = ()
    _columns: tuple[str, ...] = ()
    _position: dict[str, int] = {}  # noqa: RUF012 - each generated class has its own

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return tuple.__getitem__(self, self._find(index))
        return tuple.__getitem__(self, index)

    def _find(self, name: str) -> int:
        position = self._position.get(name)
        if position is None:
            if name in self._columns:
                raise StatementError(f"two columns are named {name!r}: give one an alias")
            raise KeyError(f"no column {name!r} among {', '.join(self._columns)}")
        return position

    def __getattr__(self, name: str) -> Any:
        try:
            return tuple.__getitem__(self, self._find(name))
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._columns, self, strict=True))

    def __repr__(self) -> str:
        cells = ", ".join(f"{n}={v!r}" for n, v in zip(self._columns, self, strict=True))
        return f"Row({cells})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _row_from, (self._columns, tuple(self))


@lru_cache(maxsize=1024)
def _row_class(columns: tuple[str, ...]) -> type[Row]:
    position = {name: n for n, name in enumerate(columns) if columns.count(name) == 1}
    # "count" and "index" are methods of a tuple, and popular names of columns: the column wins
    cells = {
        name: property(itemgetter(n)) for name, n in position.items() if not name.startswith("_")
    }
    return type(
        "Row", (Row,), {"__slots__": (), "_columns": columns, "_position": position, **cells}
    )


def _row_from(columns: tuple[str, ...], cells: Iterable[Any]) -> Row:
    return _row_class(columns)(cells)


class Rows(Sequence[Row]):
    """Hold the answer to a query: an immutable sequence of rows, with its receipt.

    >>> rows = make_rows(("carrier", "delay"), [("UA", 3.5), ("B6", 9.1)])
    >>> rows[0].carrier, rows[1]["delay"], len(rows)
    ('UA', 9.1, 2)
    >>> rows.to_dicts()[0]
    {'carrier': 'UA', 'delay': 3.5}
    """

    __slots__ = ("__weakref__", "_columns", "_make_receipt", "_rows")

    def __init__(
        self,
        columns: tuple[str, ...],
        rows: tuple[Row, ...],
        make_receipt: Callable[[], Receipt] | None = None,
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._make_receipt = make_receipt

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return self._columns

    @property
    def receipt(self) -> Receipt:
        """Where the rows came from, what they cost and why they were or were not reused."""
        if self._make_receipt is None:
            raise StatementError("these rows did not come from a cache, so they have no receipt")
        return self._make_receipt()

    def with_receipt(self, make_receipt: Callable[[], Receipt]) -> Rows:
        """Return the same rows with another receipt; the rows are shared, not copied."""
        return Rows(self.columns, self._rows, make_receipt)

    @property
    def nbytes(self) -> int:
        """About how many bytes the rows take; every cell of varying size is counted."""
        rows = self._rows
        if not rows:
            return 200
        cells = sum(map(_column_size, zip(*rows, strict=True)))
        return 200 + len(rows) * getsizeof(rows[0]) + cells

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rows):
            return self.columns == other.columns and self._rows == other._rows
        if isinstance(other, (list, tuple)):
            return list(self._rows) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # cells may be unhashable, as in a list of tuples

    def __reduce__(self) -> tuple[Any, ...]:
        # the receipt stays behind: it speaks of a cache of this process
        return make_rows, (self._columns, [tuple(row) for row in self._rows])

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._rows[:5]))
        more = f", … {len(self) - 5} more" if len(self) > 5 else ""
        return f"Rows[{len(self)}]({shown}{more})"

    def one(self) -> Row:
        """Return the only row; raises `StatementError` if there are none or several."""
        if len(self._rows) != 1:
            raise StatementError(f"expected exactly one row, the query returned {len(self._rows)}")
        return self._rows[0]

    def first(self) -> Row | None:
        """Return the first row, None if there are none."""
        return self._rows[0] if self._rows else None

    def scalar(self) -> Any:
        """Return the first cell of the first row, None if there are no rows."""
        return self._rows[0][0] if self._rows else None

    def scalars(self) -> list[Any]:
        """Return the first cell of each row."""
        return [row[0] for row in self._rows]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a new list of one new dict per row."""
        return [row._asdict() for row in self._rows]

    def to_pandas(self) -> Any:
        """Return a new pandas DataFrame of the rows."""
        import pandas as pd

        return pd.DataFrame.from_records(list(self._rows), columns=list(self.columns))


def make_rows(columns: Sequence[str], raw: Iterable[Iterable[Any]]) -> Rows:
    """Return rows whose cells are safe to share: lists, dicts and byte arrays are frozen."""
    names = tuple(columns)
    cls = _row_class(names)
    rows = [tuple.__new__(cls, cells) for cells in raw]
    mutable = _mutable_columns(rows)
    if mutable:
        rows = [
            cls(frozen(cell) if n in mutable else cell for n, cell in enumerate(row))
            for row in rows
        ]
    return Rows(names, tuple(rows))


def make_shared_rows(columns: Sequence[str], raw: Iterable[Iterable[Any]]) -> Rows:
    """Return rows of cells that are known to be safe to share."""
    names = tuple(columns)
    cls, new = _row_class(names), tuple.__new__
    return Rows(names, tuple([new(cls, cells) for cells in raw]))


def _column_size(cells: tuple[Any, ...]) -> int:
    kinds = set(map(type, cells))
    if kinds <= _NUMBERS:
        return len(cells) * 28
    flat = kinds <= _NUMBERS | {str, bytes}
    return sum(map(getsizeof if flat else size_of, cells))


def _mutable_columns(rows: Sequence[Row]) -> set[int]:
    kinds = (list, dict, bytearray, memoryview, set)
    return {
        n
        for n, column in enumerate(zip(*rows, strict=True))
        if any(issubclass(kind, kinds) for kind in set(map(type, column)))
    }


def _refuse(self: object, *_args: object, **_options: object) -> NoReturn:
    raise TypeError("this value is shared with the cache and cannot be changed: copy it first")


class FrozenList(list[Any]):
    """A list that refuses to be changed; equal to the list it was made from."""

    __slots__ = ()
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class FrozenDict(dict[Any, Any]):
    """A dict that refuses to be changed; equal to the dict it was made from."""

    __slots__ = ()
    clear = pop = popitem = setdefault = update = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def frozen(cell: Any) -> Any:
    """Return a cell that is safe to share: lists, dicts and byte arrays refuse to be changed."""
    if isinstance(cell, dict):
        return FrozenDict({name: frozen(item) for name, item in cell.items()})
    if isinstance(cell, list):
        return FrozenList(frozen(item) for item in cell)
    if isinstance(cell, set):
        return frozenset(cell)
    if isinstance(cell, (bytearray, memoryview)):
        return bytes(cell)
    return cell
