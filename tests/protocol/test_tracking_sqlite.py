"""Section 3 across connections: the change table tells every row that any writer changes."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from everfresh.changes.sqlite_tracking import heal, install, plan, prune, remove, status
from everfresh.connect.describe import describe
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from everfresh.kernel.sqltext import analyse
from protocol.recorder import Recorder, watched

SEED = 20260601


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


@pytest.fixture
def writer(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    yield connection
    connection.close()


@pytest.fixture
def hear(file: Path, writer: sqlite3.Connection) -> Iterator[Callable[..., list[Change]]]:
    """Install tracking, run statements as somebody else and return what is heard of them."""
    engine = create_engine(f"sqlite:///{file}")
    install(writer)
    with watched(engine, row_limit=50) as (recorder, feed):

        def run(*statements: str, values: tuple[Any, ...] = ()) -> list[Change]:
            recorder.clear()
            recorder.losses.clear()
            for statement in statements:
                writer.execute(statement, values)
            assert feed.poll()
            assert recorder.losses == []
            return list(recorder.committed)

        yield run
    engine.dispose()


def images(changes: list[Change]) -> list[tuple[Any, Any]]:
    return [
        (
            None if change.old is None else tuple(change.old.values()),
            None if change.new is None else tuple(change.new.values()),
        )
        for change in changes
    ]


@pytest.fixture
def schema(writer: sqlite3.Connection, request: pytest.FixtureRequest) -> None:
    writer.executescript(request.param)


def given(sql: str) -> Any:
    return pytest.mark.parametrize("schema", [sql], indirect=True)


PLAIN = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a'), (2, 'b');"


@given(PLAIN)
def test_rows_before_and_after(schema, hear):
    assert images(hear("INSERT INTO t VALUES (3, 'c')")) == [(None, (3, "c"))]
    assert images(hear("UPDATE t SET v = 'd' WHERE id = 3")) == [((3, "c"), (3, "d"))]
    assert images(hear("UPDATE t SET id = 9 WHERE id = 3")) == [((3, "d"), (9, "d"))]
    assert images(hear("DELETE FROM t")) == [
        ((1, "a"), None),
        ((2, "b"), None),
        ((9, "d"), None),
    ]


@given(PLAIN)
def test_changes_say_where_they_stand_and_whose_row_it_is(schema, hear):
    first, second = hear("INSERT INTO t VALUES (3, 'c'), (4, 'd')")
    assert (first.table, first.key, second.key) == ("main.t", (3,), (4,))
    assert first.history == second.history != ""
    assert second.sequence == first.sequence + 1 > 0


VALUES = [
    None,
    0.1 + 0.2,
    1e308 * 10,
    -0.0,
    2**62,
    "a\x00b",
    "Zoë 'x' \"y\"",
    b"\x00\xff",
    b"",
    "",
    "1",
    1,
    1.0,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@given("CREATE TABLE t (v, n NUMERIC, b BLOB)")
def test_values_arrive_exactly(schema, hear, value):
    (change,) = hear("INSERT INTO t (v, b) VALUES (?, ?)", values=(value, value))
    assert change.new is not None
    for name in ("v", "b"):
        assert change.new[name] == value
        assert type(change.new[name]) is type(value)
    assert change.new["n"] is None


@given("CREATE TABLE t (v, w INT)")
def test_nan_is_null(schema, hear):
    assert images(hear("INSERT INTO t VALUES (?, 1)", values=(float("nan"),))) == [
        (None, (None, 1))
    ]


@pytest.mark.parametrize("value", ["x" * 1001, b"x" * 1001])
@given("CREATE TABLE t (id INT, v, n INT)")
def test_long_values_are_unknown(schema, hear, value):
    (change,) = hear("INSERT INTO t VALUES (1, ?, 7)", values=(value,))
    assert change.new == {"id": 1, "n": 7}
    (change,) = hear("UPDATE t SET n = ?", values=(value,))
    assert change.old == {"id": 1, "n": 7}
    assert change.new == {"id": 1}
    # it may have changed: what is not known is not the same
    assert len(hear("UPDATE t SET v = v || '1'")) == 1


@given("CREATE TABLE t (id INT, v TEXT)")
def test_text_that_is_no_utf8_is_unknown(schema, hear):
    (change,) = hear("INSERT INTO t VALUES (1, CAST(x'ff61' AS TEXT))")
    assert change.new == {"id": 1}


@given(PLAIN)
def test_an_update_that_changes_nothing_is_no_change(schema, hear):
    assert hear("UPDATE t SET v = v") == []


@given(PLAIN)
def test_a_column_that_was_added_is_unknown(schema, hear, writer):
    writer.execute("ALTER TABLE t ADD COLUMN extra")
    hear()
    (change,) = hear("UPDATE t SET extra = 5 WHERE id = 1")
    assert change.new == {"id": 1, "v": "a"}
    assert change.old == change.new
    assert status(writer).tracked == ("main.t",)
    install(writer)
    hear()
    assert images(hear("UPDATE t SET extra = 6 WHERE id = 1")) == [((1, "a", 5), (1, "a", 6))]


# -- rows that REPLACE pushes out

REPLACING = [
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT OR REPLACE INTO t VALUES (1, 'z')"),
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "UPDATE OR REPLACE t SET id = 1 WHERE id = 2"),
    ("CREATE TABLE t (id, v)", "REPLACE INTO t (rowid, id) VALUES (1, 5)"),
    ("CREATE TABLE t (id PRIMARY KEY ON CONFLICT REPLACE, v)", "INSERT INTO t VALUES (1, 'z')"),
    ("CREATE TABLE t (id, v, w, PRIMARY KEY (id, v)) WITHOUT ROWID", "REPLACE INTO t VALUES (1, 'a', 9)"),
    ("CREATE TABLE t (id PRIMARY KEY, v) WITHOUT ROWID", "UPDATE OR REPLACE t SET id=1 WHERE id=2"),
    ("CREATE TABLE t (id, v UNIQUE COLLATE NOCASE)", "REPLACE INTO t VALUES (7, 'A')"),
    ("CREATE TABLE t (id, v); CREATE UNIQUE INDEX i ON t (v COLLATE NOCASE)", "REPLACE INTO t VALUES (7, 'A')"),
    ("CREATE TABLE t (id, v COLLATE NOCASE); CREATE UNIQUE INDEX i ON t (v COLLATE BINARY)", "UPDATE OR REPLACE t SET v = 'a' WHERE id = 2"),
    ("CREATE TABLE t (id INT NOT NULL DEFAULT 1 UNIQUE, v)", "INSERT OR REPLACE INTO t VALUES (NULL, 'z')"),
    ("CREATE TABLE t (rowid, _rowid_, oid INTEGER PRIMARY KEY)", "REPLACE INTO t VALUES (8, 8, 1)"),
    ("CREATE TABLE t (id INTEGER UNIQUE, v)", "REPLACE INTO t VALUES ('1', 'z')"),
    ("CREATE TABLE t (id UNIQUE, v)", "REPLACE INTO t VALUES (1.0, 'z')"),
]  # fmt: skip
WHOLE = [
    ("CREATE TABLE t (id, v); CREATE UNIQUE INDEX i ON t (lower(v))", "REPLACE INTO t VALUES (7, 'A')"),
    ("CREATE TABLE t (id, v); CREATE UNIQUE INDEX i ON t (v) WHERE id < 9", "REPLACE INTO t VALUES (7, 'a')"),
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, v, g AS (id % 2) UNIQUE)", "REPLACE INTO t (v) VALUES ('z')"),
]  # fmt: skip


def fill(writer: sqlite3.Connection, schema: str) -> dict[Any, Any]:
    writer.executescript(schema)
    columns = [row[1] for row in writer.execute("PRAGMA table_info(t)")]
    rows = [(1, "a", 1), (2, "b", 2)]
    for row in rows:
        marks = ", ".join("?" * len(columns))
        writer.execute(f"INSERT INTO t VALUES ({marks})", row[: len(columns)])
    return dict(enumerate(writer.execute("SELECT * FROM t").fetchall()))


@pytest.mark.parametrize(("schema", "statement"), REPLACING, ids=lambda text: text[:70])
def test_what_replace_pushes_out_is_told(writer, file, schema, statement):
    fill(writer, schema)
    before = set(writer.execute("SELECT * FROM t").fetchall())
    install(writer)
    engine = create_engine(f"sqlite:///{file}")
    with watched(engine) as (recorder, feed):
        writer.execute(statement)
        assert feed.poll()
        gone = before - set(writer.execute("SELECT * FROM t").fetchall())
        assert gone
        told = {old for _, old, _ in recorder.rows if old}
        assert gone <= told or any(change.whole_table for change in recorder.committed)
        assert gone <= told or "DEFAULT" in schema
    engine.dispose()


def test_a_key_changes_by_the_collation_of_its_index(writer, file):
    """The column takes 'A' and 'a' for one, its unique index does not."""
    writer.executescript(
        "CREATE TABLE t (id, v COLLATE NOCASE); CREATE UNIQUE INDEX i ON t (v COLLATE BINARY);"
        "INSERT INTO t VALUES (1, 'a'), (2, 'A');"
    )
    install(writer)
    engine = create_engine(f"sqlite:///{file}")
    with watched(engine) as (recorder, feed):
        writer.execute("UPDATE OR REPLACE t SET v = 'a' WHERE id = 2")
        assert feed.poll()
        assert ("main.t", (1, "a"), None) in recorder.rows
    engine.dispose()


@pytest.mark.parametrize(("schema", "statement"), WHOLE, ids=lambda text: text[:70])
def test_where_a_key_cannot_be_looked_up_the_table_counts(writer, file, schema, statement):
    writer.executescript(schema)
    writer.execute("INSERT INTO t (id, v) VALUES (1, 'a')")
    install(writer)
    engine = create_engine(f"sqlite:///{file}")
    with watched(engine) as (recorder, feed):
        writer.execute(statement)
        assert feed.poll()
        assert any(change.whole_table for change in recorder.committed)
    engine.dispose()


CASCADING = (
    "CREATE TABLE p (id INTEGER PRIMARY KEY, v UNIQUE);"
    "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);"
    "INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO c VALUES (10, 1), (20, 2);"
)


@given(CASCADING)
def test_cascades_and_what_replace_cascades_to(schema, hear):
    assert ("main.c", (10, 1)) in [
        (c.table, tuple(c.old.values())) for c in hear("DELETE FROM p WHERE id = 1") if c.old
    ]
    changes = hear("REPLACE INTO p VALUES (3, 'b')")
    assert ("main.c", (20, 2)) in [(c.table, tuple(c.old.values())) for c in changes if c.old]
    assert ("main.p", (2, "b")) in [(c.table, tuple(c.old.values())) for c in changes if c.old]


@given(
    PLAIN + "CREATE TABLE log (v); CREATE TRIGGER mine AFTER INSERT ON t BEGIN"
    " INSERT INTO log VALUES (NEW.v); UPDATE t SET v = 'u' WHERE id = 1; END;"
)
def test_what_other_triggers_write(schema, hear):
    changes = hear("INSERT INTO t VALUES (3, 'c')")
    assert {c.table for c in changes} == {"main.t", "main.log"}
    assert ((1, "a"), (1, "u")) in images(changes)


@given(PLAIN)
def test_upserts_and_savepoints(schema, hear):
    changes = hear("INSERT INTO t VALUES (1, 'n') ON CONFLICT (id) DO UPDATE SET v = excluded.v")
    assert ((1, "a"), (1, "n")) in images(changes)
    assert images(
        hear(
            "BEGIN",
            "INSERT INTO t VALUES (5, 'e')",
            "SAVEPOINT s",
            "INSERT INTO t VALUES (6, 'f')",
            "ROLLBACK TO s",
            "COMMIT",
        )
    ) == [(None, (5, "e"))]
    assert hear("BEGIN", "DELETE FROM t", "ROLLBACK") == []


def test_a_statement_that_fails_half_way_loses_no_sequence(writer, hear):
    writer.execute("CREATE TABLE f (id INTEGER PRIMARY KEY, v CHECK (v < 3))")
    install(writer)
    hear()
    with pytest.raises(sqlite3.IntegrityError):
        writer.execute("INSERT OR FAIL INTO f (v) VALUES (1), (2), (3)")
    assert images(hear()) == [(None, (1, 1)), (None, (2, 2))]
    assert images(hear("INSERT INTO f (v) VALUES (0)")) == [(None, (3, 0))]


@given('CREATE TABLE "o""dd \'t" ("a b" INT, "we""ird" UNIQUE, [select] TEXT, `ü` REAL)')
def test_odd_names(schema, hear):
    (change, *_) = hear("""INSERT INTO "o""dd 't" VALUES (1, 2, 'x', 4.5)""")
    assert change.new == {"a b": 1, 'we"ird': 2, "select": "x", "ü": 4.5}
    assert change.table == "main.o\"dd 't"


@given("CREATE TABLE t (id INT, g AS (id * 2) STORED, h AS (id * 3))")
def test_generated_columns(schema, hear):
    (change,) = hear("INSERT INTO t VALUES (2)")
    assert change.new == {"id": 2, "g": 4}  # reading a virtual one could fail the user's write


@given(f"CREATE TABLE t ({', '.join(f'c{n}' for n in range(450))})")
def test_a_very_wide_table_counts_as_a_whole(schema, hear):
    changes = hear("INSERT INTO t (c7) VALUES (1)")
    assert [change.whole_table for change in changes] == [True]


@given(PLAIN)
def test_many_rows_are_one_change(schema, hear):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    (change,) = hear(numbers.format(80) + " INSERT INTO t SELECT i, 'x' FROM n")
    assert (change.table, change.whole_table) == ("main.t", True)
    (bulk,) = hear("DELETE FROM t", numbers.format(4000) + " INSERT INTO t SELECT i, 'x' FROM n")
    assert bulk.whole_table
    assert bulk.sequence > change.sequence


@given(PLAIN)
def test_a_writer_in_another_process(schema, hear, file):
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute(\"INSERT OR REPLACE INTO t VALUES (2, 'other')\"); c.commit(); c.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert images(hear()) == [((2, "b"), None), (None, (2, "other"))]


# -- installing


def test_installing_is_idempotent_and_repairs(writer):
    writer.executescript(PLAIN)
    promised = plan(writer)
    first = install(writer)
    assert len(promised) > 5
    assert plan(writer) == []
    assert install(writer) == first
    writer.execute("DROP TRIGGER everfresh_1_ad")
    broken = status(writer)
    assert (broken.tracked, broken.outdated) == ((), ("main.t",))
    assert "install tracking again" in broken.untracked["main.t"]
    assert install(writer).tracked == ("main.t",)


def test_a_new_unique_index_is_out_of_date_until_installed_again(writer):
    writer.executescript(PLAIN)
    install(writer)
    writer.execute("CREATE UNIQUE INDEX i ON t (v)")
    assert status(writer).outdated == ("main.t",)
    assert install(writer).tracked == ("main.t",)


def test_renaming_is_out_of_date_until_installed_again(writer):
    writer.executescript(PLAIN)
    install(writer)
    writer.execute("ALTER TABLE t RENAME COLUMN v TO w")
    assert status(writer).tracked == ()
    install(writer)
    writer.execute("ALTER TABLE t RENAME TO u")
    assert status(writer).tracked == ()
    assert install(writer).tracked == ("main.u",)
    writer.execute("INSERT INTO u VALUES (9, 'x')")
    assert writer.execute("SELECT count(*) FROM everfresh_change").fetchone() == (1,)


def test_virtual_tables_and_what_they_keep_are_never_tracked(writer):
    writer.executescript(PLAIN + "CREATE VIRTUAL TABLE docs USING fts5(x);")
    found = install(writer)
    assert found.tracked == ("main.t",)
    assert "virtual" in found.untracked["main.docs"]
    assert "docs" in found.untracked["main.docs_data"]
    assert not any("everfresh" in name or "sqlite_" in name for name in found.untracked)
    writer.execute("INSERT INTO docs VALUES ('a')")
    with pytest.raises(ConfigurationError, match="cannot be tracked"):
        install(writer, ["docs"])


def test_only_the_tables_named(writer):
    writer.executescript(PLAIN + "CREATE TABLE u (a);")
    found = install(writer, ["U"])
    assert found.tracked == ("main.u",)
    assert install(writer, ["main.t"]).tracked == ("main.t", "main.u")
    with pytest.raises(ConfigurationError, match="no table 'nowhere'"):
        install(writer, ["nowhere"])


def test_all_or_nothing(writer):
    writer.executescript(PLAIN)
    count = "SELECT count(*) FROM sqlite_master"
    before = writer.execute(count).fetchone()

    def deny(action: int, name: str | None, *_: object) -> int:
        denied = action == sqlite3.SQLITE_CREATE_TRIGGER and str(name).endswith("_bi")
        return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

    writer.set_authorizer(deny)
    with pytest.raises(sqlite3.DatabaseError):
        install(writer)
    writer.set_authorizer(None)
    assert writer.execute(count).fetchone() == before
    assert not writer.in_transaction


def test_an_open_transaction_is_refused(writer):
    writer.executescript(PLAIN)
    writer.execute("BEGIN")
    with pytest.raises(ConfigurationError, match="transaction open"):
        install(writer)


def test_removing_leaves_nothing(writer):
    writer.executescript(PLAIN)
    before = writer.execute("SELECT * FROM sqlite_master").fetchall()
    install(writer)
    assert remove(writer).history is None
    assert writer.execute("SELECT * FROM sqlite_master").fetchall() == before
    remove(writer)


@given(
    PLAIN + "CREATE TABLE log (v); CREATE TRIGGER mine AFTER INSERT ON t BEGIN"
    " INSERT INTO log VALUES (NEW.v); END;"
)
def test_our_own_tables_are_neither_told_of_nor_kept(schema, writer, file):
    install(writer)
    engine = create_engine(f"sqlite:///{file}")
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (7, 'x')")
        connection.commit()
        assert recorder.rows == [("main.t", None, (7, "x")), ("main.log", None, ("x",))]
        described = describe(connection)
    for name in ("everfresh_change", '"EVERFRESH_change"', "main.everfresh_tracking"):
        refusal = analyse(f"SELECT * FROM {name}", described).refusal
        assert "everfresh's own bookkeeping" in str(refusal)
    engine.dispose()


# -- the history


def test_pruning_keeps_the_newest(writer):
    writer.executescript(PLAIN)
    install(writer)
    for number in range(10, 20):
        writer.execute("INSERT INTO t VALUES (?, 'x')", (number,))
    assert prune(writer, keep_seconds=3600) == 0
    assert prune(writer, keep_rows=4) == 6
    found = status(writer)
    assert (found.rows, found.oldest, found.newest) == (4, 7, 10)
    assert prune(writer, keep_seconds=-1) == 3
    assert status(writer).newest == 10
    assert prune(writer, keep_rows=0) == 0
    writer.execute("DELETE FROM everfresh_change")  # by hand: the newest number stays taken
    writer.execute("INSERT INTO t VALUES (99, 'x')")
    assert status(writer).newest == 11


def test_dropping_the_change_table_by_hand_is_healed(writer):
    writer.executescript(PLAIN)
    before = install(writer)
    writer.execute("DROP TABLE everfresh_change")
    with pytest.raises(sqlite3.OperationalError, match="everfresh_change"):
        writer.execute("INSERT INTO t VALUES (5, 'x')")
    assert heal(writer)
    writer.execute("INSERT INTO t VALUES (5, 'x')")
    after = status(writer)
    assert after.tracked == before.tracked
    assert after.history != before.history
    assert not heal(writer)


def test_without_bookkeeping_the_triggers_go(writer):
    writer.executescript(PLAIN)
    install(writer)
    writer.execute("DROP TABLE everfresh_change")
    writer.execute("DROP TABLE everfresh_tracking")
    assert heal(writer)
    writer.execute("INSERT INTO t VALUES (5, 'x')")
    assert status(writer).history is None


# -- everything at random

TABLES = """
CREATE TABLE p (id INTEGER PRIMARY KEY, v UNIQUE COLLATE NOCASE, n INT);
CREATE TABLE c (a INT, b INT, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE,
  PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE d (k TEXT NOT NULL DEFAULT 'd' UNIQUE, p REFERENCES p ON DELETE SET NULL, w);
CREATE TRIGGER mine AFTER DELETE ON p BEGIN UPDATE d SET w = OLD.n WHERE k = OLD.v; END;
"""


def statement(chance: random.Random) -> str:
    n, m, v = chance.randint(1, 6), chance.randint(1, 6), chance.choice("aAbBcC")
    how = chance.choice(["", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT"])
    return chance.choice(
        [
            f"INSERT {how} INTO p VALUES ({n}, '{v}', {m})",
            f"INSERT {how} INTO p (v, n) VALUES ('{v}', {m}), ('x{n}', 1)",
            f"INSERT {how} INTO c VALUES ({n}, {m}, {n})",
            f"INSERT {how} INTO d VALUES (NULL, {n}, {m})",
            f"INSERT {how} INTO d VALUES ('{v}', {n}, {m})",
            f"INSERT INTO p VALUES ({n}, '{v}', 0) ON CONFLICT DO UPDATE SET n = n + 1",
            f"UPDATE {how} p SET id = {n} WHERE id = {m}",
            f"UPDATE {how} p SET v = '{v}', n = {n} WHERE id >= {m}",
            f"UPDATE {how} c SET a = {n} WHERE b = {m}",
            f"UPDATE {how} d SET rowid = {n} WHERE rowid = {m}",
            f"UPDATE {how} d SET k = '{v}' WHERE p = {n}",
            f"DELETE FROM p WHERE id = {n}",
            f"DELETE FROM c WHERE a = {n}",
            chance.choice(["DELETE FROM d", "PRAGMA recursive_triggers = 1", "SELECT 1"]),
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "RELEASE s",
        ]
    )


def contents(writer: sqlite3.Connection) -> dict[str, list[Any]]:
    order = {"p": "id", "c": "a, b", "d": "rowid"}
    return {
        f"main.{name}": writer.execute(f"SELECT * FROM {name} ORDER BY {by}").fetchall()
        for name, by in order.items()
    }


@pytest.mark.parametrize("seed", range(6))
def test_every_difference_is_explained(writer, file, seed):
    """What is in a table now and was not, or was and is not, is in some image that was told."""
    chance = random.Random(SEED + seed)
    writer.executescript(TABLES)
    install(writer)
    engine = create_engine(f"sqlite:///{file}")
    with watched(engine) as (recorder, feed):
        for _ in range(120):
            before = contents(writer)
            writer.execute("BEGIN")
            for _ in range(chance.randint(1, 5)):
                try:
                    writer.execute(statement(chance))
                except sqlite3.Error:
                    continue
            if writer.in_transaction:
                writer.execute(chance.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]))
            after = contents(writer)
            recorder.clear()
            assert feed.poll()
            explain(before, after, recorder)
    assert recorder.losses == []
    engine.dispose()


def explain(before: dict[str, Any], after: dict[str, Any], recorder: Recorder) -> None:
    whole = {change.table for change in recorder.committed if change.whole_table}
    olds = {(table, old) for table, old, _ in recorder.rows}
    news = {(table, new) for table, _, new in recorder.rows}
    for table in before.keys() - whole:
        assert {(table, row) for row in before[table] if row not in after[table]} <= olds
        assert {(table, row) for row in after[table] if row not in before[table]} <= news
