"""From the messages of PostgreSQL's pgoutput plugin to changes, transaction by transaction.

The format is version 1 of "Logical Replication Message Formats" in the PostgreSQL documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation

from everfresh.changes.postgres_tables import Tracked
from everfresh.kernel.affinity_postgres import Family
from everfresh.kernel.change import Change

__all__ = ["Decoder", "Transaction", "widened"]

_UNCHANGED = object()  # a large value that was not touched is not sent: unknown, not NULL
Tuple = Sequence[object]


@dataclass(slots=True)
class Transaction:
    """Hold what one transaction changed; ``xid`` is of 32 bits, as the server tells it."""

    xid: int
    rows: dict[int, list[tuple[str, Tuple | None, Tuple | None]]] = field(default_factory=dict)
    end: int = 0  # position in the log behind its commit


@dataclass(frozen=True, slots=True)
class _Relation:
    """Hold what a message says of a table: its columns, and whether old rows are whole."""

    columns: tuple[str, ...]
    full: bool


def widened(xid: int, near: int) -> int:
    """Return a transaction id of 32 bits with the epoch of one that is not far from it.

    >>> widened(5, (3 << 32) + 7), widened(0xFFFFFFF0, (3 << 32) + 7) == (2 << 32) + 0xFFFFFFF0
    (12884901893, True)
    """
    wide = (near & ~0xFFFFFFFF) | xid
    if wide - near > 1 << 31:
        return wide - (1 << 32)
    return wide + (1 << 32) if near - wide > 1 << 31 else wide


class Decoder:
    """Take messages in their order; give whole transactions."""

    def __init__(self) -> None:
        self._relations: dict[int, _Relation] = {}
        self._open: Transaction | None = None

    def feed(self, message: bytes) -> Transaction | None:
        """Take one message; return the transaction it ends, if it ends one."""
        kind = message[:1]
        if kind == b"B":
            self._open = Transaction(struct.unpack(">I", message[17:21])[0])
        elif kind == b"R":
            self._relation(message)
        elif kind in (b"I", b"U", b"D") and self._open is not None:
            self._row(kind.decode(), message)
        elif kind == b"T" and self._open is not None:
            for place in range(6, len(message), 4):
                (oid,) = struct.unpack(">I", message[place : place + 4])
                self._open.rows.setdefault(oid, []).append(("W", None, None))
        elif kind == b"C" and self._open is not None:
            ended, self._open = self._open, None
            ended.end = struct.unpack(">Q", message[10:18])[0]
            return ended
        return None

    def _relation(self, message: bytes) -> None:
        (oid,) = struct.unpack(">I", message[1:5])
        place = message.index(b"\0", message.index(b"\0", 5) + 1) + 1
        full = message[place : place + 1] == b"f"
        (count,) = struct.unpack(">H", message[place + 1 : place + 3])
        place += 3
        columns = []
        for _ in range(count):
            end = message.index(b"\0", place + 1)
            columns.append(message[place + 1 : end].decode())
            place = end + 9
        self._relations[oid] = _Relation(tuple(columns), full)

    def _row(self, operation: str, message: bytes) -> None:
        assert self._open is not None  # noqa: S101
        (oid,) = struct.unpack(">I", message[1:5])
        place, old, new = 5, None, None
        while place < len(message):
            kind = message[place : place + 1]
            values, place = _tuple(message, place + 1)
            if kind == b"N":
                new = values
            elif kind == b"O":
                old = values  # of a table whose replica identity is FULL
        self._open.rows.setdefault(oid, []).append((operation, old, new))

    def changes(
        self, ended: Transaction, tables: Mapping[int, Tracked], history: str, xid: int, limit: int
    ) -> list[Change] | None:
        """Return what a transaction did, None if to a table that is not known.

        ``xid`` is its whole number. More than ``limit`` rows of one table are one change of it.
        """
        told: list[Change] = []
        for oid, rows in ended.rows.items():
            table, relation = tables.get(oid), self._relations.get(oid)
            if table is None or relation is None:
                return None
            some = [("W", None, None)] if len(rows) > limit else rows
            for operation, old, new in some:
                told.extend(_changes(table, relation, operation, old, new, history, xid))
        return told


def _tuple(message: bytes, place: int) -> tuple[Tuple, int]:
    (count,) = struct.unpack(">H", message[place : place + 2])
    place += 2
    values: list[object] = []
    for _ in range(count):
        kind = message[place : place + 1]
        place += 1
        if kind == b"t":
            (size,) = struct.unpack(">I", message[place : place + 4])
            values.append(message[place + 4 : place + 4 + size].decode(errors="replace"))
            place += 4 + size
        else:
            values.append(None if kind == b"n" else _UNCHANGED)
    return values, place


def _changes(
    table: Tracked,
    relation: _Relation,
    operation: str,
    old: Tuple | None,
    new: Tuple | None,
    history: str,
    xid: int,
) -> Iterator[Change]:
    before, after = _image(table, relation, old), _image(table, relation, new)
    # without the whole old row nobody can say what it may have been part of
    whole = operation == "W" or (operation != "I" and (before is None or not relation.full))
    return table.changes(before, after, whole, history, xid)


def _image(table: Tracked, relation: _Relation, values: Tuple | None) -> dict[str, object] | None:
    if values is None:
        return None
    image: dict[str, object] = {}
    for name, value in zip(relation.columns, values, strict=True):
        family = table.columns.get(name)
        if family is None or value is _UNCHANGED:
            continue
        try:
            image[name] = None if value is None else _value(family, str(value))
        except (ValueError, InvalidOperation):
            continue  # unknown
    return image


def _value(family: Family, text: str) -> object:
    if family == "int":
        return int(text)
    if family in ("numeric", "float8", "float4"):
        return Decimal(text)
    if family == "timestamptz":
        return datetime.fromisoformat(text)
    if family == "bytea":
        return bytes.fromhex(text.removeprefix("\\x"))
    return text
