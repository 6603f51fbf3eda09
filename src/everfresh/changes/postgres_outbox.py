"""The outbox in a PostgreSQL database: a change table, and triggers that write to it, as SQL.

Triggers write each row before and after into ``everfresh.change`` in the writer's own transaction,
with its transaction id; who reads them compares ids with snapshots, so no order is promised and
none is needed. The triggers sit on tables and leaf partitions, whichever way rows get there, and
fire for replicated rows too. They never make a write fail: the function asks whether its table is
there, uses nothing of the writer's session, and names no column, so that columns may come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from everfresh.changes.postgres_tables import Installed, Tracked, quoted

__all__ = ["announcing", "installing", "pruning", "removing"]

_LARGE = 8000
"""Characters of a row, before and after, above which it is not copied: the table is stale then."""

_STATE = """CREATE TABLE everfresh.state (one boolean PRIMARY KEY DEFAULT true CHECK (one),
  format integer NOT NULL, outbox text NOT NULL, pruned xid8 NOT NULL)"""
_CHANGE = """CREATE TABLE everfresh.change (xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  tab oid NOT NULL, op "char" NOT NULL, old text, new text,
  at timestamptz NOT NULL DEFAULT transaction_timestamp())"""
_FOUNDATION = (
    "CREATE SCHEMA everfresh",
    _STATE,
    "INSERT INTO everfresh.state (format, outbox, pruned) VALUES (1, gen_random_uuid(), '0')",
    _CHANGE,
    "CREATE INDEX change_xid ON everfresh.change (xid)",
    # where all tables are published, rows without a key could not be deleted otherwise
    "ALTER TABLE everfresh.change REPLICA IDENTITY FULL",
)
# as it is printed, a value must not depend on the writer's settings
_PINNED = (
    "SET search_path = pg_catalog, pg_temp SET extra_float_digits = 3 SET bytea_output = hex"
    " SET IntervalStyle = iso_8601 SET TimeZone = 'UTC'"
)
# row_to_json runs a user's own cast to json, which would have the rights of who installed this: so
# no row is copied then. What is written in C or internal (12, 13) only a superuser can have made.
_LOG = f"""CREATE OR REPLACE FUNCTION everfresh.log() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER {_PINNED} AS $everfresh$
DECLARE
  before text;
  after text;
BEGIN
  IF to_regclass('everfresh.change') IS NULL OR (TG_OP = 'UPDATE' AND NOT OLD *<> NEW) THEN
    RETURN NULL;
  END IF;
  IF EXISTS (SELECT FROM pg_cast c WHERE c.casttarget = 'json'::regtype AND c.castsource >= 16384
      AND (SELECT p.prolang FROM pg_proc p WHERE p.oid = c.castfunc) > 13) THEN
    INSERT INTO everfresh.change (tab, op) VALUES (TG_RELID, 'W');
    RETURN NULL;
  END IF;
  IF TG_OP IN ('UPDATE', 'DELETE') THEN
    before := row_to_json(OLD);
  END IF;
  IF TG_OP IN ('UPDATE', 'INSERT') THEN
    after := row_to_json(NEW);
  END IF;
  IF TG_OP = 'TRUNCATE' OR coalesce(length(before), 0) + coalesce(length(after), 0) > {_LARGE} THEN
    INSERT INTO everfresh.change (tab, op) VALUES (TG_RELID, 'W');
  ELSE
    INSERT INTO everfresh.change (tab, op, old, new)
      VALUES (TG_RELID, left(TG_OP, 1)::"char", before, after);
  END IF;
  RETURN NULL;
END $everfresh$"""
# A notification makes PREPARE TRANSACTION fail, and with a full queue every COMMIT; it also makes
# commits wait for each other, so of those that are under way only one gives it
_WAKE = """CREATE OR REPLACE FUNCTION everfresh.wake() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $everfresh$
BEGIN
  IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5
     AND pg_try_advisory_xact_lock(hashtext('everfresh.wake')) THEN
    PERFORM pg_notify('everfresh', '');
  END IF;
  RETURN NULL;
END $everfresh$"""
_EVENTS = {
    "everfresh_row": "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"
    " EXECUTE FUNCTION everfresh.log()",
    "everfresh_truncate": "AFTER TRUNCATE ON {} FOR EACH STATEMENT"
    " EXECUTE FUNCTION everfresh.log()",
    "everfresh_wake": "AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} FOR EACH STATEMENT"
    " EXECUTE FUNCTION everfresh.wake()",
}


def installing(
    found: Installed, chosen: Sequence[Tracked], readers: Iterable[str] = ()
) -> Iterator[str]:
    """Yield what has to be run so that the writers of these tables are logged.

    ``readers`` are roles that may read the change table besides its owner. It holds the rows of
    all that is tracked: nobody may by default.
    """
    if found.outbox is None:
        yield from _FOUNDATION
    if not found.functions:
        yield from (_LOG, _WAKE)
    for table in chosen:
        yield from _triggers(table, wakes=found.wakes)
    for role in readers:
        yield f"GRANT USAGE ON SCHEMA everfresh TO {quoted(role)}"
        yield f"GRANT SELECT, DELETE ON everfresh.change TO {quoted(role)}"
        yield f"GRANT SELECT, UPDATE ON everfresh.state TO {quoted(role)}"


def _triggers(table: Tracked, *, wakes: bool) -> Iterator[str]:
    wanted = ["everfresh_row", "everfresh_truncate", *(["everfresh_wake"] if wakes else [])]
    for name in wanted:
        if name in table.sound:
            continue
        if name in table.present:
            yield f"DROP TRIGGER {name} ON {table.quoted}"
        yield f"CREATE TRIGGER {name} {_EVENTS[name].format(table.quoted)}"
        yield f"ALTER TABLE {table.quoted} ENABLE ALWAYS TRIGGER {name}"


def removing(found: Installed) -> Iterator[str]:
    """Yield what takes every trigger of ours and the schema away again."""
    for table in found.tables.values():
        yield from (f"DROP TRIGGER {name} ON {table.quoted}" for name in sorted(table.present))
    yield "DROP SCHEMA IF EXISTS everfresh CASCADE"


def announcing(tables: Iterable[Tracked]) -> str:
    """Return what logs a change of each of these tables as a whole."""
    rows = ", ".join(f"({table.oid:d}, 'W')" for table in tables)
    return f"INSERT INTO everfresh.change (tab, op) VALUES {rows}"


def pruning(keep_rows: int) -> str:
    """Return what deletes all but about this many of the latest changes, and says how many.

    No row of a transaction goes that any snapshot taken from now on does not see, and who stood
    before the oldest that is left can tell. One process does it at a time.
    """
    return f"""
WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('everfresh.prune')) AS mine),
latest AS (
  SELECT xid FROM everfresh.change, turn WHERE mine ORDER BY xid DESC OFFSET {keep_rows:d} LIMIT 1),
bound AS MATERIALIZED (
  SELECT least(xid, pg_snapshot_xmin(pg_current_snapshot())) AS xid FROM latest),
told AS (
  UPDATE everfresh.state SET pruned = greatest(pruned, bound.xid) FROM bound RETURNING 1),
gone AS (DELETE FROM everfresh.change c USING bound WHERE c.xid < bound.xid RETURNING 1)
SELECT count(*) FROM gone"""
