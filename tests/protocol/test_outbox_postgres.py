"""Sections 1, 3, 8 and 13 on PostgreSQL: what any writer commits is heard, by its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine

from everfresh.errors import ConfigurationError
from everfresh.testing.servers import PostgresServer
from protocol.ear import Ear, listening

Run = Callable[..., None]


@pytest.fixture
def other(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another program's connection, in autocommit mode, to a database that is empty."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS everfresh CASCADE; DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO public")
        yield connection


@pytest.fixture
def ear(engine: Engine, run: Run) -> Iterator[Ear]:
    """A listener to a table ``t`` that is tracked."""
    run("CREATE TABLE t (id int PRIMARY KEY, month int, name text)")
    with listening(engine) as made:
        yield made


# -- rows


def test_rows_before_and_after(ear: Ear, run: Run) -> None:
    run("INSERT INTO t VALUES (1, 6, 'a'), (2, 7, 'b')")
    assert ear.heard() == [
        ("public.t", None, {"id": 1, "month": 6, "name": "a"}),
        ("public.t", None, {"id": 2, "month": 7, "name": "b"}),
    ]
    run("UPDATE t SET month = 5 WHERE id = 1", "DELETE FROM t WHERE id = 2")
    (update, delete) = ear.hear()
    assert (update.old, update.new) == (
        {"id": 1, "month": 6, "name": "a"},
        {"id": 1, "month": 5, "name": "a"},
    )
    assert (delete.old, delete.new, delete.key) == ({"id": 2, "month": 7, "name": "b"}, None, (2,))
    run("UPDATE t SET month = 5")  # it changes nothing
    assert ear.heard() == []


def test_what_is_rolled_back_is_not_told(ear: Ear, other: psycopg.Connection[Any]) -> None:
    with other.transaction(force_rollback=True):
        other.execute("INSERT INTO t VALUES (1, 6, 'a')")
    assert ear.heard() == []
    with other.transaction():
        other.execute("INSERT INTO t VALUES (2, 6, 'kept')")
        with other.transaction(force_rollback=True):
            other.execute("INSERT INTO t VALUES (3, 6, 'undone')")
    assert [new["id"] for _, _, new in ear.heard()] == [2]


def test_a_transaction_that_began_first_and_ends_last_is_heard(ear: Ear, dsn: str) -> None:
    """Ids are in no order of commits: a poll that reads up to a number would pass it over."""
    with psycopg.connect(dsn) as slow, psycopg.connect(dsn) as fast:
        slow.execute("INSERT INTO t VALUES (1, 6, 'slow')")
        fast.execute("INSERT INTO t VALUES (2, 6, 'fast')")
        fast.commit()
        assert [new["id"] for _, _, new in ear.heard()] == [2]
        assert ear.heard() == []
        slow.commit()
        assert [new["id"] for _, _, new in ear.heard()] == [1]
        assert ear.heard() == []


def test_an_idle_writer_holds_nobody_up(ear: Ear, dsn: str, run: Run) -> None:
    with psycopg.connect(dsn) as idle:
        idle.execute("INSERT INTO t VALUES (1, 6, 'idle')")
        run("INSERT INTO t VALUES (2, 6, 'b')")
        assert [new["id"] for _, _, new in ear.heard()] == [2]
        idle.rollback()
    assert ear.heard() == []


def test_every_type_as_its_column_compares(engine: Engine, run: Run) -> None:
    run(
        "CREATE TABLE v (i bigint PRIMARY KEY, n numeric, f float8, r real, b bool, d date,"
        " s timestamp, z timestamptz, u uuid, y bytea, c char(4), j jsonb, a int[], w interval)"
    )
    with listening(engine) as ear:
        run(
            "SET extra_float_digits = -3",
            "SET TimeZone = 'Asia/Tokyo'",
            "SET DateStyle = 'German'",
            "SET bytea_output = 'escape'",
            "INSERT INTO v VALUES (9007199254740993, 1.10, 0.1::float8 + 0.2, 0.1, true,"
            " '2013-06-01', '2013-06-01 10:00', '2013-06-01 10:00+02',"
            " '00000000-0000-0000-0000-000000000001', '\\x00ff', 'ab', '{}', '{1}', '1 day')",
        )
        ((_, _, new),) = ear.heard()
    assert new["i"] == 9007199254740993
    assert new["n"] == Decimal("1.10")
    assert float(new["f"]) == 0.1 + 0.2
    assert new["b"] is True
    assert new["d"] == "2013-06-01"
    assert new["s"].startswith("2013-06-01T10:00")
    assert new["z"].isoformat() == "2013-06-01T08:00:00+00:00"
    assert new["y"] == b"\x00\xff"
    assert not {"j", "a", "w"} & new.keys()  # how they compare is not known: unknown, not NULL


def test_special_numbers_and_nulls(engine: Engine, run: Run) -> None:
    run("CREATE TABLE v (id int PRIMARY KEY, n numeric, f float8)")
    with listening(engine) as ear:
        run("INSERT INTO v VALUES (1, 'NaN', 'Infinity'), (2, NULL, NULL)")
        told = {new["id"]: new for _, _, new in ear.heard()}
    assert told[2] == {"id": 2, "n": None, "f": None}
    assert told[1].keys() == {"id", "n", "f"}


def test_generated_columns(engine: Engine, run: Run, other: psycopg.Connection[Any]) -> None:
    """What is computed when it is read is not in a trigger's row: unknown, not NULL."""
    run("CREATE TABLE v (a int, stored int GENERATED ALWAYS AS (a * 2) STORED)")
    if other.info.server_version >= 180000:
        run("ALTER TABLE v ADD virtual int GENERATED ALWAYS AS (a * 3) VIRTUAL")
    with listening(engine) as ear:
        run("INSERT INTO v VALUES (1)")
        assert ear.heard() == [("public.v", None, {"a": 1, "stored": 2})]


def test_a_large_row_makes_the_table_stale(ear: Ear, run: Run) -> None:
    run("INSERT INTO t VALUES (1, 6, repeat('x', 100000))")
    assert ear.heard() == [("public.t", None, None)]
    run("UPDATE t SET month = 7")
    assert ear.heard() == [("public.t", None, None)]
    run("DELETE FROM t")
    assert ear.heard() == [("public.t", None, None)]


def test_many_rows_make_the_table_stale_at_once(ear: Ear, run: Run) -> None:
    run("INSERT INTO t SELECT g, 6, 'a' FROM generate_series(1, 51) g")
    assert ear.heard() == [("public.t", None, None)]


def test_very_many_rows_are_not_fetched(ear: Ear, run: Run) -> None:
    run("INSERT INTO t SELECT g, 6, 'a' FROM generate_series(1, 20001) g")
    (change,) = ear.hear()
    assert (change.table, change.whole_table) == ("public.t", True)
    assert ear.heard() == []


# -- ways to write


def test_truncate_and_copy(ear: Ear, run: Run, other: psycopg.Connection[Any]) -> None:
    with other.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write_row((1, 6, "copied"))
    assert [new["name"] for _, _, new in ear.heard()] == ["copied"]
    run("TRUNCATE t")
    assert ear.heard() == [("public.t", None, None)]


def test_upsert_and_merge(ear: Ear, run: Run) -> None:
    run("INSERT INTO t VALUES (1, 6, 'a')")
    ear.hear()
    run("INSERT INTO t VALUES (1, 7, 'b') ON CONFLICT (id) DO UPDATE SET month = EXCLUDED.month")
    ((_, old, new),) = ear.heard()
    assert (old["month"], new["month"]) == (6, 7)
    run(
        "MERGE INTO t USING (VALUES (1), (2)) v(id) ON t.id = v.id"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.id, 8, 'm')"
    )
    assert sorted((old is None, new is None) for _, old, new in ear.heard()) == [
        (False, True),
        (True, False),
    ]


def test_cascades(engine: Engine, run: Run) -> None:
    run(
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE)",
        "CREATE TABLE n (id int PRIMARY KEY, p int REFERENCES p ON DELETE SET NULL)",
        "INSERT INTO p VALUES (1); INSERT INTO c VALUES (10, 1); INSERT INTO n VALUES (20, 1)",
    )
    with listening(engine) as ear:
        run("DELETE FROM p")
        assert sorted(ear.heard(), key=str) == sorted(
            [
                ("public.p", {"id": 1}, None),
                ("public.c", {"id": 10, "p": 1}, None),
                ("public.n", {"id": 20, "p": 1}, {"id": 20, "p": None}),
            ],
            key=str,
        )


def test_partitions(engine: Engine, run: Run) -> None:
    """Rows reach a leaf through its parent and without it, and move between leaves."""
    run(
        "CREATE TABLE m (k int, v int) PARTITION BY LIST (k)",
        "CREATE TABLE m1 PARTITION OF m FOR VALUES IN (1)",
        "CREATE TABLE m2 PARTITION OF m FOR VALUES IN (2) PARTITION BY LIST (v)",
        "CREATE TABLE m21 PARTITION OF m2 FOR VALUES IN (1)",
    )
    with listening(engine) as ear:
        assert ear.watch.status().tracked == ("public.m", "public.m1", "public.m2", "public.m21")
        run("INSERT INTO m VALUES (1, 1)")
        assert {c.table for c in ear.hear()} == {"public.m", "public.m1"}
        run("INSERT INTO m21 VALUES (2, 1)")
        assert {c.table for c in ear.hear()} == {"public.m", "public.m2", "public.m21"}
        run("UPDATE m SET k = 1 WHERE k = 2")
        moved = ear.heard()
        assert ("public.m21", {"k": 2, "v": 1}, None) in moved
        assert ("public.m1", None, {"k": 1, "v": 1}) in moved
        run("TRUNCATE m")
        assert {c.table for c in ear.hear()} == {"public.m", "public.m1", "public.m2", "public.m21"}


def test_a_leaf_that_is_attached_later_is_not_taken_for_tracked(engine: Engine, run: Run) -> None:
    run(
        "CREATE TABLE m (k int) PARTITION BY LIST (k)",
        "CREATE TABLE m1 PARTITION OF m FOR VALUES IN (1)",
    )
    with listening(engine) as ear:
        run("CREATE TABLE m2 (k int); INSERT INTO m2 VALUES (2)")
        run("ALTER TABLE m ATTACH PARTITION m2 FOR VALUES IN (2)")
        assert None in {c.table for c in ear.hear()}
        assert ear.watch.untracked == {"public.m", "public.m2"}
        run("INSERT INTO m VALUES (2)")
        assert {"public.m", "public.m2"} <= {c.table for c in ear.hear()}
        ear.watch.install()
        ear.hear()
        run("INSERT INTO m VALUES (2)")
        assert ear.heard() == [("public.m2", None, {"k": 2}), ("public.m", None, {"k": 2})]


def test_inheritance(engine: Engine, run: Run) -> None:
    run("CREATE TABLE base (k int)", "CREATE TABLE derived (x int) INHERITS (base)")
    with listening(engine) as ear:
        run("INSERT INTO derived VALUES (1, 2)")
        assert ear.heard() == [
            ("public.derived", None, {"k": 1, "x": 2}),
            ("public.base", None, {"k": 1, "x": 2}),
        ]


def test_replicated_rows(ear: Ear, run: Run) -> None:
    """What logical replication applies fires no ordinary trigger."""
    run("SET session_replication_role = replica", "INSERT INTO t VALUES (1, 6, 'a')")
    assert len(ear.hear()) == 1
    run("SET session_replication_role = origin")


def test_two_phases(ear: Ear, run: Run, other: psycopg.Connection[Any]) -> None:
    other.execute("BEGIN")
    run("INSERT INTO t VALUES (1, 6, 'a')", "PREPARE TRANSACTION 'everfresh-test'")
    assert ear.heard() == []
    run("COMMIT PREPARED 'everfresh-test'")
    assert len(ear.hear()) == 1


def test_writers_without_any_privilege_on_the_outbox(ear: Ear, run: Run, dsn: str) -> None:
    run(
        "DROP ROLE IF EXISTS everfresh_writer",
        "CREATE ROLE everfresh_writer LOGIN",
        "GRANT INSERT, UPDATE ON t TO everfresh_writer",
    )
    ear.hear()
    with psycopg.connect(dsn, user="everfresh_writer", autocommit=True) as writer:
        writer.execute("INSERT INTO t VALUES (1, 6, 'a')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.execute("SELECT * FROM everfresh.change")
    assert len(ear.hear()) == 1
    run("REVOKE ALL ON t FROM everfresh_writer", "DROP ROLE everfresh_writer")


def test_no_code_of_a_users_runs_with_the_rights_of_who_installed_it(
    engine: Engine, run: Run, other: psycopg.Connection[Any]
) -> None:
    run(
        "CREATE TYPE m AS ENUM ('x'); CREATE TABLE t (id int PRIMARY KEY, m m)",
        "CREATE TABLE ran (one text)",
        "CREATE FUNCTION f(m) RETURNS json LANGUAGE plpgsql AS $$BEGIN"
        " INSERT INTO ran VALUES (current_user); RETURN '1'; END$$",
    )
    with listening(engine) as ear:
        run("CREATE CAST (m AS json) WITH FUNCTION f(m)")
        ear.hear()
        run("INSERT INTO t VALUES (1, 'x')")
        assert ear.heard() == [("public.t", None, None)]
        assert other.execute("SELECT * FROM ran").fetchall() == []
        run("DROP CAST (m AS json)")
        ear.hear()
        run("INSERT INTO t VALUES (2, 'x')")
        assert ear.heard() == [("public.t", None, {"id": 2})]


def test_who_may_not_read_the_outbox_says_so_and_a_reader_may(
    ear: Ear, run: Run, dsn: str, postgres_url: str
) -> None:
    run(
        "DROP ROLE IF EXISTS everfresh_reader",
        "CREATE ROLE everfresh_reader LOGIN",
    )
    engine = create_engine(postgres_url.replace("postgres@", "everfresh_reader@"))
    try:
        with listening(engine, install=False) as reader:
            assert reader.watch.mode == "watched"
            assert "--reader" in reader.watch.reason
            run("INSERT INTO t VALUES (1, 6, 'a')")
            reader.hear()
            assert reader.losses
            ear.watch.install(readers=["everfresh_reader"])
            reader.hear()
            assert reader.watch.mode == "tracked"
            run("INSERT INTO t VALUES (2, 6, 'a')")
            assert len(reader.hear()) == 1
            assert reader.watch.prune(1) >= 0
    finally:
        engine.dispose()
        run(
            "REVOKE ALL ON ALL TABLES IN SCHEMA everfresh FROM everfresh_reader",
            "REVOKE ALL ON SCHEMA everfresh FROM everfresh_reader",
            "DROP ROLE everfresh_reader",
        )


# -- definitions: what no trigger tells

DEFINITIONS = {
    "a column": "ALTER TABLE t ADD extra int",
    "a column renamed": "ALTER TABLE t RENAME name TO title",
    "a type": "ALTER TABLE t ALTER month TYPE text",
    "a view": "CREATE VIEW v AS SELECT 1",
    "a view replaced": "CREATE OR REPLACE VIEW seen AS SELECT 2 AS n",
    "a function": "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a function replaced": "CREATE OR REPLACE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "a policy": "CREATE POLICY p ON t USING (month = 6)",
    "row security": "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "a grant": "GRANT SELECT ON t TO pg_monitor",
    "a grant on a column": "GRANT SELECT (name) ON t TO pg_monitor",
    "a table": "CREATE TABLE another (a int)",
    "a label of an enum": "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
    "a part of a type": "ALTER TYPE pair DROP ATTRIBUTE b",
    "a trigger disabled": "ALTER TABLE t DISABLE TRIGGER everfresh_row",
    "a trigger dropped": "DROP TRIGGER everfresh_truncate ON t",
    "a schema renamed": "CREATE SCHEMA s1; ALTER SCHEMA s1 RENAME TO s2",
}


@pytest.mark.parametrize("what", DEFINITIONS)
def test_a_definition_that_changes_makes_everything_stale(
    what: str, engine: Engine, run: Run
) -> None:
    run(
        "CREATE TABLE t (id int PRIMARY KEY, month int, name text)",
        "CREATE VIEW seen AS SELECT 1 AS n",
        "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP SCHEMA IF EXISTS s2",
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE pair AS (a int, b int)",
    )
    with listening(engine) as ear:
        assert ear.heard() == []
        run(DEFINITIONS[what])
        assert [c.table for c in ear.hear()] == [None]
        assert ear.heard() == []


def test_roles_are_definitions(ear: Ear, run: Run) -> None:
    run("DROP ROLE IF EXISTS everfresh_one", "CREATE ROLE everfresh_one")
    assert [c.table for c in ear.hear()] == [None]
    run("GRANT pg_monitor TO everfresh_one")
    assert [c.table for c in ear.hear()] == [None]
    run("ALTER ROLE everfresh_one BYPASSRLS")
    assert [c.table for c in ear.hear()] == [None]
    run("DROP ROLE everfresh_one")
    assert [c.table for c in ear.hear()] == [None]


def test_what_changes_no_answer_is_no_definition(ear: Ear, run: Run) -> None:
    run("ANALYZE", "CREATE TEMP TABLE tmp (a int)", "CREATE INDEX ON t (month)", "VACUUM t")
    run("CREATE SCHEMA everfresh_store", "CREATE TABLE everfresh_store.kept (key text)")
    assert ear.heard() == []
    run("INSERT INTO everfresh_store.kept VALUES ('k')", "DROP SCHEMA everfresh_store CASCADE")
    assert ear.heard() == []


def test_definitions_are_looked_at_as_often_as_is_asked(ear: Ear, run: Run) -> None:
    run("ALTER TABLE t ADD extra int")
    ear.committed.clear()
    assert ear.watch.poll(definitions=3600)
    assert ear.committed == []
    assert [c.table for c in ear.hear()] == [None]


def test_columns_may_come_and_go_and_no_write_fails(ear: Ear, run: Run) -> None:
    run("ALTER TABLE t DROP name", "ALTER TABLE t RENAME month TO m", "ALTER TABLE t ADD x date")
    run("INSERT INTO t VALUES (1, 6, '2013-06-01')")
    ear.hear()
    run("UPDATE t SET m = 7")
    ((_, old, new),) = ear.heard()
    assert (old["m"], new) == (6, {"id": 1, "m": 7, "x": "2013-06-01"})


def test_a_table_whose_trigger_is_switched_off_is_not_tracked(ear: Ear, run: Run) -> None:
    run("CREATE TABLE other (id int)")
    ear.watch.install()
    run("ALTER TABLE t DISABLE TRIGGER everfresh_row")
    ear.hear()
    assert "public.t" in ear.watch.status().outdated
    run("INSERT INTO t VALUES (1, 6, 'unseen')")
    assert ear.heard() == [("public.t", None, None)]
    run("ALTER TABLE t ENABLE TRIGGER everfresh_row")  # not for rows that replication applies
    ear.hear()
    assert ear.watch.untracked == {"public.t"}


def test_what_was_written_between_a_definition_and_the_look_is_not_missed(
    ear: Ear, run: Run
) -> None:
    run("ALTER TABLE t DISABLE TRIGGER everfresh_row", "INSERT INTO t VALUES (1, 6, 'unseen')")
    run("ALTER TABLE t ENABLE ALWAYS TRIGGER everfresh_row")
    assert [c.table for c in ear.hear()] == [None]


# -- an outbox that is tampered with


def test_dropping_the_outbox_fails_no_write_and_is_heard(ear: Ear, run: Run) -> None:
    run("DROP TABLE everfresh.change", "INSERT INTO t VALUES (1, 6, 'a')")
    assert [c.table for c in ear.hear()] == [None]
    assert ear.watch.mode == "watched"
    run("INSERT INTO t VALUES (2, 6, 'a')")
    ear.hear()
    assert ear.losses
    with pytest.raises(ConfigurationError, match="track remove"):
        ear.watch.install()
    ear.watch.remove()
    ear.watch.install()
    ear.hear()
    run("INSERT INTO t VALUES (3, 6, 'a')")
    assert [new["id"] for _, _, new in ear.heard()] == [3]


def test_rows_pruned_before_they_were_heard_are_missed_by_nobody(ear: Ear, run: Run) -> None:
    run("INSERT INTO t VALUES (1, 6, 'a')", "INSERT INTO t VALUES (2, 6, 'a')")
    run(
        "UPDATE everfresh.state SET pruned = (SELECT max(xid) FROM everfresh.change)",
        "DELETE FROM everfresh.change WHERE xid < (SELECT pruned FROM everfresh.state)",
    )
    ear.hear()
    assert ear.losses == ["rows are missing from the outbox"]
    run("INSERT INTO t VALUES (3, 6, 'a')")
    assert len(ear.hear()) == 1


def test_pruning_keeps_the_latest_and_what_running_transactions_may_add(
    ear: Ear, run: Run, dsn: str, other: psycopg.Connection[Any]
) -> None:
    for number in range(10):
        run(f"INSERT INTO t VALUES ({number}, 6, 'a')")
    with psycopg.connect(dsn) as slow:
        slow.execute("INSERT INTO t VALUES (100, 6, 'slow')")
        for number in range(10, 20):
            run(f"INSERT INTO t VALUES ({number}, 6, 'a')")
        ear.hear()
        assert ear.watch.prune(3) == 10  # what began before the slow one
        slow.commit()
    assert [new["id"] for _, _, new in ear.heard()] == [100]
    assert ear.losses == []
    assert ear.watch.prune(3) > 0
    assert other.execute("SELECT count(*) FROM everfresh.change").fetchone() == (4,)


def test_a_restored_copy_has_another_history(ear: Ear, engine: Engine, run: Run) -> None:
    """A dump holds the outbox too, with transactions of another database."""
    mark = ear.watch._at
    assert mark is not None
    ear.watch.remove()
    ear.watch.install()
    ear.hear()
    again = ear.watch._at
    assert again is not None
    assert again.history != mark.history
    assert ear.watch.since(mark) is None


# -- marks


def test_marks_of_readers_and_what_they_have_not_seen(
    ear: Ear, run: Run, dsn: str, engine: Engine
) -> None:
    with psycopg.connect(dsn) as slow, engine.connect() as reader:
        slow.execute("INSERT INTO t VALUES (1, 6, 'slow')")
        run("INSERT INTO t VALUES (2, 6, 'fast')")
        ear.hear()
        mark = ear.watch.mark(reader.connection.dbapi_connection)
        assert mark is not None
        assert ear.watch.since(mark) == []
        slow.commit()
        (change,) = ear.hear()
        assert not mark.includes(change)
        told = ear.watch.since(mark)
        assert told is not None
        assert [c.key for c in told] == [change.key] == [(1,)]
        reader.rollback()
        later = ear.watch.mark(reader.connection.dbapi_connection)
        assert later is not None
        assert later.includes(change)
        assert ear.watch.since(later) == []


def test_a_mark_from_before_the_window_is_looked_up_in_the_outbox(
    ear: Ear, run: Run, engine: Engine
) -> None:
    with engine.connect() as reader:
        mark = ear.watch.mark(reader.connection.dbapi_connection)
    assert mark is not None
    run("INSERT INTO t VALUES (1, 6, 'a')")
    with listening(engine, install=False) as fresh:
        told = fresh.watch.since(mark)
        assert told is not None
        assert [change.key for change in told] == [(1,)]
        run("ALTER TABLE t ADD extra int")
        assert fresh.watch.since(mark) is None  # not by that schema


# -- only watching


def test_without_an_outbox_a_foreign_commit_makes_everything_stale(
    engine: Engine, run: Run
) -> None:
    run("CREATE TABLE t (id int)")
    with listening(engine, install=False) as ear:
        assert ear.watch.mode == "watched"
        assert (ear.hear(), ear.losses) == ([], [])
        run("INSERT INTO t VALUES (1)")
        ear.hear()
        assert ear.losses == ["another connection or process committed to the database"]
        assert (ear.hear(), ear.losses) == ([], [])


def test_what_is_rolled_back_is_no_commit(
    engine: Engine, run: Run, other: psycopg.Connection[Any]
) -> None:
    run("CREATE TABLE t (id int)")
    with listening(engine, install=False) as ear:
        with other.transaction(force_rollback=True):
            other.execute("INSERT INTO t VALUES (1)")
        assert (ear.hear(), ear.losses) == ([], [])


def test_a_transaction_of_ours_is_no_foreign_one(
    engine: Engine, run: Run, other: psycopg.Connection[Any]
) -> None:
    run("CREATE TABLE t (id int)")
    with listening(engine, install=False) as ear:
        with other.transaction():
            other.execute("INSERT INTO t VALUES (1)")
            (number,) = other.execute("SELECT pg_current_xact_id()::text").fetchone() or ("0",)
            ear.watch.own(int(number), [])
        assert (ear.hear(), ear.losses) == ([], [])
        run("INSERT INTO t VALUES (2)")
        ear.hear()
        assert ear.losses


# -- installing


def test_the_plan_is_what_is_run_and_nothing_more(ear: Ear, run: Run) -> None:
    assert ear.watch.plan() == []
    run("CREATE TABLE added (a int)")
    plan = ear.watch.plan()
    assert plan == [
        'CREATE TRIGGER everfresh_row AFTER INSERT OR UPDATE OR DELETE ON "public"."added"'
        " FOR EACH ROW EXECUTE FUNCTION everfresh.log()",
        'ALTER TABLE "public"."added" ENABLE ALWAYS TRIGGER everfresh_row',
        'CREATE TRIGGER everfresh_truncate AFTER TRUNCATE ON "public"."added" FOR EACH STATEMENT'
        " EXECUTE FUNCTION everfresh.log()",
        'ALTER TABLE "public"."added" ENABLE ALWAYS TRIGGER everfresh_truncate',
    ]
    assert ear.watch.status().outdated == ()
    ear.watch.install(["added"])
    assert "public.added" in ear.watch.status().tracked


def test_removing_leaves_nothing(ear: Ear, other: psycopg.Connection[Any], run: Run) -> None:
    assert ear.watch.remove().history is None
    left = other.execute(
        "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'everfresh%'"
    ).fetchone()
    assert left == (0,)
    run("INSERT INTO t VALUES (1, 6, 'a')")
    assert ear.watch.remove().history is None


def test_names_of_every_kind(engine: Engine, run: Run) -> None:
    odd = 'a "b" %s Ü; --'
    name = '"' + odd.replace('"', '""') + '"'
    run(f"CREATE SCHEMA {name}; CREATE TABLE {name}.{name} ({name} int)".replace("%", "%"))
    with listening(engine) as ear:
        run(f"INSERT INTO {name}.{name} VALUES (1)")
        assert ear.heard() == [(f"{odd}.{odd}", None, {odd: 1})]
    run(f"DROP SCHEMA {name} CASCADE")


def test_bad_input(ear: Ear, run: Run) -> None:
    for tables, match in ((["none"], "no table 'none'"), ([1], "named by text")):
        with pytest.raises(ConfigurationError, match=match):
            ear.watch.install(tables)  # type: ignore[arg-type]
    run("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS n")
    with pytest.raises(ConfigurationError, match="materialised view"):
        ear.watch.install(["mv"])
    with pytest.raises(ConfigurationError, match="nothing was done"):
        ear.watch.install(readers=["no such role"])


def test_a_schema_of_that_name_that_is_not_ours_is_left_alone(engine: Engine, run: Run) -> None:
    run("CREATE SCHEMA everfresh", "CREATE TABLE everfresh.theirs (a int)")
    with (
        listening(engine, install=False) as ear,
        pytest.raises(ConfigurationError, match="not whole"),
    ):
        ear.watch.install()
    run("SELECT * FROM everfresh.theirs")


def test_a_busy_table_is_not_waited_for_for_ever(
    ear: Ear, run: Run, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everfresh.changes.postgres_tracking._PATIENCE", 0.05)
    run("CREATE TABLE added (a int)")
    with psycopg.connect(dsn) as busy:
        busy.execute("INSERT INTO added VALUES (1)")
        with pytest.raises(ConfigurationError, match="lock timeout"):
            ear.watch.install(["added"])
        busy.rollback()
    assert "public.added" not in ear.watch.status().tracked


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_databases_of_other_encodings(postgres: PostgresServer, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    url = f"{postgres.url.rpartition('/')[0]}/{name}"
    engine = create_engine(url, connect_args={"client_encoding": "UTF8"})
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True, client_encoding="UTF8") as writer:
        writer.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        with listening(engine) as ear:
            writer.execute("INSERT INTO t VALUES (1, 'Gr\u00fc\u00dfe')")
            assert ear.heard() == [("public.t", None, {"id": 1, "name": "Gr\u00fc\u00dfe"})]
    engine.dispose()
    postgres.drop_database(url)
