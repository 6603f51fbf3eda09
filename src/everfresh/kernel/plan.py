"""What is known of a statement before it runs: its sources, or why it is not cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from everfresh.kernel.change import Change

__all__ = ["Anchor", "Effect", "EffectKind", "Plan", "Source", "SourceTemplate"]

EffectKind = Literal[
    "read", "write", "ddl", "begin", "commit", "rollback", "savepoint", "prepare", "setting", "other"
]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Name the values of one column, in the column's normal form, that a row must have to matter.

    The change index finds a source by its anchor: a change whose old and new rows both have
    another value in that column cannot touch the source.
    """

    column: str
    values: tuple[object, ...]


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
    def table(self) -> str | None: ...

    def bind(self, parameters: Mapping[str, object]) -> Source:
        """Return the source with these parameter values put in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold what the analysis of one SELECT found.

    ``refusal`` says why the statement's answers are not kept, None if they are.
    """

    sources: tuple[SourceTemplate, ...] = ()
    refusal: str | None = None

    def bind(self, parameters: Mapping[str, object]) -> tuple[Source, ...]:
        """Return the sources with these parameter values put in."""
        return tuple(template.bind(parameters) for template in self.sources)


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
