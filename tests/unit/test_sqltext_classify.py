"""The effect of every kind of statement, as drivers get it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everfresh.kernel.sqltext import classify

ANY = None  # may write anything
CASES: tuple[tuple[str, str, str, object], ...] = (
    ("sqlite", "SELECT 1", "read", ""),
    ("sqlite", "  -- c\n /* d */ ( SELECT 1 )", "read", ""),
    ("sqlite", "SELECT ';' FROM t", "read", ""),
    ("sqlite", "SELECT 1 ;  ", "read", ""),
    ("sqlite", "SELECT 1; DELETE FROM t", "other", ANY),
    ("sqlite", "", "read", ""),
    ("sqlite", "?", "other", ANY),
    ("sqlite", "WITH x AS (SELECT 1) SELECT * FROM x", "read", ""),
    ("sqlite", "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "write", "t"),
    ("sqlite", "WITH x AS (SELECT 1) REPLACE INTO t SELECT * FROM x", "write", "t"),
    ("sqlite", "INSERT INTO t VALUES (?, ?)", "write", "t"),
    ("sqlite", "INSERT INTO main.T (a, b) VALUES (:a, :b)", "write", "main.t"),
    ("sqlite", "INSERT INTO t SELECT * FROM u ON CONFLICT DO UPDATE SET a = 1", "write", "t"),
    ("sqlite", "INSERT OR IGNORE INTO t VALUES (1)", "write", "t"),
    ("sqlite", "INSERT INTO 't' VALUES (1)", "write", ANY),
    ("sqlite", 'UPDATE "my table" SET a = 1', "write", "my table"),
    ("sqlite", "UPDATE t SET a = 1 FROM u WHERE u.x = t.x", "write", "t"),
    ("sqlite", "DELETE FROM [my table] WHERE a = ?", "write", "my table"),
    ("sqlite", "CREATE TABLE t (a)", "ddl", "t"),
    ("sqlite", "CREATE TABLE IF NOT EXISTS t AS SELECT 1", "ddl", "t"),
    ("sqlite", "CREATE INDEX i ON t (a)", "ddl", ""),
    ("sqlite", "CREATE UNIQUE INDEX i ON t (a)", "ddl", ""),
    ("sqlite", "CREATE VIEW v AS SELECT 1", "ddl", ANY),
    ("sqlite", "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM u; END", "ddl", ANY),
    ("sqlite", "DROP TABLE IF EXISTS t", "ddl", "t"),
    ("sqlite", "ALTER TABLE t ADD COLUMN b", "ddl", "t"),
    ("sqlite", "ALTER TABLE t RENAME TO u", "ddl", ANY),
    ("sqlite", "PRAGMA foreign_keys", "read", ""),
    ("sqlite", "PRAGMA foreign_keys = ON", "setting", ""),
    ("sqlite", "ATTACH 'x' AS y", "other", ANY),
    ("sqlite", "VACUUM", "other", ANY),
    ("sqlite", "ANALYZE", "other", ""),
    ("sqlite", "BEGIN IMMEDIATE", "begin", ""),
    ("sqlite", "COMMIT", "commit", ""),
    ("sqlite", "END TRANSACTION", "commit", ""),
    ("sqlite", "ROLLBACK", "rollback", ""),
    ("sqlite", "ROLLBACK TO x", "savepoint", ""),
    ("sqlite", "ROLLBACK TRANSACTION TO SAVEPOINT x", "savepoint", ""),
    ("sqlite", "SAVEPOINT x", "savepoint", ""),
    ("sqlite", "RELEASE x", "savepoint", ""),
    ("postgresql", "SELECT lower(a), count(*) FROM t WHERE b IN (%s) AND c = %(d)s", "read", ""),
    ("postgresql", "SELECT a FROM t WHERE b = $1 FOR UPDATE", "read", ""),
    ("postgresql", "SELECT my_function(1)", "other", ANY),
    ("postgresql", 'SELECT "Lower"(a) FROM t', "other", ANY),
    ("postgresql", "SELECT app.lower(a) FROM t", "other", ANY),
    ("postgresql", "SELECT setval('s', 1)", "other", ANY),
    ("postgresql", "SELECT now(), nextval('s')", "read", ""),
    ("postgresql", "SELECT 'my_function(1)', $$f(1)$$, E'\\'f(1)'", "read", ""),
    ("postgresql", "SELECT * INTO u FROM t", "ddl", ANY),
    ("postgresql", "VALUES (1)", "read", ""),
    ("postgresql", "TABLE t", "read", ""),
    ("postgresql", "WITH x AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM x", "write",
     "a b"),
    ("postgresql", "WITH x AS (UPDATE a SET y = 1 RETURNING *) SELECT * FROM x", "write", "a"),
    ("postgresql", "WITH x AS (SELECT f(1)) DELETE FROM a", "write", ANY),
    ("postgresql", "INSERT INTO t (a, b) VALUES (%s::int, $1) ON CONFLICT (a) DO UPDATE SET b = 1",
     "write", "t"),
    ("postgresql", "INSERT INTO t SELECT my_function(a) FROM u", "write", ANY),
    ("postgresql", 'UPDATE ONLY "T" AS x SET a = 1', "write", "T"),
    ("postgresql", "DELETE FROM app.t USING u WHERE t.a = u.a", "write", "app.t"),
    ("postgresql", "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = 1", "write",
     "t"),
    ("postgresql", "MERGE INTO t USING s ON t.a = s.a WHEN NOT MATCHED THEN INSERT VALUES (1)",
     "write", "t"),
    ("postgresql", "TRUNCATE a, app.b RESTART IDENTITY", "write", "a app.b"),
    ("postgresql", "TRUNCATE TABLE a CASCADE", "write", ANY),
    ("postgresql", "COPY t (a, b) FROM STDIN", "write", "t"),
    ("postgresql", "COPY t TO STDOUT", "read", ""),
    ("postgresql", "COPY (SELECT 1) TO STDOUT", "read", ""),
    ("postgresql", "COPY (DELETE FROM t RETURNING *) TO STDOUT", "write", ANY),
    ("postgresql", "REFRESH MATERIALIZED VIEW CONCURRENTLY app.m", "write", "app.m"),
    ("postgresql", "DROP TABLE a, b", "ddl", ANY),
    ("postgresql", "DROP TABLE a CASCADE", "ddl", ANY),
    ("postgresql", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$", "ddl", ANY),
    ("postgresql", "GRANT SELECT ON t TO x", "ddl", ANY),
    ("postgresql", "CALL p()", "other", ANY),
    ("postgresql", "DO $$ BEGIN DELETE FROM t; END $$", "other", ANY),
    ("postgresql", "EXECUTE p (1)", "other", ANY),
    ("postgresql", "EXPLAIN SELECT 1", "read", ""),
    ("postgresql", "EXPLAIN ANALYZE DELETE FROM t", "other", ANY),
    ("postgresql", "EXPLAIN (ANALYZE, BUFFERS) DELETE FROM t", "other", ANY),
    ("postgresql", "SET search_path TO x", "setting", ""),
    ("postgresql", "RESET ALL", "setting", ""),
    ("postgresql", "SHOW search_path", "read", ""),
    ("postgresql", "START TRANSACTION", "begin", ""),
    ("postgresql", "ABORT", "rollback", ""),
    ("postgresql", "COMMIT PREPARED 'x'", "commit", ANY),
    ("postgresql", "PREPARE TRANSACTION 'x'", "prepare", ""),
    ("postgresql", "PREPARE p AS DELETE FROM t", "setting", ""),
    ("postgresql", "LOCK TABLE t", "read", ""),
    ("postgresql", "LOAD 'x'", "other", ANY),
)  # fmt: skip


def names(written: object) -> object:
    if not isinstance(written, str):
        return None
    if written == "my table":
        return {(None, written)}
    parts = [one.rpartition(".") for one in written.split()]
    return {(schema or None, table) for schema, _, table in parts}


@pytest.mark.parametrize(("dialect", "statement", "kind", "written"), CASES)
def test_effect(dialect: str, statement: str, kind: str, written: object) -> None:
    effect = classify(statement, dialect)
    assert effect.kind == kind
    assert (None if effect.tables is None else set(effect.tables)) == names(written)


@pytest.mark.parametrize(
    ("statement", "replaces"),
    [
        ("INSERT OR REPLACE INTO t VALUES (1)", True),
        ("REPLACE INTO t VALUES (1)", True),
        ("UPDATE OR REPLACE t SET a = 1", True),
        ("WITH x AS (SELECT 1) INSERT OR REPLACE INTO t SELECT * FROM x", True),
        ("INSERT INTO t VALUES (replace(?, 'a', 'b'))", False),
        ("INSERT INTO t VALUES ('OR REPLACE')", False),
    ],
)
def test_replacing(statement: str, replaces: bool) -> None:
    assert classify(statement, "sqlite").replaces is replaces


@pytest.mark.parametrize(
    ("statement", "temporary"),
    [
        ("CREATE TEMP TABLE t (a)", True),
        ("CREATE TEMPORARY VIEW v AS SELECT 1", True),
        ("CREATE TABLE temp.t (a)", True),
        ("CREATE LOCAL TEMP TABLE t (a)", True),
        ("SELECT 1 INTO TEMP t", True),
        ("CREATE TABLE t (temp)", False),
    ],
)
def test_temporary(statement: str, temporary: bool) -> None:
    assert classify(statement, "postgresql").temporary is temporary


@given(st.text(max_size=80), st.sampled_from(["", "INSERT INTO ", "WITH x AS (", "COPY ", "DROP "]))
def test_no_text_raises(text: str, start: str) -> None:
    for dialect in ("sqlite", "postgresql"):
        classify(start + text, dialect)
