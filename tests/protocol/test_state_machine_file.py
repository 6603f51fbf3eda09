"""Random use of a SQLite file by several processes, under `strict`, against an uncached oracle.

Every answer must equal what a plain connection reads at that moment, whoever wrote last: this
process through the cache's engine, another connection of it, another process, or one that was
killed while it wrote to the database, the store or the catalogue.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import everfresh
from everfresh.engine.audit import same_rows
from everfresh.errors import EverfreshError
from protocol.file_processes import DIED, Process, connect, run

SOAK = bool(os.environ.get("EVERFRESH_SOAK"))
STATUSES = {"hit", "fill", "refresh", "bypass"}
FAILURES = (sa.exc.DBAPIError, EverfreshError)

SCHEMA = [
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, name VARCHAR(10))",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent ON DELETE CASCADE, "
    "v INTEGER, s VARCHAR(10))",
    "CREATE TABLE noted (kind VARCHAR(10), v INTEGER)",
    "CREATE TABLE wide (k TEXT COLLATE NOCASE PRIMARY KEY, v REAL) WITHOUT ROWID",
    "CREATE TABLE later (id INTEGER PRIMARY KEY, v)",
    "CREATE VIEW busy AS SELECT parent_id, count(*) AS n FROM child GROUP BY parent_id",
    "CREATE TRIGGER note AFTER INSERT ON child BEGIN INSERT INTO noted VALUES ('insert', new.v); END",
    *(f"INSERT INTO parent VALUES ({n}, 'ab{n % 2}')" for n in range(1, 7)),
    *(f"INSERT INTO child VALUES ({n}, {n % 6 + 1}, {n % 5}, 'ab{n % 3}')" for n in range(1, 9)),
    *(f"INSERT INTO wide VALUES ('k{n}', {n} / 2.0)" for n in range(4)),
]

QUERIES = [
    "SELECT * FROM child WHERE v = :x",
    "SELECT count(*) AS n, sum(v) AS s FROM child WHERE v BETWEEN :x AND :x + 2",
    "SELECT p.name, count(c.id) AS n FROM parent p LEFT JOIN child c ON c.parent_id = p.id "
    "WHERE p.id <= :x GROUP BY p.name",
    "SELECT * FROM later WHERE v >= :x",
    "SELECT k, v FROM wide WHERE k = 'K' || :x",
    "SELECT count(*) AS n FROM noted WHERE kind = 'insert' AND v >= :x",
    "SELECT n FROM busy WHERE n > :x",
    "SELECT p.id FROM parent p LEFT JOIN child c ON c.parent_id = p.id AND c.v = :x WHERE c.id IS NULL",
    "SELECT id FROM parent WHERE id NOT IN (SELECT parent_id FROM child WHERE v > :x)",
    "SELECT id FROM child WHERE s LIKE 'a%' AND v <> :x",
    "SELECT a.id, b.id AS other FROM child a JOIN child b ON a.v = b.v AND a.id < b.id WHERE a.parent_id = :x",
    "SELECT * FROM child c JOIN parent p ON p.id = c.parent_id WHERE p.id = :x",
    "SELECT total(v) AS t FROM wide WHERE v < :x",
]
IN_FOCUS = QUERIES[:7]

WRITES = {
    "parent": "INSERT INTO parent VALUES ({key}, {s}) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "child": "INSERT OR IGNORE INTO child (id, parent_id, v, s) VALUES ({key}, {parent}, {v}, {s})",
    "replace": "REPLACE INTO child (id, parent_id, v, s) VALUES ({key}, {parent}, {v}, {s})",
    "upsert": "INSERT INTO child (id, parent_id, v, s) VALUES ({key}, {parent}, {v}, {s}) "
    "ON CONFLICT (id) DO UPDATE SET v = child.v + excluded.v",
    "update": "UPDATE child SET v = {v}, s = {s} WHERE id = {key}",
    "move": "UPDATE child SET v = v + 1 WHERE v = {v}",
    "number": "UPDATE OR IGNORE child SET id = id + 3 WHERE v = {v}",
    "name": "UPDATE parent SET name = {s} WHERE id = {key}",
    "delete": "DELETE FROM child WHERE v = {v}",
    "cascade": "DELETE FROM parent WHERE id = {key}",
    "all": "DELETE FROM child",
    "clear": "DELETE FROM noted",
    "wide": "REPLACE INTO wide VALUES ('k{v}', {key} / 2.0)",
    "thin": "DELETE FROM wide WHERE k = 'K{v}'",
    "later": "REPLACE INTO later VALUES ({key}, {v})",
    "text": "UPDATE child SET v = '{v}' WHERE id = {key}",
    "real": "UPDATE later SET v = {v} + 0.5 WHERE id <= {key}",
    "nothing": "UPDATE child SET v = v WHERE id = {key}",
}

SCHEMA_CHANGES = {
    "column": ["ALTER TABLE child ADD COLUMN extra{v} DEFAULT {key}"],
    "no column": ["ALTER TABLE child DROP COLUMN extra{v}"],
    "index": ["CREATE INDEX by_v ON child (v)"],
    "no index": ["DROP INDEX by_v"],
    "table": ["CREATE TABLE later (id INTEGER PRIMARY KEY, v)"],
    "no table": ["DROP TABLE later"],
    "rename": ["ALTER TABLE later RENAME TO sooner"],
    "rename back": ["ALTER TABLE sooner RENAME TO later"],
    "copied table": ["DROP TABLE IF EXISTS later", "CREATE TABLE later AS SELECT id, v FROM child"],
    "label": ["ALTER TABLE parent RENAME COLUMN name TO label"],
    "label back": ["ALTER TABLE parent RENAME COLUMN label TO name"],
    "view": [
        "DROP VIEW busy",
        "CREATE VIEW busy AS SELECT parent_id, count(*) AS n FROM child WHERE v >= {v} GROUP BY 1",
    ],
    "collation": [
        "DROP TABLE wide",
        "CREATE TABLE wide (k TEXT PRIMARY KEY, v INTEGER)",
        "INSERT INTO wide VALUES ('k{v}', {key})",
    ],
    "trigger": [
        "DROP TRIGGER note",
        "CREATE TRIGGER note AFTER INSERT ON child BEGIN INSERT INTO noted VALUES ('insert', {v}); END",
    ],
    "noted": ["DROP TABLE noted", "CREATE TABLE noted (kind VARCHAR(10), v INTEGER)"],
    "analyze": ["ANALYZE"],
}
HAND = [
    "DELETE FROM everfresh_change",
    "DELETE FROM everfresh_change WHERE seq % 2",
    "DELETE FROM everfresh_change WHERE seq < (SELECT max(seq) FROM everfresh_change)",
    "DROP TABLE everfresh_change",
    "DROP TABLE everfresh_tracking",
    "DELETE FROM everfresh_tracking",
    "DROP TRIGGER everfresh_0_keep",
    "DROP TRIGGER {trigger}",
]

small = st.integers(0, 4)
ids = st.integers(1, 9)
texts = st.sampled_from(["'abc'", "'ab'", "'xyz'", "''", "NULL", "x'6162'"])
kinds = st.sampled_from([*WRITES, "update", "child", "replace"])
values = st.tuples(kinds, ids, ids, small, texts)
changes = st.tuples(st.sampled_from(list(SCHEMA_CHANGES)), ids, small)
who = st.sampled_from(["stranger", "process"])


def write_of(value):
    kind, key, parent, v, s = value
    return WRITES[kind].format(key=key, parent=parent, v=v, s=s)


class Opened:
    """A cache with an engine of its own, and functions kept in it."""

    def __init__(self, path, engine=None, **options):
        self.engine = engine
        if engine is None:
            self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.02})
            sa.event.listen(self.engine, "connect", self.prepare)
        self.cache = cache = everfresh.open(self.engine, freshness="strict", **options)

        @cache.cached
        def counted(x):
            return [tuple(row) for text in (QUERIES[1], QUERIES[9]) for row in cache.sql(text, x=x)]

        @cache.cached
        def whether(x):
            return (cache.sql(QUERIES[1], x=x)[0].s or 0) > 4

        @cache.cached
        def chosen(x):
            return counted(x) if whether(x) else [tuple(row) for row in cache.sql(QUERIES[4], x=x)]

        self.counted, self.chosen = counted, chosen

    @staticmethod
    def prepare(raw, record):
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA synchronous = OFF")

    def close(self, *, keep_engine=False):
        self.cache.close()
        if not keep_engine:
            self.engine.dispose()


class FileMachine(RuleBasedStateMachine):
    writer: Process
    forker: Process

    @initialize(
        focus=small, wal=st.booleans(), track=st.booleans(), room=st.sampled_from([40_000, 10**6])
    )
    def start(self, focus, wal, track, room):
        self.folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self.folder.name) / "data.db")
        self.focus, self.now, self.room = focus, 1000.0, room
        self.connection = self.savepoint = self.owner = None
        self.others_open, self.interruptions = set(), []
        self.truth, self.stranger = connect(self.path), connect(self.path)
        run(self.stranger, [f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}"])
        assert not run(self.stranger, ["BEGIN", *SCHEMA, "COMMIT"])
        self.stranger.execute("PRAGMA foreign_keys = ON")
        self.opened = [self.open()]
        if track:
            self.opened[0].cache.track()

    def open(self, engine=None):
        return Opened(self.path, engine, clock=self.clock, **self.settings())

    def settings(self):
        folder = Path(self.folder.name)
        return {
            "store": f"sqlite:///{folder / 'answers.db'}",
            "catalogue": f"sqlite:///{folder / 'record.db'}",
            "max_bytes": self.room,
            "store_bytes": 2 * self.room,
        }

    def clock(self):
        """Also what lets others write in the middle of a read: the cache looks at it now and then."""
        if self.interruptions and threading.current_thread() is threading.main_thread():
            interrupt = self.interruptions.pop(0)
            interrupt()
        return self.now

    def teardown(self):
        if not hasattr(self, "opened"):
            return
        try:
            self.let_go()
            for each in self.opened:
                audit = each.cache.audit()
                assert audit.stale == 0, audit
        finally:
            for each in self.opened:
                each.close()
            self.truth.close()
            self.stranger.close()
            self.folder.cleanup()

    def let_go(self):
        """End what anybody has open."""
        if self.connection is not None:
            self.end(commits=False)
        self.writer.ask(path="")
        if self.stranger.in_transaction:
            self.stranger.execute("ROLLBACK")
        self.others_open.clear()

    def which(self, n):
        return self.opened[n % len(self.opened)]

    # reading -----------------------------------------------------------------

    @staticmethod
    def attempt(ask):
        """Return what it gives and no error, or nothing and the error."""
        try:
            return ask(), None
        except (*FAILURES, sqlite3.Error) as error:
            return None, error

    def direct(self, query, x):
        cursor = self.truth.execute(query, {"x": x})
        names = tuple(column[0] for column in cursor.description)
        return names, cursor.fetchall()

    def compare(self, rows, error, found, failed):
        if error is not None or failed is not None:
            locked = any("locked" in str(e) for e in (error, failed))
            assert locked or (error and failed), (error, failed)
            return
        names, expected = found
        assert rows.receipt.status in STATUSES
        assert same_rows(rows, expected), (list(rows), expected, rows.receipt)
        assert rows.columns == names, rows.receipt

    def check(self, opened, query, x):
        rows, error = self.attempt(lambda: opened.cache.sql(query, x=x))
        found, failed = self.attempt(lambda: self.direct(query, x))
        self.compare(rows, error, found, failed)

    @rule(n=small, query=st.sampled_from(QUERIES), x=small)
    def read(self, n, query, x):
        self.check(self.which(n), query, x)

    @invariant()
    def everything_in_focus_is_right(self):
        if hasattr(self, "opened"):
            self.now += 0.05
            for each in self.opened:
                for query in IN_FOCUS:
                    self.check(each, query, self.focus)
                self.check_functions(each, self.focus)
            if self.connection is not None and self.looks:
                self.read_inside([], self.focus)

    @precondition(lambda self: not self.others_open)
    @rule(
        n=small,
        query=st.sampled_from(QUERIES),
        x=small,
        whose=who,
        what=st.one_of(values, changes),
        at=st.integers(0, 8),
        inside=st.booleans(),
    )
    def read_while_others_write(self, n, query, x, whose, what, at, inside):
        """The answer may be of before or after; what is kept of it is looked at in the next step."""
        if len(what) == 3:
            kind, key, v = what
            statements = [s.format(key=key, v=v) for s in SCHEMA_CHANGES[kind]]
        else:
            statements = [write_of(what)]

        def interrupt():
            self.foreign(whose, ["BEGIN IMMEDIATE", *statements, "COMMIT"])

        before = self.attempt(lambda: self.direct(query, x))
        self.interruptions = [*[lambda: None] * at, interrupt]
        opened = self.which(n)
        if inside:
            self.attempt(lambda: opened.chosen(x))
            self.interruptions = []
            self.read_through_functions(n, x)
        else:
            answer = self.attempt(lambda: opened.cache.sql(query, x=x))
            self.interruptions = []
            after = self.attempt(lambda: self.direct(query, x))
            try:
                self.compare(*answer, *before)
            except AssertionError:
                self.compare(*answer, *after)

    @rule(n=small, x=small)
    def read_through_functions(self, n, x):
        self.check_functions(self.which(n), x)

    def check_functions(self, opened, x):
        for made_of, function in ((self.counted, opened.counted), (self.chosen, opened.chosen)):
            value, error = self.attempt(lambda function=function: function(x))
            found, failed = self.attempt(lambda made_of=made_of: made_of(x))
            if error is None and failed is None:
                assert same_rows(value, found), (value, found)
            else:
                locked = any("locked" in str(e) for e in (error, failed))
                assert locked or (error and failed), (error, failed)

    def counted(self, x):
        return [*self.direct(QUERIES[1], x)[1], *self.direct(QUERIES[9], x)[1]]

    def chosen(self, x):
        whether = (self.direct(QUERIES[1], x)[1][0][1] or 0) > 4
        return self.counted(x) if whether else self.direct(QUERIES[4], x)[1]

    @precondition(lambda self: self.connection is not None)
    @rule(queries=st.lists(st.sampled_from(QUERIES), min_size=1, max_size=3), x=small)
    def read_inside(self, queries, x):
        for query, x in [*((q, x) for q in queries), *((q, self.focus) for q in IN_FOCUS)]:
            rows, error = self.attempt(
                lambda query=query, x=x: self.owner.cache.using(connection=self.connection).sql(
                    query, x=x
                )
            )

            def direct(query=query, x=x):
                result = self.connection.execute(sa.text(query), {"x": x})
                return tuple(result.keys()), result.fetchall()

            self.compare(rows, error, *self.attempt(direct))

    # writing through the engine of a cache --------------------------------------

    @precondition(lambda self: self.connection is None)
    @rule(n=small, value=values, commits=st.booleans(), bound=st.booleans())
    def write(self, n, value, commits, bound):
        with suppress(*FAILURES), self.which(n).engine.connect() as connection:
            if bound:
                text = "UPDATE child SET v = :v, parent_id = :p WHERE id = :id"
                connection.execute(sa.text(text), {"id": value[1], "p": value[2], "v": value[3]})
            else:
                connection.exec_driver_sql(write_of(value))
            connection.commit() if commits else connection.rollback()

    @precondition(lambda self: self.connection is None)
    @rule(n=small, value=values)
    def write_in_autocommit(self, n, value):
        with (
            suppress(*FAILURES),
            self.which(n)
            .engine.connect()
            .execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.exec_driver_sql(write_of(value))

    @precondition(lambda self: self.connection is None)
    @rule(
        n=small,
        rows=st.lists(st.tuples(ids, small), min_size=1, max_size=4),
        replaces=st.booleans(),
    )
    def write_many(self, n, rows, replaces):
        text = "UPDATE child SET v = :v WHERE id = :id"
        if replaces:
            text = "REPLACE INTO later (id, v) VALUES (:id, :v)"
        with suppress(*FAILURES), self.which(n).engine.begin() as connection:
            connection.execute(sa.text(text), [{"id": i, "v": v} for i, v in rows])

    @precondition(lambda self: self.connection is None)
    @rule(n=small, several=st.lists(values, min_size=1, max_size=3), script=st.booleans())
    def write_raw(self, n, several, script):
        raw = self.which(n).engine.raw_connection()
        try:
            with suppress(sqlite3.Error):
                if script:
                    raw.driver_connection.executescript(
                        "; ".join(["BEGIN", *map(write_of, several), "COMMIT"])
                    )
                else:
                    for value in several:
                        raw.cursor().execute(write_of(value))
                    raw.commit()
        finally:
            raw.close()

    @precondition(lambda self: self.connection is None)
    @rule(n=small, snapshot=st.booleans(), looks=st.booleans(), value=st.none() | values)
    def begin(self, n, snapshot, looks, value):
        """Begin to read, or to write; ``looks``: and read in it again after every step."""
        self.owner = self.which(n)
        self.connection = self.owner.engine.connect()
        if snapshot:
            self.connection.exec_driver_sql("BEGIN")
        self.looks = looks
        if value is not None:
            self.write_inside(value)

    @precondition(lambda self: self.connection is not None)
    @rule(value=values)
    def write_inside(self, value):
        with suppress(*FAILURES):
            self.connection.exec_driver_sql(write_of(value))

    @precondition(lambda self: self.connection is not None and self.savepoint is None)
    @rule()
    def set_savepoint(self):
        with suppress(*FAILURES):
            self.connection.execute(sa.text("UPDATE parent SET id = id WHERE id < 0"))
            self.savepoint = self.connection.begin_nested()

    @precondition(lambda self: self.savepoint is not None)
    @rule(keep=st.booleans())
    def end_savepoint(self, keep):
        with suppress(*FAILURES):
            self.savepoint.commit() if keep else self.savepoint.rollback()
        self.savepoint = None

    @precondition(lambda self: self.connection is not None)
    @rule(commits=st.booleans())
    def end(self, commits):
        with suppress(*FAILURES):
            self.connection.commit() if commits else self.connection.rollback()
        self.connection.close()
        self.connection = self.savepoint = None

    # writing by others ----------------------------------------------------------

    def foreign(self, whose, statements):
        if whose == "stranger":
            return run(self.stranger, statements)
        return self.writer.ask(path=self.path, statements=statements)

    @rule(
        whose=who,
        several=st.lists(values, min_size=1, max_size=3),
        ends=st.sampled_from(["COMMIT", "ROLLBACK", ""]),
    )
    def others_write(self, whose, several, ends):
        """In autocommit, or in a transaction which may stay open for a while."""
        statements = list(map(write_of, several))
        if whose in self.others_open:
            statements.append(ends or "COMMIT")
            self.others_open.discard(whose)
        elif ends:
            statements = ["BEGIN IMMEDIATE", *statements, ends]
        self.foreign(whose, statements)

    @precondition(lambda self: not self.others_open)
    @rule(whose=who, value=values)
    def others_begin(self, whose, value):
        if not self.foreign(whose, ["BEGIN IMMEDIATE", write_of(value)]):
            self.others_open.add(whose)

    # the schema -------------------------------------------------------------------

    @rule(
        whose=st.sampled_from(["own", "stranger", "process"]),
        change=changes,
        value=values,
        with_rows=st.booleans(),
    )
    def change_the_schema(self, whose, change, value, with_rows):
        kind, key, v = change
        statements = [s.format(key=key, v=v) for s in SCHEMA_CHANGES[kind]]
        if with_rows:
            statements.append(write_of(value))
        if whose == "own":
            if self.connection is None:
                with suppress(*FAILURES), self.which(v).engine.begin() as connection:
                    for statement in statements:
                        connection.exec_driver_sql(statement)
            return
        if whose not in self.others_open:
            self.foreign(whose, ["BEGIN IMMEDIATE", *statements, "COMMIT"])

    @rule(whose=who, statement=st.sampled_from(HAND), n=small)
    def take_the_tracking_apart(self, whose, statement, n):
        if whose in self.others_open:
            return
        found = self.truth.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'everfresh%' ORDER BY 1"
        ).fetchall()
        if found:
            self.foreign(whose, [statement.format(trigger=f'"{found[n % len(found)][0]}"')])

    @rule(n=small, what=st.sampled_from(["track", "track", "some", "untrack", "prune", "heard"]))
    def tracking(self, n, what):
        cache = self.which(n).cache
        cache.feed.watch.patience = 20
        with suppress(*FAILURES):
            if what == "track":
                cache.track()
            elif what == "some":
                cache.track(["child"])
            elif what == "untrack":
                cache.untrack()
            elif what == "prune":
                cache.feed.watch.prune(2)
            else:
                cache.feed.watch.announce(["child"])

    # the file ---------------------------------------------------------------------

    @rule(
        whose=st.sampled_from(["own", "stranger", "process"]),
        statement=st.sampled_from(
            [
                "PRAGMA wal_checkpoint(TRUNCATE)",
                "PRAGMA wal_checkpoint(PASSIVE)",
                "VACUUM",
                "PRAGMA journal_mode = WAL",
                "PRAGMA journal_mode = DELETE",
                "PRAGMA journal_mode = TRUNCATE",
                "PRAGMA incremental_vacuum",
                "PRAGMA optimize",
            ]
        ),
        n=small,
    )
    def tend_the_file(self, whose, statement, n):
        if whose == "own":
            if self.connection is None:
                engine = self.which(n).engine
                with (
                    suppress(*FAILURES),
                    engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
                ):
                    connection.exec_driver_sql(statement)
        elif whose not in self.others_open:
            self.foreign(whose, [statement])

    @precondition(lambda self: self.connection is None)
    @rule(n=small, value=values, detach=st.booleans(), commits=st.booleans())
    def attach(self, n, value, detach, commits):
        aux = Path(self.folder.name) / "aux.db"
        with suppress(*FAILURES), self.which(n).engine.connect() as connection:
            attached = [row[1] for row in connection.exec_driver_sql("PRAGMA database_list")]
            connection.rollback()
            if "aux" not in attached:
                connection.exec_driver_sql(f"ATTACH '{aux}' AS aux")
            connection.exec_driver_sql(
                "CREATE TABLE IF NOT EXISTS aux.later (id INTEGER PRIMARY KEY, v)"
            )
            connection.exec_driver_sql("INSERT INTO aux.later (v) VALUES (1)")
            connection.exec_driver_sql(write_of(value))
            connection.commit() if commits else connection.rollback()
            if detach:
                connection.exec_driver_sql("DETACH aux")

    # what outlives a process ---------------------------------------------------------

    @rule(
        closes=st.booleans(),
        same_engine=st.booleans(),
        flushes=st.booleans(),
        meanwhile=st.lists(values, max_size=2),
        harm=st.sampled_from(
            ["", "", "copy", "put back", "put back", "remove", "truncate", "garbage"]
        ),
        mode=st.sampled_from(["", "", "WAL", "DELETE"]),
        rebooted=st.booleans(),
    )
    def restart(self, closes, same_engine, flushes, meanwhile, harm, mode, rebooted):
        if not closes:
            self.opened.append(self.open())
            if len(self.opened) > 2:
                self.let_go()
                self.opened.pop(0).close()
            return
        self.let_go()
        same_engine = same_engine and not mode
        for each in self.opened:
            if flushes:
                each.cache.fills.durable.flush()
            each.close(keep_engine=same_engine)
        engine = self.opened[-1].engine if same_engine else None
        for each in self.opened[:-1]:
            each.engine.dispose()
        self.opened = []
        if mode:
            self.truth.close()
            self.stranger.close()
            self.writer.ask(path=self.path, statements=[f"PRAGMA journal_mode = {mode}"])
            self.truth, self.stranger = connect(self.path), connect(self.path)
        if meanwhile:
            self.foreign("process", ["BEGIN IMMEDIATE", *map(write_of, meanwhile), "COMMIT"])
        if harm:
            self.hurt(harm)
        if rebooted:
            self.now = 10.0
        self.opened = [self.open(engine)]

    @rule(
        how=st.sampled_from(["copy", "remove", "truncate", "garbage"]),
        what=st.sampled_from(["answers", "record"]),
    )
    def hurt(self, how, what="answers"):
        """Done by the other process: to open the file here would drop the locks of this one."""
        if what == "record" and how != "copy":
            return
        self.writer.ask(path=str(Path(self.folder.name) / f"{what}.db"), harm=how)

    @rule(n=small)
    def flush(self, n):
        self.which(n).cache.fills.durable.flush()

    @rule(
        several=st.lists(values, min_size=1, max_size=3),
        count=st.integers(1, 250),
        file=st.sampled_from(["data", "answers", "record", ".db"]),
        track=st.booleans(),
        prune=st.booleans(),
        seconds=st.sampled_from([None, None, None, 0.05, 0.1]),
    )
    def another_process_is_killed(self, several, count, file, track, prune, seconds):
        self.let_go()
        code, said = self.forker.ask(
            path=self.path,
            settings={**self.settings(), "freshness": "strict"},
            statements=list(map(write_of, several)),
            queries=[(query, self.focus) for query in IN_FOCUS],
            track=track,
            prune=prune,
            **({"count": count, "target": file} if seconds is None else {"seconds": seconds}),
        )
        assert code in (0, DIED, -9), (code, said)

    # the rest ------------------------------------------------------------------------

    @rule(n=small, what=st.sampled_from(["parent", "child", "later", None, "text"]))
    def invalidate(self, n, what):
        cache = self.which(n).cache
        with suppress(*FAILURES):
            if what == "text":
                cache.invalidate(QUERIES[0], x=self.focus)
            else:
                cache.invalidate(what)

    @rule(seconds=st.sampled_from([0.5, 5.0, 1000.0, 1e7]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(n=small)
    def audit(self, n):
        assert self.which(n).cache.audit().stale == 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_file_of_many_writers():
    examples = int(os.environ.get("EVERFRESH_SOAK_EXAMPLES", "5000")) if SOAK else 10
    FileMachine.writer, FileMachine.forker = Process("write"), Process("fork")
    try:
        run_state_machine_as_test(
            FileMachine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                derandomize=not SOAK,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
    finally:
        FileMachine.writer.close()
        FileMachine.forker.close()


# -- how late another process is heard


@pytest.mark.parametrize(("freshness", "bound"), [(everfresh.bounded(0.2), 0.2), ("strict", 0.0)])
@pytest.mark.parametrize("tracked", [False, True])
def test_no_thread_sees_a_value_older_than_the_bound(tmp_path, freshness, bound, tracked):
    """No margin is needed for a slow scheduler, which can only make the demand milder.

    The writer takes the time after its commit has returned, a reader before it asks; whatever is
    delayed in between lets the one be later or the other earlier than the truth. CLOCK_MONOTONIC
    is one for all processes.
    """
    path = str(tmp_path / "data.db")
    setup = connect(path)
    table = "CREATE TABLE number (id INTEGER PRIMARY KEY, n INTEGER)"
    assert not run(setup, ["PRAGMA journal_mode = WAL", table, "INSERT INTO number VALUES (1, 0)"])
    setup.close()
    over = threading.Event()
    seen: list[tuple[float, int]] = []
    writer = Process("numbers")
    with everfresh.open(f"sqlite:///{path}", freshness=freshness) as cache:
        if tracked:
            cache.track()

        @cache.cached
        def twice():
            return 2 * cache.sql("SELECT n FROM number WHERE id = 1").scalar()

        def read(through_function):
            while not over.is_set():
                begun = time.monotonic()
                if through_function:
                    value = twice() // 2
                else:
                    value = cache.sql("SELECT n FROM number WHERE id = :i", i=1).scalar()
                seen.append((begun, value))
                time.sleep(0.0005)

        threads = [threading.Thread(target=read, args=(n % 2,)) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            committed = writer.ask(path=path, seconds=3 if SOAK else 1, seed=1)
        finally:
            over.set()
            for thread in threads:
                thread.join(20)
            writer.close()
        hits = cache.stats().hits
    times = [at for _, at in committed]
    for begun, value in seen:
        heard = bisect_right(times, begun - bound)  # numbers are 1, 2, 3, …: so many were committed
        assert value >= heard, (value, heard, begun)
    assert len(committed) > 10
    assert hits > 100
    assert {value for _, value in seen} - {0}
