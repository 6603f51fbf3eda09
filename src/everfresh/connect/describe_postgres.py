"""Read the schema of a PostgreSQL database from pg_catalog."""

from __future__ import annotations

from everfresh.connect.description import DatabaseSchema, ForeignKey, Query
from everfresh.kernel.schema import Column, Table, TableKind

__all__ = ["TIMELINE", "database", "read", "session", "standing"]

_RELATIONS = """
SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence::text,
       CASE WHEN c.relkind = 'v' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            THEN pg_get_viewdef(c.oid) END,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(number, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisprimary
           AND a.attrelid = c.oid AND a.attnum = k.number),
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
       OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1')
       OR EXISTS (SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid
                   WHERE d.refclassid = 'pg_proc'::regclass AND p.provolatile = 'v'
                     AND p.oid >= 16384
                     AND (d.classid = 'pg_attrdef'::regclass AND d.objid IN
                            (SELECT oid FROM pg_attrdef WHERE adrelid = c.oid)
                       OR d.classid = 'pg_constraint'::regclass AND d.objid IN
                            (SELECT oid FROM pg_constraint WHERE conrelid = c.oid)
                       OR d.classid = 'pg_policy'::regclass AND d.objid IN
                            (SELECT oid FROM pg_policy WHERE polrelid = c.oid))),
       c.relrowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND n.nspname NOT LIKE 'pg\\_toast%'
   AND (n.nspname NOT LIKE 'pg\\_temp%' OR c.relnamespace = pg_my_temp_schema())
"""

_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN l.collname END
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname NOT LIKE 'pg\\_toast%'
 ORDER BY a.attrelid, a.attnum
"""

_FOREIGN_KEYS = """
SELECT cn.nspname, c.relname, pn.nspname, p.relname,
       k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
  JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE k.contype = 'f'
"""

_KIN = """
SELECT pn.nspname, p.relname, cn.nspname, c.relname
  FROM pg_inherits i
  JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
  JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f')
"""

_FUNCTIONS = """
SELECT p.proname, max(CASE p.provolatile WHEN 'v' THEN 'v' WHEN 's' THEN 's' ELSE 'i' END)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') OR p.provolatile = 'v'
 GROUP BY p.proname
"""

_SETTINGS = (
    "current_user",
    "session_user",
    "current_schemas(true)::text",
    "current_setting('search_path')",
    "current_setting('TimeZone')",
    "current_setting('DateStyle')",
    "current_setting('IntervalStyle')",
    "current_setting('extra_float_digits')",
    "current_setting('bytea_output')",
    "current_setting('lc_monetary')",
    "current_setting('row_security')",
)

TIMELINE = (
    "CASE WHEN pg_is_in_recovery() THEN '' ELSE"
    " left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END"
)
"""An expression for the timeline of the server that answers, empty on a standby."""

_KINDS: dict[str, TableKind] = {"v": "view", "f": "foreign"}
_SYSTEM = frozenset({"pg_catalog", "information_schema"})


def read(query: Query) -> DatabaseSchema:
    """Read tables, keys, inheritance and functions with one statement each."""
    columns: dict[str, list[Column]] = {}
    for schema, table, name, type_, collation in query(_COLUMNS):
        columns.setdefault(f"{schema}.{table}", []).append(Column(name, type_, collation))
    tables: dict[str, Table] = {}
    triggering: set[str] = set()
    for row in query(_RELATIONS):
        schema, table, kind, persistence, definition, primary, triggers, secured = row
        name = f"{schema}.{table}"
        tables[name] = Table(
            name,
            kind=_kind(schema, kind, persistence),
            columns=tuple(columns.get(name, ())),
            definition=definition and definition.rstrip().rstrip(";").strip(),
            primary_key=tuple(primary or ()),
            row_security=bool(secured),
        )
        if triggers and schema not in _SYSTEM:
            triggering.add(name)
    return DatabaseSchema(
        dialect="postgresql",
        tables=tables,
        search=tuple(row[0] for row in query("SELECT unnest(current_schemas(true))::text")),
        foreign_keys=tuple(
            ForeignKey(f"{row[0]}.{row[1]}", f"{row[2]}.{row[3]}", row[4])
            for row in query(_FOREIGN_KEYS)
        ),
        kin=tuple((f"{row[0]}.{row[1]}", f"{row[2]}.{row[3]}") for row in query(_KIN)),
        triggering=frozenset(triggering),
        functions={row[0]: row[1] for row in query(_FUNCTIONS)},
    )


def database(query: Query) -> str:
    """Return system identifier, timeline and oid of the database.

    Where the role may not read the control file, the server's address stands for it.
    """
    name, allowed, address = query(
        "SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text,"
        " has_function_privilege('pg_control_system()', 'execute')"
        " AND has_function_privilege('pg_control_checkpoint()', 'execute'),"
        " coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'local')"
    )[0]
    if not allowed:
        return f"postgresql:{address}/{name}"
    system, timeline = query(
        "SELECT system_identifier::text, timeline_id::text"
        " FROM pg_control_system(), pg_control_checkpoint()"
    )[0]
    return f"postgresql:{system}.{timeline}/{name}"


def session(query: Query) -> tuple[tuple[str, str], ...]:
    """Return the settings of this session that change what statements answer."""
    row = query(f"SELECT {', '.join(f'({setting})::text' for setting in _SETTINGS)}")[0]
    return tuple(zip(_SETTINGS, (str(value) for value in row), strict=True))


def standing(query: Query) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """Return the settings as `session` does, the snapshot and the timeline, with one statement."""
    asked = [*(f"({setting})::text" for setting in _SETTINGS), "pg_current_snapshot()::text"]
    *values, snapshot, timeline = query(f"SELECT {', '.join(asked)}, {TIMELINE}")[0]
    return tuple(zip(_SETTINGS, map(str, values), strict=True)), str(snapshot), str(timeline)


def _kind(schema: str, kind: str, persistence: str) -> TableKind:
    if schema in _SYSTEM:
        return "system"
    if persistence == "t":
        return "temporary"
    return _KINDS.get(kind, "table")
