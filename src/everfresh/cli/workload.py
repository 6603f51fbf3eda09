"""Workloads: files of queries for `stats` and `audit`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sqlglot import tokenize
from sqlglot.errors import TokenError

from everfresh.errors import ConfigurationError

__all__ = ["Workload", "read_workload"]

Workload = list[tuple[str, dict[str, Any]]]

_PARAMETERS = "-- params:"


def read_workload(file: Path | None) -> Workload:
    """Return the statements of a SQL file, or of standard input, with their parameters.

    A line ``-- params: {"m": 6}`` before a statement gives its parameters as JSON. Raises
    `ConfigurationError` for a file that cannot be read or holds no statement.
    """
    try:
        text = sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"the workload cannot be read: {error}") from None
    workload = [_with_parameters(piece) for piece in _split(text)]
    if not workload:
        raise ConfigurationError("the workload holds no statement")
    return workload


def _split(text: str) -> list[str]:
    """Cut at the semicolons that end statements: not those in strings or comments."""
    try:
        ends = [t.start for t in tokenize(text) if t.token_type.name == "SEMICOLON"]
    except TokenError as error:
        raise ConfigurationError(f"the workload is no SQL: {error}") from None
    starts = [0, *(end + 1 for end in ends)]
    pieces = [text[a:b].strip() for a, b in zip(starts, [*ends, len(text)], strict=True)]
    return [piece for piece in pieces if _has_statement(piece)]


def _has_statement(piece: str) -> bool:
    return any(line.strip() and not line.strip().startswith("--") for line in piece.splitlines())


def _with_parameters(piece: str) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {}
    for line in piece.splitlines():
        if line.strip().startswith(_PARAMETERS):
            try:
                parameters |= json.loads(line.strip().removeprefix(_PARAMETERS))
            except (json.JSONDecodeError, TypeError) as error:
                raise ConfigurationError(f"{line.strip()!r} is no JSON object: {error}") from None
    return piece, parameters
