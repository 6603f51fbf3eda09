"""A fingerprint of what tables are and who may read them, for no trigger tells of that.

Grants, revocations and DDL reach neither triggers nor a replication slot.
"""

from __future__ import annotations

__all__ = ["DEFINITIONS"]

# of stores and leases of ours, whose tables come and go: none of the data's
_NOT_STORES = "{} IS DISTINCT FROM to_regnamespace('everfresh_store')::oid"
# what comes with the server has lower oids; temporary tables are each session's own
_USERS = f"c.oid >= 16384 AND c.relpersistence <> 't' AND {_NOT_STORES.format('c.relnamespace')}"
_READ = f"{_USERS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')"  # 'c': a type's own columns

# xmin changes with every change of a row, but for those that are made in place: statistics
_TABLES = """SELECT c.oid, c.relname, c.relnamespace, c.relowner, c.relkind, c.relacl,
  c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
  CASE WHEN c.relkind = 'm' THEN c.relfilenode END FROM pg_class c"""
_COLUMNS = """SELECT a.attrelid, a.attnum, a.xmin FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attrelid >= 16384"""
_TRIGGERS = "SELECT t.oid, t.xmin FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
_VIEWS = "SELECT r.oid, r.xmin FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class"
_SCHEMAS = "SELECT oid, nspname, nspowner, nspacl FROM pg_namespace"
_PARTS = (
    f"{_TABLES} WHERE {_READ}",
    f"{_COLUMNS} WHERE {_READ}",
    f"{_TRIGGERS} WHERE t.oid >= 16384 AND {_USERS}",
    f"{_VIEWS} WHERE r.oid >= 16384 AND {_USERS}",
    f"SELECT oid, xmin FROM pg_proc WHERE oid >= 16384 AND {_NOT_STORES.format('pronamespace')}",
    f"{_SCHEMAS} WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'everfresh_store'",
    "SELECT inhrelid, inhparent, xmin FROM pg_inherits WHERE inhrelid >= 16384",
    "SELECT oid, xmin FROM pg_enum WHERE oid >= 16384",
    "SELECT oid, xmin FROM pg_policy",
    "SELECT oid, xmin FROM pg_publication",
    "SELECT oid, xmin FROM pg_publication_rel",
    "SELECT oid, rolsuper, rolinherit, rolbypassrls FROM pg_roles",
    "SELECT roleid, member, xmin FROM pg_auth_members",
)
_SUM = "(SELECT sum(hashtextextended(part::text, 0)) FROM ({}) part)"

DEFINITIONS = f"md5(concat_ws('|', {', '.join(map(_SUM.format, _PARTS))}))"
"""An expression that changes with tables, columns, views, functions, grants, policies and roles.

Statistics, TRUNCATE and what happens to temporary tables do not change it.
"""
