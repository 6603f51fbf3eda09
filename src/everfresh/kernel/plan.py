"""What is known of a statement before it runs: its sources, or why it is not cached."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from everfresh.kernel.change import Change

__all__ = [
    "Anchor",
    "Effect",
    "EffectKind",
    "Plan",
    "Source",
    "SourceTemplate",
    "TableSource",
    "reads_clock",
]

EffectKind = Literal[
    "read",
    "write",
    "ddl",
    "begin",
    "commit",
    "rollback",
    "savepoint",
    "prepare",
    "setting",
    "other",
]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Name the values of one column, in the column's normal form, that a row must have to matter.

    The change index finds a source by its anchor: a change whose old and new rows both have
    another value in that column cannot touch the source. ``domain`` tells apart the ways in which
    a column's values may have been brought to normal form; equal domains do it alike.
    """

    column: str
    values: tuple[object, ...]
    domain: Hashable = None


class Source(Protocol):
    """Say which rows of one table an answer depends on; parameters are bound.

    Immutable and hashable by identity; `str()` gives the SQL-like text receipts show, such as
    ``flights WHERE month = 6``.
    """

    @property
    def table(self) -> str | None:
        """Canonical table name; None stands for the whole database."""

    @property
    def anchor(self) -> Anchor | None:
        """The best equality or IN condition for the index, None if there is none."""

    def touched_by(self, change: Change) -> bool:
        """Whether this change could alter what the statement reads from this source."""

    def normal(self, column: str, value: object) -> object:
        """Return the value's normal form by the column's SQL equality; ANY if it has none."""


class SourceTemplate(Protocol):
    """Hold a source whose conditions still name the statement's parameters."""

    @property
    def table(self) -> str | None:
        """Canonical table name; None stands for the whole database."""

    def bind(self, parameters: Mapping[str, object]) -> Source:
        """Return the source with these parameter values put in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold what the analysis of one SELECT found.

    ``refusal`` says why the statement's answers are not kept, None if they are.
    ``clock_parameters`` name the parameters that make the statement read the clock if their value
    is a word such as ``"now"``; `refuses` tells.
    """

    sources: tuple[SourceTemplate, ...] = ()
    refusal: str | None = None
    clock_parameters: tuple[str, ...] = ()

    def bind(self, parameters: Mapping[str, object]) -> tuple[Source, ...]:
        """Return the sources with these parameter values put in."""
        return tuple(template.bind(parameters) for template in self.sources)

    def refuses(self, parameters: Mapping[str, object]) -> str | None:
        """Return why the answer for these parameter values is not kept, None if it is.

        >>> Plan(clock_parameters=("day",)).refuses({"day": "now"})
        "the parameter 'day' asks for the current time"
        """
        if self.refusal is not None:
            return self.refusal
        for name in self.clock_parameters:
            if reads_clock(parameters.get(name)):
                return f"the parameter {name!r} asks for the current time"
        return None


_CLOCK_WORDS = re.compile(
    r"[\d\s:.,+/-]*([a-z]{1,9}\s+)?(now|today|tomorrow|yesterday|subsec|subsecond)"
    r"([\s,]+[\d\s:.,+-]*([a-z]{1,5}|[a-z_]+/[a-z_/]+)?\s*)?",
    re.IGNORECASE,
)


def reads_clock(value: object) -> bool:
    """Whether SQL would take the current time for this value, where it expects a time.

    >>> reads_clock("now"), reads_clock(b"today 12:00"), reads_clock("as of now and then")
    (True, True, False)
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value).decode("latin-1")
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(reads_clock(part) for part in value)
    return isinstance(value, str) and len(value) < 100 and bool(_CLOCK_WORDS.fullmatch(value))


@dataclass(frozen=True, slots=True)
class Effect:
    """Tell what kind of statement a text is and which tables it writes by name.

    ``tables`` is None when it may write anything. ``replaces`` is set for INSERT OR REPLACE and
    its kin, whose deleted rows SQLite's triggers do not see.
    """

    kind: EffectKind
    tables: tuple[tuple[str | None, str], ...] | None = ()
    replaces: bool = False
    temporary: bool = False  # it creates a temporary table


@dataclass(frozen=True, slots=True, eq=False)
class TableSource:
    """Depend on everything in one table, or in the whole database when the table is None.

    >>> TableSource("main.flights").touched_by(Change("main.flights", new={"month": 6}))
    True
    """

    table: str | None

    @property
    def anchor(self) -> Anchor | None:
        """No row can be told apart."""
        return None

    def touched_by(self, change: Change) -> bool:
        """Whether the change is of this table."""
        return self.table is None or change.table is None or change.table == self.table

    def normal(self, column: str, value: object) -> object:
        """Never asked for: there is no anchor."""
        return value

    def __str__(self) -> str:
        return self.table or "the whole database"
