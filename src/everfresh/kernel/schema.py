"""What the kernel knows of a database's tables; read by `connect.describe`, plain data here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = ["Column", "Schema", "Table", "TableKind"]

TableKind = Literal["table", "view", "temporary", "system", "virtual", "foreign"]


@dataclass(frozen=True, slots=True)
class Column:
    """Describe one column: its name, declared type and collation as the database gives them."""

    name: str
    type: str = ""
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Describe one table or view.

    ``name`` is canonical: ``"schema.table"``, in lower case on SQLite (whose identifiers ignore
    case), as stored in the catalogue on PostgreSQL. ``definition`` is the SELECT of a view.
    ``row_security`` is set where policies decide which rows a session sees.
    """

    name: str
    kind: TableKind = "table"
    columns: tuple[Column, ...] = ()
    definition: str | None = None
    primary_key: tuple[str, ...] = ()
    row_security: bool = False
    column: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", {column.name: column for column in self.columns})


class Schema(Protocol):
    """Look up the tables of one database, as the statements of one session would see them."""

    @property
    def dialect(self) -> str:
        """``"sqlite"`` or ``"postgresql"`` (the names SQLAlchemy uses)."""

    def table(self, schema: str | None, name: str) -> Table | None:
        """Return the table that this possibly unqualified name means, None if there is none.

        Identifiers come folded as the dialect folds them (lower case unless quoted on
        PostgreSQL; lower case on SQLite).
        """

    def volatile_function(self, name: str) -> bool | None:
        """Whether a function the user defined is volatile; None when it is not known."""
