"""A statement as a driver gets it, written as `cache.sql` would take it: parameters by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["by_name", "named"]

_HIDDEN = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/"
_QMARK = re.compile(rf"(?P<hidden>{_HIDDEN})|(?P<mark>\?)", re.S)
_PYFORMAT = re.compile(r"(?P<percent>%%)|%\((?P<name>[^)]*)\)s")
_NUMBERED = re.compile(rf"(?P<hidden>{_HIDDEN})|\$(?P<number>\d+)", re.S)
_COLON = re.compile(r"(?<![:\w\\]):(?=\w)")  # what text() would take for a parameter


def named(text: str, paramstyle: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the text with parameters ``:p0``, ``:p1`` … and the driver's names in that order.

    The names are None where the driver takes its parameters by position.

    >>> named("SELECT a FROM t WHERE b = ? AND c = '?'", "qmark")
    ("SELECT a FROM t WHERE b = :p0 AND c = '?'", None)
    >>> named("SELECT a FROM t WHERE b = %(x)s::INTEGER", "pyformat")
    ('SELECT a FROM t WHERE b = (:p0)::INTEGER', ('x',))
    """
    escaped = _COLON.sub(r"\:", text)
    if paramstyle == "pyformat":
        return _from_pyformat(escaped)
    pattern = _QMARK if paramstyle == "qmark" else _NUMBERED
    count = 0

    def put(match: re.Match[str]) -> str:
        nonlocal count
        if match["hidden"]:
            return match[0]
        number = count if paramstyle == "qmark" else int(match["number"]) - 1
        count += 1
        return _marker(match, f"p{number}")

    return pattern.sub(put, escaped), None


def _from_pyformat(text: str) -> tuple[str, tuple[str, ...]]:
    order: dict[str, int] = {}

    def put(match: re.Match[str]) -> str:
        if match["percent"]:
            return "%"
        number = order.setdefault(match["name"], len(order))
        return _marker(match, f"p{number}")

    return _PYFORMAT.sub(put, text), tuple(order)


def _marker(match: re.Match[str], name: str) -> str:
    # text() takes `:p0::INTEGER` for something else
    cast = match.string.startswith("::", match.end())
    return f"(:{name})" if cast else f":{name}"


def by_name(
    parameters: Mapping[str, object] | Sequence[object], order: tuple[str, ...] | None
) -> dict[str, object]:
    """Return a driver's parameters by the names that `named` gave them."""
    if isinstance(parameters, Mapping):
        values = [parameters[name] for name in order or parameters]
    else:
        values = list(parameters)
    return {f"p{number}": value for number, value in enumerate(values)}
