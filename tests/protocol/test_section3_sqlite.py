"""Section 3, rows before and after, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from protocol.recorder import Recorder, watched

Write = Callable[..., None]


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = create_engine(sqlite_url)

    @event.listens_for(engine, "connect")
    def _connect(raw: Any, record: object) -> None:
        raw.execute("PRAGMA foreign_keys = ON")

    yield engine
    engine.dispose()


@pytest.fixture
def make(engine: Engine) -> Write:
    """Run statements before anything is watched."""

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    return run


@pytest.fixture
def write(engine: Engine) -> Write:
    """Run statements in one transaction."""

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    return run


# -- exact images


def test_values_are_exact(engine: Engine, make: Write) -> None:
    """Images hold the values themselves: floats, blobs, integers, odd text, NULL."""
    make("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    values: list[Any] = [
        None,
        0.1 + 0.2,
        1e308,
        2**63 - 1,
        -(2**63),
        "",
        "Zoë 🛫 \x00 '\"",
        b"\x00\xff",
        b"",
        1,
        1.0,
        "1",
        float("inf"),
    ]
    with watched(engine) as (recorder, _):
        for value in values:
            with engine.begin() as connection:
                connection.exec_driver_sql("INSERT INTO t (v) VALUES (?)", (value,))
    images = [change.new["v"] for change in recorder.committed if change.new]
    assert images == values
    assert [type(i) for i in images] == [type(v) for v in values]
    assert [change.key for change in recorder.committed] == [
        (n,) for n in range(1, len(values) + 1)
    ]


def test_what_is_not_text_or_too_long_is_unknown(engine: Engine, make: Write) -> None:
    """A column whose value cannot be told is absent from the image; the write never fails."""
    make("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    with watched(engine) as (recorder, _), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1, CAST(x'ff80' AS TEXT))")
        connection.exec_driver_sql("INSERT INTO t VALUES (2, ?)", ("x" * 100_000,))
        connection.exec_driver_sql("INSERT INTO t VALUES (3, ?)", (b"x" * 100_000,))
        connection.exec_driver_sql("UPDATE t SET v = v || 'y' WHERE id = 2")
    assert [change.new for change in recorder.committed] == [
        {"id": 1},
        {"id": 2},
        {"id": 3},
        {"id": 2},
    ]


def test_a_utf16_database(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA encoding = 'UTF-16be'")
        connection.exec_driver_sql("CREATE TABLE t (v)")
    engine.dispose()
    with watched(engine) as (recorder, _), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES ('Zoë')")
    assert recorder.rows == [("main.t", None, ("Zoë",))]


def test_an_update_that_changes_nothing_is_no_change(
    engine: Engine, make: Write, write: Write
) -> None:
    make("CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 'x'), (2, 'x')")
    with watched(engine) as (recorder, _):
        write("UPDATE t SET b = 'x'")
        assert recorder.committed == []
        write("UPDATE t SET a = 1.0 WHERE a = 1")
        assert recorder.rows == [("main.t", (1, "x"), (1.0, "x"))]


@pytest.mark.parametrize(
    ("create", "table", "insert", "image"),
    [
        ("CREATE TABLE w (a, b, PRIMARY KEY (b)) WITHOUT ROWID", "w", "(1, 2)", (1, 2)),
        ("CREATE TABLE g (a, b AS (a * 2), c AS (a + 1) STORED)", "g", "(5)", (5, 10, 6)),
        ('CREATE TABLE "odd "" name" ("a ""b" , "select")', '"odd "" name"', "(1, 2)", (1, 2)),
        ("CREATE TABLE [Mixed Case] ([Über] , `x y`)", "[mixed case]", "(1, 2)", (1, 2)),
        ("CREATE TABLE 'it''s' (rowid, oid)", '"it\'s"', "(1, 2)", (1, 2)),
        ("CREATE TABLE s (a INT, b TEXT) STRICT", "s", "(1, 'x')", (1, "x")),
    ],
)
def test_odd_tables(
    engine: Engine,
    make: Write,
    write: Write,
    create: str,
    table: str,
    insert: str,
    image: tuple[object, ...],
) -> None:
    make(create)
    with watched(engine) as (recorder, _):
        write(f"INSERT INTO {table} VALUES {insert}")
        write(f"DELETE FROM {table}")
    (first, second) = recorder.committed
    assert first.new is not None
    assert second.old is not None
    assert tuple(first.new.values()) == tuple(second.old.values()) == image


def test_a_table_with_too_many_columns_is_whole(engine: Engine, make: Write, write: Write) -> None:
    columns = [f"c{n}" for n in range(60)]
    make(f"CREATE TABLE wide ({', '.join(columns)})")
    with watched(engine) as (recorder, _):
        write("INSERT INTO wide (c1) VALUES (1)")
        assert [change.whole_table for change in recorder.committed] == [False]
        write("UPDATE wide SET c1 = 2")
    assert recorder.committed[1].whole_table
    assert recorder.committed[1].table == "main.wide"


def test_many_rows_are_a_whole_table(engine: Engine, make: Write) -> None:
    make("CREATE TABLE t (a)", "CREATE TABLE u (a)")
    with watched(engine, row_limit=10) as (recorder, _):
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": n} for n in range(11)])
            connection.exec_driver_sql("INSERT INTO u VALUES (1)")
        assert recorder.rows == [("main.t", None, None), ("main.u", None, (1,))]
        recorder.clear()
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": n} for n in range(5000)])
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        assert recorder.rows == [("main.t", None, None), ("main.t", None, (1,))]


def test_the_log_is_bounded(engine: Engine, make: Write, write: Write) -> None:
    make("CREATE TABLE t (a)")
    with watched(engine, row_limit=10) as (recorder, feed):
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO t WITH RECURSIVE n(i) AS "
                "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n"
            )
            pending: Any = feed._connections.get(connection.connection.dbapi_connection)
            assert len(pending._log.rows) <= 40
        assert recorder.rows == [("main.t", None, None)]


def test_truncating_delete(engine: Engine, make: Write, write: Write) -> None:
    make("CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2)")
    with watched(engine) as (recorder, _):
        write("DELETE FROM t")
    assert recorder.rows == [("main.t", (1,), None), ("main.t", (2,), None)]


def test_upsert(engine: Engine, make: Write, write: Write) -> None:
    make("CREATE TABLE t (a PRIMARY KEY, b)", "INSERT INTO t VALUES (1, 1)")
    with watched(engine) as (recorder, _):
        write("INSERT INTO t VALUES (1, 2), (2, 2) ON CONFLICT DO UPDATE SET b = excluded.b")
    assert recorder.rows == [("main.t", (1, 1), (1, 2)), ("main.t", None, (2, 2))]


# -- cascades, triggers, savepoints


def test_cascades(engine: Engine, make: Write, write: Write) -> None:
    """Cascades come out right: the rows of children are told too."""
    make(
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE)",
        "CREATE TABLE d (id INTEGER PRIMARY KEY, c REFERENCES c ON DELETE SET NULL)",
        "INSERT INTO p VALUES (1)",
        "INSERT INTO c VALUES (5, 1)",
        "INSERT INTO d VALUES (9, 5)",
    )
    with watched(engine) as (recorder, _):
        write("DELETE FROM p WHERE id = 1")
    assert sorted(recorder.rows, key=str) == [
        ("main.c", (5, 1), None),
        ("main.d", (9, 5), (9, None)),
        ("main.p", (1,), None),
    ]


def test_triggers_of_the_user(engine: Engine, make: Write, write: Write) -> None:
    """What a trigger of the user writes elsewhere is told, row by row."""
    make(
        "CREATE TABLE t (a)",
        "CREATE TABLE audit (a)",
        "CREATE TABLE other (a)",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (NEW.a + 1); END",
        "CREATE VIEW v AS SELECT a FROM t",
        "CREATE TRIGGER iv INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (NEW.a); END",
    )
    with watched(engine) as (recorder, _):
        write("INSERT INTO t VALUES (1)")
        write("INSERT INTO v VALUES (5)")
    assert sorted(recorder.rows, key=str) == [
        ("main.audit", None, (2,)),
        ("main.audit", None, (6,)),
        ("main.t", None, (1,)),
        ("main.t", None, (5,)),
    ]


def test_a_temporary_trigger_of_the_user(engine: Engine, make: Write) -> None:
    make("CREATE TABLE t (a)", "CREATE TABLE audit (a)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (0)")
        connection.commit()
        connection.exec_driver_sql(
            "CREATE TEMP TRIGGER tr AFTER INSERT ON main.t BEGIN INSERT INTO audit VALUES (1); END"
        )
        recorder.clear()
        connection.exec_driver_sql("INSERT INTO t VALUES (7)")
        connection.commit()
    assert recorder.tables == {"main.t", "main.audit"}


def test_savepoint_rollbacks(engine: Engine, make: Write) -> None:
    """What was undone to a savepoint is not told; what came before and after is."""
    make("CREATE TABLE t (a)")
    with watched(engine) as (recorder, _), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        with connection.begin_nested() as savepoint:
            connection.exec_driver_sql("INSERT INTO t VALUES (2)")
            with connection.begin_nested():
                connection.exec_driver_sql("INSERT INTO t VALUES (3)")
            savepoint.rollback()
        connection.exec_driver_sql("SAVEPOINT a")
        connection.exec_driver_sql("INSERT INTO t VALUES (4)")
        connection.exec_driver_sql("ROLLBACK TO a")
        connection.exec_driver_sql("INSERT INTO t VALUES (5)")
        connection.exec_driver_sql("ROLLBACK TRANSACTION TO SAVEPOINT a")
        connection.exec_driver_sql("INSERT INTO t VALUES (6)")
        connection.exec_driver_sql("RELEASE a")
    assert [change.new for change in recorder.committed] == [{"a": 1}, {"a": 6}]


# -- REPLACE


REPLACES = [
    "INSERT OR REPLACE INTO t VALUES (1, 'x')",
    "REPLACE INTO t VALUES (1, 'x')",
    "UPDATE OR REPLACE t SET id = 1 WHERE id = 2",
    "INSERT INTO strict VALUES (1, 'x')",
    "INSERT INTO hidden VALUES (1)",
]


@pytest.fixture
def replaced(make: Write) -> None:
    make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "CREATE TABLE strict (id PRIMARY KEY ON CONFLICT REPLACE, v)",
        "INSERT INTO strict VALUES (1, 'a')",
        "CREATE TABLE hidden (id)",
        "CREATE TRIGGER tr AFTER INSERT ON hidden BEGIN REPLACE INTO t VALUES (1, 'z'); END",
    )


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("statement", REPLACES)
def test_replace_makes_the_table_stale(engine: Engine, write: Write, statement: str) -> None:
    """INSERT OR REPLACE hides the rows it deletes: then the whole table is told."""
    with watched(engine) as (recorder, _):
        write(statement)
    assert {None, "main.t", "main.strict"} & {
        change.table for change in recorder.committed if change.whole_table
    }


@pytest.mark.usefixtures("replaced")
def test_replace_is_exact_with_recursive_triggers(engine: Engine) -> None:
    """With recursive_triggers on, REPLACE's deletes fire triggers: rows are told."""
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA recursive_triggers = ON")
        connection.exec_driver_sql("REPLACE INTO t VALUES (1, 'b')")
        connection.commit()
    assert sorted(recorder.rows, key=str) == [
        ("main.t", (1, "a"), None),
        ("main.t", (2, "b"), None),
        ("main.t", None, (1, "b")),
    ]


def test_replace_and_its_cascade(engine: Engine, make: Write, write: Write) -> None:
    make(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, v UNIQUE)",
        "CREATE TABLE c (p REFERENCES p ON DELETE CASCADE)",
        "INSERT INTO p VALUES (1, 'a')",
        "INSERT INTO c VALUES (1)",
    )
    with watched(engine) as (recorder, _):
        write("REPLACE INTO p VALUES (2, 'a')")
    assert recorder.tables == {"main.p", "main.c"}


# -- the schema changes


def test_no_change_of_the_schema(engine: Engine, make: Write, write: Write) -> None:
    """Watching leaves the database's schema, and its version, alone."""
    make("CREATE TABLE t (a)")
    other = sqlite3.connect(str(engine.url.database))
    before = other.execute("PRAGMA schema_version").fetchone()
    with watched(engine):
        write("INSERT INTO t VALUES (1)")
    assert other.execute("PRAGMA schema_version").fetchone() == before
    assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    other.close()


@pytest.mark.parametrize(
    "alter",
    [
        ["ALTER TABLE t ADD COLUMN c DEFAULT 7"],
        ["ALTER TABLE t DROP COLUMN b"],
        ["ALTER TABLE t RENAME COLUMN b TO bb"],
        ["ALTER TABLE t RENAME TO x", "CREATE TABLE t (z)"],
        ["DROP TABLE t", "CREATE TABLE t (z, y)"],
        ["CREATE INDEX i ON t (a)"],
    ],
    ids=lambda alter: alter[0],
)
@pytest.mark.parametrize("by", ["another process", "this engine", "this transaction"])
def test_triggers_are_rebuilt(
    engine: Engine, make: Write, write: Write, alter: list[str], by: str
) -> None:
    """Rebuilt when schema_version changes: no write fails, and images are of the new schema."""
    make("CREATE TABLE t (a, b)")
    with watched(engine) as (recorder, _):
        write("INSERT INTO t VALUES (1, 2)")
        if by == "another process":
            other = sqlite3.connect(str(engine.url.database))
            for statement in alter:
                other.execute(statement)
            other.close()
        elif by == "this engine":
            for statement in alter:
                write(statement)
        else:
            write("INSERT INTO t VALUES (1, 2)", *alter, "INSERT INTO t DEFAULT VALUES")
            whole = any(change.whole_table for change in recorder.committed)
            assert whole or "INDEX" in alter[0]
        recorder.clear()
        write("INSERT INTO t DEFAULT VALUES")
        (change,) = recorder.committed
        with engine.connect() as connection:
            columns = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(t)")]
        assert change.new is not None
        assert list(change.new) == columns


def test_a_schema_that_changes_between_begin_and_write(engine: Engine, make: Write) -> None:
    """A trigger for a dropped column does not make the user's write fail."""
    make("CREATE TABLE t (a, b)")
    other = sqlite3.connect(str(engine.url.database))
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 2)")
        connection.commit()
        recorder.clear()
        connection.exec_driver_sql("BEGIN")
        other.execute("ALTER TABLE t DROP COLUMN b")
        connection.exec_driver_sql("INSERT INTO t (a) VALUES (2)")
        connection.commit()
        assert recorder.tables == {None}
        connection.exec_driver_sql("INSERT INTO t (a) VALUES (3)")
        connection.commit()
    assert recorder.rows[1:] == [("main.t", None, (3,))]
    other.close()


def test_a_column_added_between_begin_and_commit(engine: Engine, make: Write) -> None:
    """A change of schema_version that is found at the commit makes that commit coarse."""
    make("CREATE TABLE t (a, b)")
    other = sqlite3.connect(str(engine.url.database))
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 2)")
        connection.commit()
        recorder.clear()
        connection.exec_driver_sql("BEGIN")
        other.execute("CREATE TABLE more (a)")
        connection.exec_driver_sql("INSERT INTO t VALUES (2, 2)")
        connection.commit()
    assert recorder.tables == {None}
    other.close()


def test_rolled_back_ddl_brings_triggers_back(engine: Engine, make: Write) -> None:
    make("CREATE TABLE t (a, b)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 2)")
        connection.commit()
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("ALTER TABLE t DROP COLUMN b")
        connection.exec_driver_sql("ROLLBACK")
        recorder.clear()
        connection.exec_driver_sql("INSERT INTO t VALUES (3, 4)")
        connection.commit()
    assert recorder.rows == [("main.t", None, (3, 4))]


def test_dropping_all_that_is_temporary(engine: Engine, make: Write) -> None:
    """PRAGMA temp_store takes our triggers away: they are made again."""
    make("CREATE TABLE t (a)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        connection.commit()
        connection.exec_driver_sql("PRAGMA temp_store = MEMORY")
        recorder.clear()
        connection.exec_driver_sql("INSERT INTO t VALUES (2)")
        connection.commit()
    assert recorder.rows == [("main.t", None, (2,))]


# -- other databases and other kinds of tables


def test_attached_databases(engine: Engine, make: Write, tmp_path: Path) -> None:
    make("CREATE TABLE t (a)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'x.db'}' AS \"Other one\"")
        connection.exec_driver_sql('CREATE TABLE "other one".t (b)')
        recorder.clear()
        connection.exec_driver_sql('INSERT INTO "other one".t VALUES (5)')
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        connection.commit()
    assert recorder.rows == [("other one.t", None, (5,)), ("main.t", None, (1,))]


def test_temporary_tables_are_nobodys_business(engine: Engine, make: Write) -> None:
    """A temporary table takes the name of another one, on its connection only."""
    make("CREATE TABLE t (a)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("CREATE TEMP TABLE t (a)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        connection.commit()
        assert recorder.committed == []
        connection.exec_driver_sql("INSERT INTO main.t VALUES (2)")
        connection.commit()
        assert recorder.rows == [("main.t", None, (2,))]


def test_virtual_tables_and_where_they_keep_their_rows(
    engine: Engine, make: Write, write: Write
) -> None:
    """Triggers do not see virtual tables: they are told whole, with their shadow tables."""
    make(
        "CREATE VIRTUAL TABLE docs USING fts5(body)",
        "CREATE TABLE t (a)",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO docs VALUES (NEW.a); END",
    )
    with watched(engine) as (recorder, _):
        write("INSERT INTO docs VALUES ('hello')")
        assert {"main.docs", "main.docs_content", "main.docs_data"} <= recorder.tables
        assert "main.t" not in recorder.tables
        recorder.clear()
        write("INSERT INTO t VALUES ('x')")
    assert {"main.docs", "main.docs_content", "main.t"} <= recorder.tables


def test_system_tables(engine: Engine, make: Write, write: Write) -> None:
    make("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (5)")
    with watched(engine) as (recorder, _):
        write("DELETE FROM sqlite_sequence")
    assert recorder.tables == {"main.sqlite_sequence"}


# -- the user notices nothing


def test_counters_are_the_users(engine: Engine, make: Write) -> None:
    """Neither last_insert_rowid(), changes(), total_changes() nor rowcount show our triggers."""
    make("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", "CREATE TABLE u (a)")

    def story() -> list[object]:
        told: list[object] = []
        with engine.connect() as connection:
            start = connection.exec_driver_sql("SELECT total_changes()").scalar() or 0
            for statement in (
                "INSERT INTO t (a) VALUES (1), (2), (3)",
                "UPDATE t SET a = a + 1 WHERE a > 1",
                "INSERT INTO u VALUES (1)",
                "DELETE FROM t WHERE a = 1",
            ):
                result = connection.exec_driver_sql(statement)
                told += [result.rowcount, result.lastrowid]
                told += connection.exec_driver_sql(
                    f"SELECT changes(), last_insert_rowid(), total_changes() - {start}"
                ).one()
            connection.commit()
            told += connection.exec_driver_sql(
                f"SELECT changes(), last_insert_rowid(), total_changes() - {start}"
            ).one()
            connection.exec_driver_sql("DELETE FROM u")
            connection.exec_driver_sql("DELETE FROM t")
            connection.commit()
        return told

    plain = story()
    with watched(engine) as (recorder, _):
        assert story() == plain
        assert len(recorder.committed) > 5


def test_errors_are_the_users(engine: Engine, make: Write, write: Write) -> None:
    make("CREATE TABLE t (a PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with watched(engine) as (recorder, _):
        with pytest.raises(IntegrityError, match="UNIQUE"):
            write("INSERT INTO t VALUES (2), (1)")
        with pytest.raises(OperationalError, match="no such table: nowhere"):
            write("INSERT INTO nowhere VALUES (1)")
        assert recorder.committed == []
        assert recorder.flux == {}


def test_without_functions_tables_are_whole(
    engine: Engine, make: Write, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where triggers cannot be made, the write goes through and counts by tables."""
    from everfresh.changes import sqlite_rows

    make(
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p REFERENCES p ON DELETE CASCADE)",
    )
    monkeypatch.setattr(sqlite_rows, "_triggers", lambda *_: ["CREATE TEMP TRIGGER nonsense"])
    with watched(engine) as (recorder, _):
        write("INSERT INTO p VALUES (1)")
    assert recorder.rows == [("main.c", None, None), ("main.p", None, None)]


def test_row_and_text_factories_of_the_user(engine: Engine, make: Write) -> None:
    make("CREATE TABLE t (a)")

    @event.listens_for(engine, "connect")
    def _connect(raw: Any, record: object) -> None:
        raw.row_factory = lambda cursor, row: {"row": row}
        raw.text_factory = bytes

    engine.dispose()
    with watched(engine) as (recorder, _):
        raw = engine.raw_connection()
        raw.close()
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES ('x')")
    assert recorder.rows == [("main.t", None, ("x",))]
    engine.dispose()


def test_an_untrusted_schema(engine: Engine, make: Write) -> None:
    make("CREATE TABLE t (a)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA trusted_schema = OFF")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        connection.commit()
    assert recorder.rows == [("main.t", None, (1,))]


def test_recorder_sees_flux_of_rows_only(engine: Engine, make: Write, write: Write) -> None:
    """In a transaction the flux is exact: other rows of the table are not held up."""
    make("CREATE TABLE t (a)")
    seen: list[object] = []
    with watched(engine) as (recorder, _):
        recorder.on_begin = lambda: seen.extend(recorder.flux.values())
        write("INSERT INTO t VALUES (1)")
    ((change,),) = seen  # type: ignore[misc]
    assert change.new == {"a": 1}
    assert isinstance(recorder, Recorder)


@pytest.mark.parametrize("undo", ["savepoint", "driver"])
def test_triggers_undone_by_a_rollback(engine: Engine, make: Write, undo: str) -> None:
    """Triggers made inside a transaction go with its rollback: that is noticed, and mended."""
    make("CREATE TABLE t (a)", "CREATE TABLE u (a)", "CREATE TABLE w (a)")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO w VALUES (1)")
        connection.exec_driver_sql("SAVEPOINT s")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        if undo == "savepoint":
            connection.exec_driver_sql("ROLLBACK TO s")
        else:
            driver: Any = connection.connection.dbapi_connection
            driver.rollback()
        connection.exec_driver_sql("INSERT INTO t VALUES (2)")
        connection.exec_driver_sql("INSERT INTO u VALUES (2)")
        connection.commit()
        assert {None, "main.t"} & {c.table for c in recorder.committed if c.whole_table or c.new}
        recorder.clear()
        connection.exec_driver_sql("INSERT INTO t VALUES (3)")
        connection.exec_driver_sql("INSERT INTO u VALUES (3)")
        connection.commit()
    assert recorder.rows == [("main.t", None, (3,)), ("main.u", None, (3,))]
