"""What one connection has written and not committed: the port both dialects fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from everfresh.changes.statements import Statement
from everfresh.kernel.change import Change

__all__ = ["Pending", "as_changes"]


class Pending(Protocol):
    """Follow the transactions of one DBAPI connection."""

    raw: Any
    direct: bool  # checked out without a SQLAlchemy Connection

    def in_transaction(self) -> bool:
        """Whether the driver has a transaction open."""

    def alone(self, statement: Statement) -> bool:
        """Whether this statement, run now, would be committed by itself."""

    def before(self, statement: Statement) -> None:
        """Note a statement that is about to run."""

    def potential(self, statement: Statement) -> list[Change]:
        """Return what a statement that was noted may change at most."""

    def after(self, statement: Statement, cursor: Any, *, failed: bool) -> None:
        """Note that a statement has run."""

    def retry(self, error: BaseException) -> bool:
        """Whether the statement failed because of us, and will not when it is run again."""

    def unfinished(self, cursor: Any) -> bool:
        """Whether a statement that commits by itself has done so only when its rows are read."""

    def finished(self) -> bool:
        """Whether the statement that was unfinished has ended since."""

    def savepoint(self, statement: Statement) -> None:
        """Follow BEGIN, SAVEPOINT, RELEASE and ROLLBACK TO after they ran."""

    def written(self) -> bool:
        """Whether the open transaction has written, as far as is known."""

    def quiet(self) -> bool:
        """Whether the open transaction has done nothing that its end would have to tell."""

    def suspect(self) -> None:
        """Suppose that the open transaction has written anything."""

    def schema_changed(self) -> None:
        """Read the schema again before it is used."""

    def detach(self) -> None:
        """Leave the connection as it was found, as far as that can be done now."""

    def foreign(self) -> bool:
        """Whether the connection wrote behind our back."""

    def altered(self, stamp: tuple[int, ...]) -> bool:
        """Whether the schema may not be the one of this stamp; nothing told of the change."""

    def changes(self) -> list[Change]:
        """Return what the open transaction, about to be committed, has changed."""

    def tell(self, changes: Sequence[Change]) -> None:
        """Let what is about to be committed be known as ours to who hears the other writers."""

    def ended(self) -> None:
        """Forget what was pending: it was committed or rolled back."""


def as_changes(names: Iterable[str | None], rows: Sequence[Change] = ()) -> list[Change]:
    """Return changes of whole tables, and of rows of the other tables; None swallows all."""
    whole = set(names)
    if None in whole:
        return [Change(None)]
    tables = [Change(name) for name in sorted(name for name in whole if name is not None)]
    return tables + [row for row in rows if row.table not in whole]
