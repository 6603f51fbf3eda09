"""One look at a PostgreSQL database: its snapshot, and the changes an earlier one did not see."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from everfresh.changes.postgres_definitions import DEFINITIONS
from everfresh.changes.postgres_tables import Tracked
from everfresh.changes.watching import FEED
from everfresh.connect.describe_postgres import TIMELINE
from everfresh.connect.replication import end_of_log, lsn
from everfresh.connect.wire import Row, Wire
from everfresh.kernel.affinity_postgres import Family
from everfresh.kernel.change import Change
from everfresh.kernel.mark import SnapshotMark

__all__ = ["MARK", "Look", "history_of", "look", "look_at_log", "moved", "read_changes"]

_ROWS = 20_000  # changes read one by one; beyond, the tables they are of count as changed

_DEFINITIONS = f"CASE WHEN pg_current_snapshot()::text <> {{}} THEN {DEFINITIONS} END"
_SINCE = (
    "xid >= pg_snapshot_xmin($1::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)"
)
# crash recovery may lose what was committed with synchronous_commit = off, and give its ids out
# again; it resets the statistics, which an orderly restart keeps
_HISTORY = f"""
SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text, {TIMELINE},
       (SELECT extract(epoch FROM stats_reset)::text FROM pg_stat_bgwriter),
       CASE WHEN has_function_privilege('pg_control_system()', 'execute')
            THEN (SELECT system_identifier::text FROM pg_control_system())
            ELSE coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'local') END"""


@dataclass(frozen=True, slots=True)
class Look:
    """Hold what was seen.

    ``timeline`` is empty on a standby, ``definitions`` None where nothing was committed since.
    """

    snapshot: SnapshotMark
    timeline: str
    definitions: str | None
    outbox: str | None = None
    pruned: int = 0
    rows: Sequence[Row] = field(default=())
    full: bool = False  # there were more rows than one look reads
    position: int = 0  # in the log


def history_of(wire: Wire) -> tuple[str, str]:
    """Return what names this database's numbering of transactions, and its timeline."""
    database, timeline, crash, system = wire.rows(_HISTORY)[0]
    return f"{system}.{timeline}/{database}/{crash}", timeline or ""


MARK = f"SELECT pg_current_snapshot()::text, {TIMELINE}"
"""Answers snapshot and timeline; a reader asks it on its own connection before its query."""


def look(wire: Wire, since: SnapshotMark, *, outbox: bool, defined: str | None) -> Look:
    """Take a snapshot and return it, with the changes in it that ``since`` does not see.

    ``defined`` is the snapshot in which the definitions were read last; they are read again unless
    nothing at all was committed since, or it is None.
    """
    asked = "NULL" if defined is None else _DEFINITIONS
    given = () if defined is None else (defined,)
    if not outbox:
        statement = f"SELECT pg_current_snapshot()::text, {TIMELINE}, {asked.format('$1')}"
        row = wire.rows(statement, *given, prepare=True)[0]
        return Look(SnapshotMark.parse(FEED, since.history, row[0] or ""), row[1] or "", row[2])
    found = wire.rows(
        f"SELECT pg_current_snapshot()::text, {TIMELINE}, {asked.format('$2')}, s.outbox,"
        " s.pruned::text, c.xid::text, c.tab::text, c.op::text, c.old::text, c.new::text"
        " FROM (SELECT 1) one LEFT JOIN everfresh.state s ON true LEFT JOIN LATERAL"
        f" (SELECT * FROM everfresh.change WHERE {_SINCE} LIMIT {_ROWS + 1}) c ON true",
        str(since),
        *given,
        prepare=True,
    )
    snapshot, timeline, told, name, pruned = found[0][:5]
    rows = [row[5:] for row in found if row[5] is not None]
    return Look(
        SnapshotMark.parse(FEED, since.history, snapshot or ""),
        timeline or "",
        told,
        name,
        int(pruned or 0),
        rows[:_ROWS],
        len(rows) > _ROWS,
    )


def look_at_log(wire: Wire, since: SnapshotMark, *, defined: str | None) -> Look:
    """Take a snapshot and return it, with a position in the log behind all that it sees."""
    asked = "NULL" if defined is None else _DEFINITIONS.format("$1")
    position = "CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END"
    statement = f"SELECT pg_current_snapshot()::text, {TIMELINE}, {asked}, {position}"
    given = () if defined is None else (defined,)
    snapshot, timeline, told, at = wire.rows(statement, *given, prepare=True)[0]
    mark = SnapshotMark.parse(FEED, since.history, snapshot or "")
    return Look(mark, timeline or "", told, position=end_of_log(lsn(at or "0/0")))


def read_changes(
    wire: Wire, seen: Look, since: SnapshotMark, tables: Mapping[int, Tracked], limit: int
) -> list[Change] | None:
    """Return the changes of a look, None if some are of a table that is not known.

    More than ``limit`` rows of one table become one change of the whole table.
    """
    if seen.full:
        rows: Sequence[Row] = wire.rows(
            "SELECT max(xid)::text, tab::text, 'W', NULL, NULL FROM everfresh.change"
            f" WHERE {_SINCE} AND pg_visible_in_snapshot(xid, $2::pg_snapshot) GROUP BY tab",
            str(since),
            str(seen.snapshot),
        )
    else:
        rows = seen.rows
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(int(row[1] or 0), []).append(row)
    told: list[Change] = []
    for oid, its in found.items():
        table = tables.get(oid)
        if table is None:
            return None
        if len(its) > limit:
            newest = max((row[0] or "0" for row in its), key=int)
            its = [(newest, None, "W", None, None)]
        told.extend(_changes(table, its, since.history))
    return told


def moved(before: SnapshotMark, after: SnapshotMark) -> set[int] | None:
    """Return the transactions that ``after`` sees and ``before`` did not, None for very many.

    >>> sorted(moved(SnapshotMark.parse("", "", "5:8:5"), SnapshotMark.parse("", "", "7:10:7,9")))
    [5, 8]
    """
    if after.xmax - before.xmax > _ROWS:
        return None
    candidates = before.running | frozenset(range(before.xmax, after.xmax))
    return {number for number in candidates if after.sees(number)}


def _changes(table: Tracked, rows: Iterable[Row], history: str) -> Iterable[Change]:
    for xid, _, operation, old, new in rows:
        before, after = _image(table, old), _image(table, new)
        whole = not _complete(operation, before, after)
        yield from table.changes(before, after, whole, history, int(xid or 0))


def _complete(operation: str | None, before: object, after: object) -> bool:
    wanted = {"I": (False, True), "U": (True, True), "D": (True, False)}.get(operation or "")
    return wanted == (before is not None, after is not None)


def _image(table: Tracked, text: str | None) -> dict[str, object] | None:
    """Return a row by column; what is not known how to compare is left out, which means unknown."""
    if text is None:
        return None
    try:
        values = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        return None
    image: dict[str, object] = {}
    for name, value in values.items():
        family = table.columns.get(name)
        if family is None:
            continue
        with suppress(ValueError, TypeError):
            image[name] = _value(family, value)
    return image


def _value(family: Family, value: Any) -> object:
    if value is None:
        return None
    if family == "timestamptz":
        return datetime.fromisoformat(value)
    if family == "bytea":
        return bytes.fromhex(value.removeprefix("\\x"))
    return value
