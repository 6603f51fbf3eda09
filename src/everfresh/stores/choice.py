"""The codec that chooses: Arrow for tables and large results, MessagePack for the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from everfresh.errors import CodecError, MissingExtraError
from everfresh.stores.codec import ArrowCodec, MessagePackCodec, register

__all__ = ["ChoosingCodec"]

_EXACT = {int: "int64", float: "float64", str: "string", bytes: "binary", bool: "bool"}


@dataclass(slots=True)
class _Packed:
    """Hold a result on its way through MessagePack."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


register(23, _Packed, lambda packed: [packed.columns, packed.rows], lambda data: _Packed(*data))


class ChoosingCodec:
    """Encode data frames, Arrow tables and results of many rows as Arrow, all else as MessagePack.

    A result goes as Arrow from ``large`` rows on, if each column has one type that Arrow keeps
    exactly (integers of 64 bits, floats, text, bytes, booleans; NULLs anywhere); without pyarrow
    all results go as MessagePack. ``make`` builds a result from column names and rows.

    >>> codec = ChoosingCodec(large=1)
    >>> codec.decode(codec.encode([1, 2]))
    [1, 2]
    """

    name = "auto"

    def __init__(
        self,
        large: int = 10_000,
        make: Callable[[Sequence[str], Sequence[Any]], object] | None = None,
    ) -> None:
        self._large = large
        self._make = make or (lambda columns, rows: (tuple(columns), rows))
        self._plain = MessagePackCodec()
        try:
            self._arrow: ArrowCodec | None = ArrowCodec()
        except MissingExtraError:
            self._arrow = None

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes; raises `CodecError` for types neither codec knows."""
        columns = getattr(value, "columns", None)
        if isinstance(columns, tuple):
            return self._encode_result(columns, value)
        if self._arrow is not None and _is_table(value):
            return self._arrow.encode(value)
        return self._plain.encode(value)

    def decode(self, data: bytes) -> object:
        """Return the value; raises `CodecError` for bytes that neither codec made."""
        if data[3:4] == ArrowCodec.letter:
            if self._arrow is None:
                raise MissingExtraError("arrow", "reading a result that was stored as Arrow")
            return self._from_arrow(self._arrow.decode(data))
        value = self._plain.decode(data)
        if isinstance(value, _Packed):
            return self._make(value.columns, value.rows)
        return value

    def _encode_result(self, columns: tuple[str, ...], rows: Any) -> bytes:
        plain = [tuple(row) for row in rows]
        table = self._table(columns, plain) if len(plain) >= self._large else None
        if table is not None and self._arrow is not None:
            return self._arrow.encode(table)
        return self._plain.encode(_Packed(list(columns), plain))

    def _table(self, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Any:
        """Return the rows as an Arrow table, None if a column would not come back exactly."""
        if self._arrow is None or len(set(columns)) != len(columns):
            return None
        import pyarrow as pa

        arrays = []
        for cells in zip(*rows, strict=True):
            kinds = set(map(type, cells)) - {type(None)}
            kind = kinds.pop() if len(kinds) == 1 else None
            if kind not in _EXACT:
                return None
            try:
                arrays.append(pa.array(cells, _EXACT[kind]))
            except (pa.ArrowException, OverflowError):
                return None
        table = pa.table(arrays, names=list(columns))
        return table.replace_schema_metadata({"everfresh": "result"})

    def _from_arrow(self, value: Any) -> object:
        metadata = getattr(getattr(value, "schema", None), "metadata", None) or {}
        if metadata.get(b"everfresh") != b"result":
            return value
        if len(set(value.column_names)) != len(value.column_names):
            raise CodecError("this result has two columns of one name")
        rows = list(zip(*(column.to_pylist() for column in value.columns), strict=True))
        return self._make(value.column_names, rows)


def _is_table(value: object) -> bool:
    pandas, arrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    return (pandas is not None and isinstance(value, pandas.DataFrame)) or (
        arrow is not None and isinstance(value, arrow.Table)
    )
