"""Random use against an uncached oracle, on SQLite and PostgreSQL.

Every read through the cache is compared with the same query on a connection the cache knows nothing
of; reads inside the open transaction are compared with that transaction itself.
"""

import os
import tempfile
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

SOAK = bool(os.environ.get("EVERFRESH_SOAK"))

QUERIES = [
    "SELECT * FROM child WHERE v = :x",
    "SELECT count(*) AS n, sum(v) AS s FROM child WHERE v BETWEEN :x AND :x + 2",
    "SELECT p.name, count(c.id) AS n FROM parent p LEFT JOIN child c ON c.parent_id = p.id "
    "WHERE p.id <= :x GROUP BY p.name",
    "SELECT p.id FROM parent p LEFT JOIN child c ON c.parent_id = p.id AND c.v = :x WHERE c.id IS NULL",
    "SELECT id FROM parent WHERE id NOT IN (SELECT parent_id FROM child WHERE v > :x)",
    "SELECT id FROM child WHERE s LIKE 'a%' AND v <> :x",
    "SELECT id, v, rank() OVER (ORDER BY v) AS place FROM child WHERE parent_id = :x",
    "SELECT a.id, b.id AS other FROM child a JOIN child b ON a.v = b.v AND a.id < b.id WHERE a.parent_id = :x",
    "SELECT max(v) AS m FROM child WHERE s IS NULL OR v IN (:x, 3)",
    "SELECT count(*) AS n FROM noted WHERE kind = 'insert' AND v >= :x",
    "SELECT id, name FROM parent WHERE id = :x UNION ALL SELECT id, s FROM child WHERE v = :x",
    "SELECT n FROM busy WHERE n > :x",
    "SELECT id FROM parent WHERE EXISTS (SELECT 1 FROM child WHERE parent_id = parent.id AND v = :x)",
]

SCHEMA = [
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, name VARCHAR(10))",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent ON DELETE CASCADE, "
    "v INTEGER, s VARCHAR(10))",
    "CREATE TABLE noted (kind VARCHAR(10), v INTEGER)",
    "CREATE VIEW busy AS SELECT parent_id, count(*) AS n FROM child GROUP BY parent_id",
]
SQLITE_TRIGGER = [
    "CREATE TRIGGER note AFTER INSERT ON child BEGIN INSERT INTO noted VALUES ('insert', new.v); END"
]
POSTGRES_TRIGGER = [
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN INSERT INTO noted VALUES ('insert', new.v); RETURN new; END$$",
    "CREATE TRIGGER note AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION note()",
]

small = st.integers(0, 6)
ids = st.integers(1, 12)
texts = st.sampled_from(["abc", "ab", "xyz", "", None])


class Machine(RuleBasedStateMachine):
    """Fixed by a subclass: `make_engine` returns a fresh database's engine with the schema."""

    def make_engine(self):
        raise NotImplementedError

    @initialize(focus=small)
    def open(self, focus):
        self.engine, self.plain = self.make_engine()
        with self.engine.begin() as connection:
            for n in range(1, 7):
                connection.exec_driver_sql(f"INSERT INTO parent VALUES ({n}, 'ab{n % 2}')")
            for n in range(1, 9):
                connection.exec_driver_sql(
                    f"INSERT INTO child VALUES ({n}, {n % 6 + 1}, {n % 5}, '{'abc' if n % 2 else 'xyz'}')"
                )
        self.now = 0.0
        self.focus = focus
        self.cache = everfresh.open(self.engine, max_bytes=40_000, clock=lambda: self.now)
        self.connection = None
        self.savepoint = None
        self.counted = self.cache.cached(self.count)

    def teardown(self):
        if not hasattr(self, "cache"):
            return
        if self.connection is not None:
            self.connection.close()
        audit = self.cache.audit()
        self.cache.close()
        self.engine.dispose()
        self.plain.dispose()
        assert audit.stale == 0, audit

    def count(self, x):
        return [tuple(row) for row in self.cache.sql(QUERIES[1], x=x)] + [
            tuple(row) for row in self.cache.sql(QUERIES[2], x=x)
        ]

    # reading -----------------------------------------------------------------

    def direct(self, query, x):
        with self.plain.connect() as connection:
            return connection.execute(sa.text(query), {"x": x}).fetchall()

    @rule(query=st.sampled_from(QUERIES), x=small)
    def read(self, query, x):
        rows = self.cache.sql(query, x=x)
        assert same_rows(rows, self.direct(query, x)), rows.receipt

    @invariant()
    def everything_in_focus_is_right(self):
        """Before and after every step: so each write meets kept answers, and each is looked at."""
        if hasattr(self, "cache"):
            for query in QUERIES:
                self.read(query, self.focus)

    @rule(x=small)
    def read_through_a_function(self, x):
        expected = [*self.direct(QUERIES[1], x), *self.direct(QUERIES[2], x)]
        assert same_rows(self.counted(x), expected)

    @rule(query=st.sampled_from(QUERIES), x=small)
    def read_with_ttl(self, query, x):
        rows = self.cache.using(ttl=5).sql(query, x=x)
        assert same_rows(rows, self.direct(query, x)), rows.receipt

    @precondition(lambda self: self.connection is not None)
    @rule(query=st.sampled_from(QUERIES), x=small)
    def read_inside(self, query, x):
        rows = self.cache.using(connection=self.connection).sql(query, x=x)
        direct = self.connection.execute(sa.text(query), {"x": x}).fetchall()
        assert same_rows(rows, direct), rows.receipt

    # writing -----------------------------------------------------------------

    def statement(self, kind, key, parent, v, s):
        row = {"id": key, "p": parent, "v": v, "s": s}
        return {
            "parent": (
                "INSERT INTO parent VALUES (:id, :s) ON CONFLICT (id) DO UPDATE SET name = :s",
                row,
            ),
            "child": (
                "INSERT INTO child SELECT :id, :p, :v, :s WHERE EXISTS (SELECT 1 FROM parent WHERE id = :p) "
                "ON CONFLICT (id) DO NOTHING",
                row,
            ),
            "update": ("UPDATE child SET v = :v, s = :s WHERE id = :id", row),
            "move": ("UPDATE child SET v = v + 1 WHERE v = :v", row),
            "rename": ("UPDATE parent SET name = :s WHERE id = :id", row),
            "delete": ("DELETE FROM child WHERE v = :v", row),
            "cascade": ("DELETE FROM parent WHERE id = :id", row),
            "clear": ("DELETE FROM noted", row),
        }[kind]

    def execute(self, connection, kind, key, parent, v, s):
        text, row = self.statement(kind, key, parent, v, s)
        used = {name: row[name] for name in row if f":{name}" in text}
        if self.engine.dialect.name == "postgresql":
            text = text.replace(
                ":id, :p, :v, :s",
                "CAST(:id AS INTEGER), CAST(:p AS INTEGER), CAST(:v AS INTEGER), CAST(:s AS VARCHAR)",
            )
        connection.execute(sa.text(text), used)

    kinds = st.sampled_from(
        ["parent", "child", "child", "update", "move", "rename", "delete", "cascade", "clear"]
    )

    @precondition(lambda self: self.connection is None)
    @rule(kind=kinds, key=ids, parent=ids, v=small, s=texts, commits=st.booleans())
    def write(self, kind, key, parent, v, s, commits):
        with self.engine.connect() as connection:
            self.execute(connection, kind, key, parent, v, s)
            if commits:
                connection.commit()
            else:
                connection.rollback()

    @precondition(lambda self: self.connection is None)
    @rule(kind=kinds, key=ids, parent=ids, v=small, s=texts)
    def write_in_autocommit(self, kind, key, parent, v, s):
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            self.execute(connection, kind, key, parent, v, s)

    @precondition(lambda self: self.connection is None)
    @rule(values=st.lists(st.tuples(ids, small), min_size=1, max_size=4))
    def write_many(self, values):
        with self.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE child SET v = :v WHERE id = :id"),
                [{"id": i, "v": v} for i, v in values],
            )

    @precondition(lambda self: self.connection is None)
    @rule()
    def begin(self):
        self.connection = self.engine.connect()
        self.connection.begin()

    @precondition(lambda self: self.connection is not None)
    @rule(kind=kinds, key=ids, parent=ids, v=small, s=texts)
    def write_inside(self, kind, key, parent, v, s):
        self.execute(self.connection, kind, key, parent, v, s)

    @precondition(lambda self: self.connection is not None and self.savepoint is None)
    @rule()
    def set_savepoint(self):
        if self.engine.dialect.name == "sqlite":
            # the driver begins at the first write; a savepoint before it would commit by itself
            self.connection.execute(sa.text("UPDATE parent SET id = id WHERE id < 0"))
        self.savepoint = self.connection.begin_nested()

    @precondition(lambda self: self.savepoint is not None)
    @rule(keep=st.booleans())
    def end_savepoint(self, keep):
        self.savepoint.commit() if keep else self.savepoint.rollback()
        self.savepoint = None

    @precondition(lambda self: self.connection is not None and self.savepoint is None)
    @rule(commits=st.booleans())
    def end(self, commits):
        self.connection.commit() if commits else self.connection.rollback()
        self.connection.close()
        self.connection = None

    # the rest ----------------------------------------------------------------

    @precondition(lambda self: self.connection is None)
    @rule(low=small)
    def change_the_view(self, low):
        with self.engine.begin() as connection:
            connection.execute(sa.text("DROP VIEW busy"))
            connection.execute(
                sa.text(
                    "CREATE VIEW busy AS SELECT parent_id, count(*) AS n FROM child "
                    f"WHERE v >= {low} GROUP BY parent_id"
                )
            )

    @rule(what=st.sampled_from(["parent", "child", None]))
    def invalidate(self, what):
        self.cache.invalidate(what)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds):
        self.now += seconds


def run(machine, examples):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * (200 if SOAK else 1),
            stateful_step_count=40,
            deadline=None,
            derandomize=not SOAK,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def watch_foreign_keys(engine):
    sa.event.listen(engine, "connect", lambda raw, record: raw.execute("PRAGMA foreign_keys = ON"))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_sqlite():
    class OnSqlite(Machine):
        def make_engine(self):
            self.folder = tempfile.TemporaryDirectory()
            url = f"sqlite:///{Path(self.folder.name) / 'data.db'}"
            engine, plain = sa.create_engine(url), sa.create_engine(url)
            watch_foreign_keys(engine)
            with engine.begin() as connection:
                for statement in SCHEMA + SQLITE_TRIGGER:
                    connection.exec_driver_sql(statement)
            return engine, plain

        def teardown(self):
            super().teardown()
            if hasattr(self, "folder"):
                self.folder.cleanup()

    run(OnSqlite, 70)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_postgres(postgres_url):
    class OnPostgres(Machine):
        def make_engine(self):
            engine, plain = sa.create_engine(postgres_url), sa.create_engine(postgres_url)
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP VIEW IF EXISTS busy")
                connection.exec_driver_sql("DROP TABLE IF EXISTS child, parent, noted")
                connection.exec_driver_sql("DROP FUNCTION IF EXISTS note()")
                for statement in SCHEMA + POSTGRES_TRIGGER:
                    connection.exec_driver_sql(statement)
            return engine, plain

    run(OnPostgres, 25)
