"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Json", "print_json", "print_table", "size_of_text"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs")]

_SHORT = ("key", "state", "hits", "cost", "age", "bytes")  # columns that are never broken
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def print_json(data: object) -> None:
    """Print data as JSON; infinities and NaN as text, for which JSON has no numbers."""
    text = json.dumps(_finite(data), indent=2, default=str, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as a table; what is in them is text, not markup."""
    table = Table()
    for column in columns:
        table.add_column(column, no_wrap=column in _SHORT)
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    Console().print(table)


def size_of_text(text: str) -> int:
    """Return a number of bytes written like ``500``, ``20M`` or ``1GiB``.

    >>> size_of_text("20M"), size_of_text("1 KiB")
    (20000000, 1024)
    """
    bare = text.strip().lower().removesuffix("b").strip()
    digits = bare.rstrip("kmgi")
    unit = bare[len(digits) :].strip()
    try:
        return int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no size: write it like 500MB or 1GiB") from None


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data
