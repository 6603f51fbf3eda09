"""LIKE and GLOB with a literal or parameter as their pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from everfresh.kernel.predicate import (
    ABSENT,
    FALSE,
    NULL,
    TRUE,
    UNKNOWN,
    Always,
    Condition,
    Operand,
    Row,
    Values,
)

__all__ = ["Liked", "Matches", "PatternKind"]

PatternKind = Literal["like", "like_ignore_case", "glob"]


@dataclass(frozen=True, slots=True)
class Liked:
    """Match a text column with a pattern; `bind` makes the test of it."""

    column: str
    pattern: Operand
    kind: PatternKind
    escape: str | None = None

    def bind(self, parameters: Row) -> Condition:
        """Return the test against the pattern's value."""
        pattern = self.pattern.value(parameters)
        if pattern is None:
            # SQLite may be built to answer FALSE for a blob
            return Always(NULL | FALSE)
        if type(pattern) is not str or "\0" in pattern:
            return Always(UNKNOWN)
        parts = _parse(pattern, self.kind, self.escape)
        if parts is None:
            return Always(UNKNOWN)
        expression = re.compile(_regex(parts), re.DOTALL)
        return Matches(self.column, pattern, self.kind, _prefix(parts), expression)

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: no one value decides."""
        return {}


@dataclass(frozen=True, slots=True)
class Matches:
    """Hold if a text column matches a pattern."""

    column: str
    pattern: str
    kind: PatternKind
    prefix: str
    expression: re.Pattern[str]

    def bind(self, parameters: Row) -> Condition:
        """Return itself."""
        return self

    def test(self, row: Row) -> int:
        """Return the truth values, unknown where SQLite's case folding may be extended."""
        value = row.get(self.column, ABSENT)
        if value is None:
            return NULL
        if type(value) is int and self.kind != "like":
            value = str(value)
        if type(value) is not str or "\0" in value:
            return UNKNOWN
        if self.kind == "like_ignore_case":
            return self._ignoring_case(value)
        return TRUE if self.expression.fullmatch(value) else FALSE

    def _ignoring_case(self, value: str) -> int:
        # PRAGMA case_sensitive_like and ICU change what matches; no setting makes ASCII
        # characters equal that differ by more than case
        for index, wanted in enumerate(self.prefix):
            if index == len(value):
                return FALSE
            if wanted.lower() != value[index].lower():
                ascii_both = wanted.isascii() and value[index].isascii()
                return FALSE if ascii_both else UNKNOWN & ~NULL
            if not value[index].isascii():
                return UNKNOWN & ~NULL
        if self.expression.fullmatch(value):
            return TRUE
        folded = re.compile(self.expression.pattern, re.DOTALL | re.IGNORECASE)
        if value.isascii() and self.pattern.isascii() and not folded.fullmatch(value):
            return FALSE
        return UNKNOWN & ~NULL

    def anchors(self) -> dict[str, Values]:
        """Return nothing: no one value decides."""
        return {}

    def __str__(self) -> str:
        word = "GLOB" if self.kind == "glob" else "LIKE"
        return f"{self.column} {word} {self.pattern!r}"


_Part = str | Literal[True] | None  # a character, True for any one, None for any number


def _parse(pattern: str, kind: PatternKind, escape: str | None) -> list[_Part] | None:
    many, one = ("*", "?") if kind == "glob" else ("%", "_")
    parts: list[_Part] = []
    characters = iter(pattern)
    for character in characters:
        if escape is not None and character == escape:
            following = next(characters, None)
            if following is None:
                return None  # an error on PostgreSQL, no match on SQLite
            parts.append(following)
        elif kind == "glob" and character == "[":
            return None
        else:
            parts.append(None if character == many else True if character == one else character)
    return parts


def _prefix(parts: list[_Part]) -> str:
    prefix = ""
    for part in parts:
        if not isinstance(part, str):
            break
        prefix += part
    return prefix


def _regex(parts: list[_Part]) -> str:
    return "".join(
        ".*" if part is None else "." if part is True else re.escape(part) for part in parts
    )
