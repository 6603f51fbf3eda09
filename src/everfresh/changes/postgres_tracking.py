"""Put an outbox into a PostgreSQL database, tell what is tracked, and take it out again.

Every function takes a `Wire` to the database and does its work in one transaction: all of it or
nothing. What `plan` returns is what `install` runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from everfresh.changes import postgres_outbox as outbox
from everfresh.changes.postgres_tables import examine
from everfresh.changes.watching import Tracking
from everfresh.connect.wire import Wire
from everfresh.errors import ConfigurationError

__all__ = ["announce", "install", "plan", "prune", "remove", "status"]

_PATIENCE = 5.0  # seconds that a table's lock is waited for: whoever wants it next waits behind us


def status(wire: Wire) -> Tracking:
    """Return what is tracked, what is not and why, and how long the history is."""
    found = examine(wire)
    counted: Sequence[Any] = (0, 0, 0)
    if found.outbox is not None and found.why_not is None:
        counted = wire.rows(
            "SELECT count(*), coalesce(min(xid)::text, '0'), coalesce(max(xid)::text, '0')"
            " FROM everfresh.change"
        )[0]
    return found.as_tracking(*(int(number or 0) for number in counted))


def plan(wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()) -> list[str]:
    """Return the SQL that `install` would run; empty when all is in place."""
    found = examine(wire)
    if found.outbox is None and found.why_not is not None:
        raise ConfigurationError(found.why_not)
    return list(outbox.installing(found, found.choose(tables), readers))


def install(
    wire: Wire, tables: Iterable[str] | None = None, readers: Iterable[str] = ()
) -> Tracking:
    """Track these tables with all their partitions, or all; what is in place already stays.

    ``readers`` are roles that may hear the changes besides whoever installs them, and with them
    every row that changes. Raises `ConfigurationError` for a table that cannot be tracked or does
    not exist, and where the schema ``everfresh`` is somebody else's.
    """
    _at_once(wire, plan(wire, tables, readers))
    return status(wire)


def remove(wire: Wire) -> Tracking:
    """Drop every trigger of ours and the outbox."""
    _at_once(wire, list(outbox.removing(examine(wire))))
    return status(wire)


def announce(wire: Wire, tables: Iterable[str] | None = None) -> list[str]:
    """Log a change of these tables as a whole, or of all; return those that are tracked."""
    found = examine(wire)
    told = [table for table in found.choose(tables) if table.canonical in found.tracked]
    if told:
        wire.rows(outbox.announcing(told))
    return sorted(table.canonical for table in told)


def prune(wire: Wire, keep_rows: int) -> int:
    """Delete all but about the latest changes; return how many went.

    What was read before the oldest that is left cannot be proven any more.
    """
    return int(wire.rows(outbox.pruning(keep_rows))[0][0] or 0)


def _at_once(wire: Wire, statements: Sequence[str]) -> None:
    if statements:
        limit = f"SET LOCAL lock_timeout = {int(_PATIENCE * 1000)}"
        wire.rows("; ".join(("BEGIN", limit, *statements, "COMMIT")))
