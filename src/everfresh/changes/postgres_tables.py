"""What tracking of ours a PostgreSQL database holds, and which columns its rows have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from everfresh.changes.watching import Tracking
from everfresh.connect.wire import Wire
from everfresh.errors import ConfigurationError
from everfresh.kernel.affinity_postgres import Family, family_of
from everfresh.kernel.change import Change

__all__ = ["Installed", "Tracked", "examine", "examine_publication", "quoted"]

_OURS = frozenset({"everfresh_row", "everfresh_truncate"})

# not by to_regclass, which fails for a role that may not use the schema
_STATE = """
WITH ours AS (SELECT c.oid, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'everfresh' AND c.relname IN ('state', 'change'))
SELECT CASE WHEN (SELECT count(*) FROM ours) = 2 THEN 'yes' END,
       to_regnamespace('everfresh') IS NOT NULL,
       (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'everfresh' AND p.proname IN ('log', 'wake')) = 2,
       current_setting('max_prepared_transactions') = '0',
       (SELECT coalesce(bool_and(has_table_privilege(oid, 'SELECT')), false) FROM ours)
         AND coalesce(has_schema_privilege(to_regnamespace('everfresh'), 'USAGE'), false)"""

# AFTER … FOR EACH ROW of all three kinds is 29, AFTER TRUNCATE is 32 (pg_trigger.h)
_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind,
       coalesce((SELECT json_agg(t.tgname) FROM pg_trigger t
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname LIKE 'everfresh\\_%'), '[]'),
       coalesce((SELECT json_agg(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = c.oid AND t.tgenabled = 'A' AND t.tgqual IS NULL
           AND t.tgattr = '' AND p.pronamespace = to_regnamespace('everfresh')
           AND (t.tgname, p.proname, t.tgtype) IN
             (('everfresh_row', 'log', 29), ('everfresh_truncate', 'log', 32),
              ('everfresh_wake', 'wake', 60))), '[]'),
       (SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod))
                        ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attgenerated::text <> 'v'),
       (SELECT json_agg(a.attname ORDER BY k.place)
          FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(number, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid
           AND a.attnum = k.number),
       (SELECT json_agg(i.inhparent::bigint) FROM pg_inherits i WHERE i.inhrelid = c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'everfresh', 'everfresh_store')
   AND n.nspname NOT LIKE 'pg\\_toast%'"""

_PUBLICATION = "everfresh"
_PUBLISHED = """
SELECT t.schemaname, t.tablename FROM pg_publication p
  LEFT JOIN pg_publication_tables t ON t.pubname = p.pubname AND t.rowfilter IS NULL
 WHERE p.pubname = $1 AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate
   AND NOT p.pubviaroot"""

_KINDS = {"m": "a materialised view: REFRESH CONCURRENTLY fires no trigger", "f": "a foreign table"}


def quoted(name: str) -> str:
    """Return an identifier as PostgreSQL takes it literally."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Tracked:
    """Hold one table: its columns' families by name (None: not compared), and its triggers.

    ``above`` are the canonical names of what it is a partition or a child of; ``present`` are
    triggers of ours by name, ``sound`` those of them that fire for every write.
    """

    oid: int
    schema: str
    name: str
    kind: str
    columns: Mapping[str, Family | None]
    key: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()
    present: frozenset[str] = frozenset()
    sound: frozenset[str] = frozenset()
    above: tuple[str, ...] = ()

    @property
    def canonical(self) -> str:
        """The name by which sources and changes call the table."""
        return f"{self.schema}.{self.name}"

    def changes(
        self,
        before: Mapping[str, object] | None,
        after: Mapping[str, object] | None,
        whole: bool,
        history: str,
        sequence: int,
    ) -> Iterator[Change]:
        """Yield what a row's images tell of this table, then of those above; ``whole``: any row."""
        image = after if after is not None else before
        key = None if whole or image is None else tuple(image.get(name) for name in self.key)
        change = Change(
            self.canonical,
            old=None if whole else before,
            new=None if whole else after,
            key=key or None,
            history=history,
            sequence=sequence,
        )
        yield change
        for name in self.above:
            yield replace(change, table=name)

    @property
    def quoted(self) -> str:
        """The name as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def logged(self) -> bool:
        """Whether every write to its own rows is logged."""
        return self.sound >= _OURS


@dataclass(frozen=True)
class Installed:
    """Hold what was found; ``outbox`` is None where there is none, ``tables`` are by oid.

    ``wakes``: writers may notify. ``why_not`` says why the outbox cannot be read. ``published`` are
    the tables that a publication tells of, None where triggers do.
    """

    outbox: str | None
    functions: bool
    wakes: bool
    tables: Mapping[int, Tracked] = field(default_factory=dict)
    why_not: str | None = None
    published: frozenset[str] | None = None

    @cached_property
    def tracked(self) -> frozenset[str]:
        """Tables of which every write is logged: of partitioned ones, that to each leaf."""
        if self.outbox is None or self.why_not is not None:
            return frozenset()
        lacking: set[str] = set()
        for table in self.tables.values():
            if table.kind != "p" and not self._told_of(table):
                lacking |= {table.canonical, *table.above}
        return frozenset(t.canonical for t in self.tables.values()) - lacking

    @property
    def _lacking(self) -> str:
        if self.published is not None:
            return "it is not in the publication everfresh"
        return "it has no triggers of everfresh"

    def _told_of(self, table: Tracked) -> bool:
        published = self.published
        return table.logged if published is None else table.canonical in published

    @cached_property
    def untracked(self) -> dict[str, str]:
        """The other tables, with why."""
        return {
            t.canonical: self.why_not or _KINDS.get(t.kind, self._lacking)
            for t in self.tables.values()
            if t.canonical not in self.tracked
        }

    @property
    def listens(self) -> bool:
        """Whether what is tracked wakes those who listen."""
        logged = [t for t in self.tables.values() if t.logged]
        return self.wakes and bool(logged) and all("everfresh_wake" in t.sound for t in logged)

    def choose(self, names: Iterable[str] | None) -> list[Tracked]:
        """Return the tables and leaves that these names mean, all without them.

        Raises `ConfigurationError` for a name that means none, or one that cannot be tracked.
        """
        if names is None:
            return [t for t in self.tables.values() if t.kind == "r"]
        chosen: dict[int, Tracked] = {}
        for name in [names] if isinstance(names, str) else names:
            found = [t for t in self.tables.values() if _means(t, name)]
            if not found:
                known = ", ".join(sorted(t.canonical for t in self.tables.values())) or "none"
                raise ConfigurationError(
                    f"there is no table {name!r} to track: choose from {known}"
                )
            for table in found:
                if table.kind in _KINDS:
                    raise ConfigurationError(f"{name!r} cannot be tracked: {_KINDS[table.kind]}")
                chosen |= {leaf.oid: leaf for leaf in self._leaves(table)}
        return list(chosen.values())

    def _leaves(self, table: Tracked) -> Iterator[Tracked]:
        if table.kind == "r":
            yield table
        for other in self.tables.values():
            if table.canonical in other.above and other.kind == "r":
                yield other

    def as_tracking(self, rows: int, oldest: int, newest: int) -> Tracking:
        """Return what is told of it."""
        known = self.tables.values()
        some = sorted(t.canonical for t in known if t.present and t.canonical not in self.tracked)
        none = self.outbox is None
        return Tracking(
            None if none else self.outbox,
            tuple(sorted(self.tracked)),
            dict(sorted(self.untracked.items())),
            tuple(some),
            rows,
            oldest,
            newest,
        )


def _means(table: Tracked, name: object) -> bool:
    if not isinstance(name, str):
        raise ConfigurationError(f"tables are named by text, not by {name!r}")
    return name in (table.canonical, table.name)


def examine_publication(wire: Wire) -> Installed:
    """Read which tables a publication of ours tells of, and every table."""
    found = wire.rows(_PUBLISHED, _PUBLICATION)
    whole = {f"{schema}.{name}" for schema, name in found if name is not None}
    why_not = None if found else "there is no publication everfresh"
    tables = _with_ancestors({table.oid: table for table in map(_table, wire.rows(_TABLES))})
    return Installed("slot", True, True, tables, why_not, frozenset(whole))


def examine(wire: Wire) -> Installed:
    """Read what is installed, and every table."""
    outbox, taken, functions, wakes, readable = wire.rows(_STATE)[0]
    why_not = None
    name: str | None = None
    if outbox is None and taken == "t":
        why_not = "the schema everfresh is not whole: run `everfresh track remove`, then install"
    elif outbox is not None and readable != "t":
        why_not = "this role may not read everfresh.change: `everfresh track install --reader ROLE`"
        name = "unreadable"
    elif outbox is not None:
        name, kind = wire.rows("SELECT outbox, format FROM everfresh.state")[0]
        if kind != "1":
            why_not = "its outbox was made by a newer everfresh: upgrade this one"
    tables = _with_ancestors({table.oid: table for table in map(_table, wire.rows(_TABLES))})
    return Installed(name, functions == "t", wakes == "t", tables, why_not)


def _table(row: tuple[str | None, ...]) -> Tracked:
    oid, schema, name, kind, present, sound, columns, key, parents = row
    types = json.loads(columns or "[]")
    return Tracked(
        int(oid or 0),
        schema or "",
        name or "",
        kind or "",
        {column: family_of(declared) for column, declared in types},
        tuple(json.loads(key or "[]")),
        tuple(json.loads(parents or "[]")),
        frozenset(json.loads(present or "[]")),
        frozenset(json.loads(sound or "[]")),
    )


def _with_ancestors(tables: dict[int, Tracked]) -> dict[int, Tracked]:
    made = {}
    for oid, table in tables.items():
        above: dict[int, None] = {}
        waiting = list(table.parents)
        while waiting:
            parent = waiting.pop()
            if parent not in above and parent in tables:
                above[parent] = None
                waiting.extend(tables[parent].parents)
        names = tuple(tables[parent].canonical for parent in above)
        made[oid] = Tracked(**{**vars(table), "above": names})
    return made
