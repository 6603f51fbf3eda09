"""Put what tells of changes into a PostgreSQL database, say what is tracked, and take it out again.

There are two ways: an outbox with triggers, and a publication for replication slots. Every method
takes a `Wire` to the database and does its work in one transaction: all of it or nothing. What
`plan` returns is what `install` runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from everfresh.changes import postgres_outbox as outbox
from everfresh.changes.postgres_tables import Installed, Tracked, examine, examine_publication
from everfresh.changes.watching import Tracking
from everfresh.connect.wire import Wire
from everfresh.errors import ConfigurationError

__all__ = ["OUTBOX", "PUBLICATION", "Ways"]

_PATIENCE = 5.0  # seconds that a table's lock is waited for: whoever wants it next waits behind us


class Ways(Protocol):
    """Install one way of hearing changes, and remove it."""

    def status(self, wire: Wire) -> Tracking:
        """Return what is tracked, what is not and why, and how long the history is."""

    def plan(
        self, wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
    ) -> list[str]:
        """Return the SQL that `install` would run; empty when all is in place."""

    def install(
        self, wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
    ) -> Tracking:
        """Track these tables with all their partitions, or all; what is in place already stays.

        ``readers`` are roles that may hear the changes besides whoever installs them, and with them
        every row that changes. Raises `ConfigurationError` for a table that cannot be tracked or
        does not exist, and where what would be made is somebody else's.
        """

    def remove(self, wire: Wire) -> Tracking:
        """Undo `install`."""

    def announce(self, wire: Wire, tables: Iterable[str] | None = None) -> list[str]:
        """Tell every process that these tables changed, or all; return those that are tracked."""

    def prune(self, wire: Wire, keep_rows: int) -> int:
        """Delete all but about the latest changes of the history; return how many went."""


class _Outbox:
    """Write each change to a table, by triggers."""

    def status(self, wire: Wire) -> Tracking:
        found = examine(wire)
        counted: Sequence[Any] = (0, 0, 0)
        if found.outbox is not None and found.why_not is None:
            counted = wire.rows(
                "SELECT count(*), coalesce(min(xid)::text, '0'), coalesce(max(xid)::text, '0')"
                " FROM everfresh.change"
            )[0]
        return found.as_tracking(*(int(number or 0) for number in counted))

    def plan(
        self, wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
    ) -> list[str]:
        found = examine(wire)
        if found.outbox is None and found.why_not is not None:
            raise ConfigurationError(found.why_not)
        return list(outbox.installing(found, found.choose(tables), readers))

    def install(
        self, wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
    ) -> Tracking:
        _at_once(wire, self.plan(wire, tables, readers))
        return self.status(wire)

    def remove(self, wire: Wire) -> Tracking:
        _at_once(wire, list(outbox.removing(examine(wire))))
        return self.status(wire)

    def announce(self, wire: Wire, tables: Iterable[str] | None = None) -> list[str]:
        found = examine(wire)
        told = [table for table in found.choose(tables) if table.canonical in found.tracked]
        if told:
            wire.rows(outbox.announcing(told))
        return sorted(table.canonical for table in told)

    def prune(self, wire: Wire, keep_rows: int) -> int:
        return int(wire.rows(outbox.pruning(keep_rows))[0][0] or 0)


class _Publication:
    """Let the server's own log tell, through a publication."""

    def status(self, wire: Wire) -> Tracking:
        return examine_publication(wire).as_tracking(0, 0, 0)

    def plan(
        self, wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
    ) -> list[str]:
        if list(readers):
            raise ConfigurationError(
                "whoever has the attribute REPLICATION may read a slot: no readers are named"
            )
        found = examine_publication(wire)
        chosen = [t for t in found.choose(tables) if t.canonical not in found.tracked]
        return list(_publishing(found, chosen))

    def install(
        self, wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
    ) -> Tracking:
        if wire.rows("SHOW wal_level")[0][0] != "logical":
            raise ConfigurationError(
                "the server must run with wal_level = logical: set it, or use feed='outbox'"
            )
        _at_once(wire, self.plan(wire, tables, readers))
        return self.status(wire)

    def remove(self, wire: Wire) -> Tracking:
        _at_once(wire, ["DROP PUBLICATION IF EXISTS everfresh"])
        return self.status(wire)

    def announce(self, wire: Wire, tables: Iterable[str] | None = None) -> list[str]:
        raise ConfigurationError("a slot tells of rows only: announce through an outbox")

    def prune(self, wire: Wire, keep_rows: int) -> int:
        return 0


OUTBOX: Ways = _Outbox()
PUBLICATION: Ways = _Publication()


def _publishing(found: Installed, tables: Sequence[Tracked]) -> Iterator[str]:
    names = ", ".join(table.quoted for table in tables)
    if found.why_not is not None:
        yield (
            f"CREATE PUBLICATION everfresh FOR TABLE {names}"
            if names
            else ("CREATE PUBLICATION everfresh")
        )
    elif names:
        yield f"ALTER PUBLICATION everfresh ADD TABLE {names}"


def _at_once(wire: Wire, statements: Sequence[str]) -> None:
    if statements:
        limit = f"SET LOCAL lock_timeout = {int(_PATIENCE * 1000)}"
        wire.rows("; ".join(("BEGIN", limit, *statements, "COMMIT")))
