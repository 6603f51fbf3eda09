"""Section 3, what a write reaches, on PostgreSQL without row images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from everfresh.changes.postgres_pending import SharedSchema
from everfresh.connect.describe import describe
from protocol.recorder import watched

Make = Callable[..., None]
Told = Callable[..., set[str | None]]


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS app CASCADE")
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    yield engine
    engine.dispose()


@pytest.fixture
def make(engine: Engine) -> Make:
    def run(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    return run


@pytest.fixture
def told(engine: Engine, make: Make) -> Told:
    """Return the tables told of for one transaction."""

    def run(*statements: str) -> set[str | None]:
        with watched(engine) as (recorder, _):
            make(*statements)
            assert all(change.whole_table for change in recorder.committed)
            return recorder.tables

    return run


def test_cascades(make: Make, told: Told) -> None:
    """The whole table with its closure of foreign-key cascades."""
    make(
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE c (id int PRIMARY KEY REFERENCES p ON DELETE CASCADE)",
        "CREATE TABLE d (id int REFERENCES c ON UPDATE SET NULL)",
        "CREATE TABLE e (id int REFERENCES p ON DELETE SET DEFAULT)",
        "CREATE TABLE plain (id int REFERENCES p)",
    )
    assert told("DELETE FROM p") == {"public.p", "public.c", "public.d", "public.e"}
    assert told("DELETE FROM d") == {"public.d"}
    assert told("DELETE FROM plain") == {"public.plain"}


def test_partitions_and_inheritance(make: Make, told: Told) -> None:
    """A parent shows its children's rows: a write to either touches both."""
    make(
        "CREATE TABLE part (k int) PARTITION BY LIST (k)",
        "CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1)",
        "CREATE TABLE base (k int)",
        "CREATE TABLE derived (x int) INHERITS (base)",
        "CREATE TABLE more () INHERITS (derived)",
    )
    assert told("INSERT INTO part VALUES (1)") == {"public.part", "public.part1"}
    assert told("INSERT INTO part1 VALUES (1)") == {"public.part", "public.part1"}
    family = {"public.base", "public.derived", "public.more"}
    assert told("INSERT INTO more VALUES (1)") == family
    assert told("UPDATE base SET k = 2") == family


def test_code_of_the_user(make: Make, told: Told) -> None:
    """With a user trigger, a rule or a volatile function, the whole database."""
    make(
        "CREATE TABLE log (a int)",
        "CREATE TABLE a (id int)",
        "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$",
        "CREATE TRIGGER tr AFTER INSERT ON a FOR EACH STATEMENT EXECUTE FUNCTION tf()",
        "CREATE TABLE r (id int)",
        "CREATE RULE ru AS ON INSERT TO r DO ALSO INSERT INTO log VALUES (2)",
        "CREATE FUNCTION vol() RETURNS int LANGUAGE sql AS 'INSERT INTO log VALUES (3) RETURNING a'",
        "CREATE TABLE d (id int, n int DEFAULT vol())",
        "CREATE TABLE s (id int)",
        "CREATE VIEW v AS SELECT id FROM a",
        "CREATE TABLE k (id int PRIMARY KEY)",
        "ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES k ON DELETE CASCADE",
    )
    for statement in (
        "INSERT INTO a VALUES (NULL)",
        "INSERT INTO r VALUES (1)",
        "INSERT INTO d VALUES (1)",
        "INSERT INTO s SELECT vol()",
        "INSERT INTO v VALUES (NULL)",
        "DELETE FROM k",
        "SELECT vol()",
        "SELECT public.vol()",
        'SELECT "vol" ()',
        "DO $$ BEGIN INSERT INTO log VALUES (1); END $$",
    ):
        assert told(statement) == {None}, statement
    assert told("INSERT INTO s VALUES (1)") == {"public.s"}
    assert told("INSERT INTO log VALUES (1)") == {"public.log"}


def test_functions_that_only_read(engine: Engine, make: Make) -> None:
    make("CREATE FUNCTION sta() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'")
    with watched(engine) as (recorder, _):
        make("SELECT sta()", "SELECT now(), random(), count(*) FROM pg_class")
        assert recorder.ends == []


def test_statements_that_write_in_other_ways(make: Make, told: Told) -> None:
    make(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE u (id int REFERENCES t)",
        "CREATE TABLE w (id int)",
    )
    assert told("WITH x AS (DELETE FROM w RETURNING id) SELECT * FROM x") == {"public.w"}
    assert told("MERGE INTO w USING t ON t.id = w.id WHEN MATCHED THEN DELETE") == {"public.w"}
    assert told("TRUNCATE w") == {"public.w"}
    assert {None, "public.u"} & told("TRUNCATE t CASCADE")
    assert told("EXPLAIN ANALYZE DELETE FROM w") == {None}
    assert told("PREPARE q AS DELETE FROM w", "EXECUTE q") == {None}
    assert told("SELECT 1 AS a INTO fresh") == {None}


def test_names_are_found_whatever_the_search_path(make: Make, told: Told) -> None:
    """A name without its schema counts as every table of that name."""
    make("CREATE SCHEMA app", "CREATE TABLE app.t (id int)", "CREATE TABLE t (id int)")
    assert told("SET LOCAL search_path = app", "INSERT INTO t VALUES (1)") >= {"app.t"}
    assert told("INSERT INTO app.t VALUES (1)") == {"app.t"}
    assert told("INSERT INTO public.t VALUES (1)") == {"public.t"}


def test_odd_names(make: Make, told: Told) -> None:
    make('CREATE TABLE "Odd ""one""" (id int)', "CREATE TABLE lower (id int)")
    assert told('INSERT INTO "Odd ""one""" VALUES (1)') == {'public.Odd "one"'}
    assert told("INSERT INTO LOWER VALUES (1)") == {"public.lower"}


def test_a_table_made_by_another_process(engine: Engine, make: Make) -> None:
    """A table that is not known is not taken for nothing."""
    make("CREATE TABLE t (id int)")
    other = create_engine(engine.url, poolclass=NullPool)
    with watched(engine) as (recorder, _):
        make("INSERT INTO t VALUES (1)")
        with other.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE late (id int)")
        recorder.clear()
        make("INSERT INTO late VALUES (1)")
        assert recorder.tables in ({None}, {"public.late"})


def test_the_closure_is_read_again_after_ddl(engine: Engine, make: Make) -> None:
    """Closure read once, and again after DDL seen; a rolled-back DDL leaves no trace."""
    make("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE c (id int)")
    with watched(engine) as (recorder, feed):
        seen: list[str] = []
        make("DELETE FROM t")
        event.listen(engine, "before_cursor_execute", lambda c, cur, s, *rest: seen.append(s))
        make("DELETE FROM t")
        assert recorder.tables == {"public.t"}
        assert len(seen) == 1
        before = feed.schema_version
        make("ALTER TABLE c ADD FOREIGN KEY (id) REFERENCES t ON DELETE CASCADE")
        assert feed.schema_version > before
        recorder.clear()
        make("DELETE FROM t")
        assert recorder.tables == {"public.t", "public.c"}
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER TABLE c DROP CONSTRAINT c_id_fkey")
            connection.rollback()
        recorder.clear()
        make("DELETE FROM t")
        assert recorder.tables == {"public.t", "public.c"}


def test_the_closure_others_read_before_ddl_is_committed(engine: Engine, make: Make) -> None:
    """DDL is seen when it runs, and by others when it is committed: the closure is read again."""
    make("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE c (id int)", "CREATE TABLE x (a int)")
    with watched(engine) as (recorder, _):
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "ALTER TABLE c ADD FOREIGN KEY (id) REFERENCES t ON DELETE CASCADE"
            )
            make("INSERT INTO x VALUES (1)")  # reads the closure without the new key
        recorder.clear()
        make("DELETE FROM t")
    assert recorder.tables == {"public.t", "public.c"}


def test_ddl_while_the_closure_is_read() -> None:
    """What was read while DDL came in is used once, and not kept."""
    shared = SharedSchema(lambda: None)

    def query(statement: str) -> list[Any]:
        shared.forget()
        return []

    assert shared.read(query).tables == {}
    assert shared.known is None
    assert shared.read(lambda statement: []) is shared.known


def test_reading_the_closure_never_breaks_the_users_work(
    engine: Engine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure to read pg_catalog makes the commit coarse, and the commit goes through."""
    from everfresh.connect import describe_postgres

    make("CREATE TABLE t (id int)")
    monkeypatch.setattr(describe_postgres, "_KIN", "SELECT nonsense")
    with watched(engine) as (recorder, _):
        make("INSERT INTO t VALUES (1)")
        assert recorder.tables == {None}
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM t")) == 1


def test_temporary_tables(engine: Engine, make: Make) -> None:
    """A temporary table is nobody else's, unless a trigger on it may write elsewhere."""
    make("CREATE TABLE t (id int)")
    with watched(engine) as (recorder, feed):
        make("CREATE TEMP TABLE scratch (a int)", "INSERT INTO scratch VALUES (1)")
        assert recorder.tables == set()
        assert feed.temporary_names == {"scratch"}
        make(
            "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO t VALUES (1); RETURN NULL; END $$",
            "CREATE TEMP TABLE sly (a int)",
            "CREATE TRIGGER tr AFTER INSERT ON sly EXECUTE FUNCTION tf()",
        )
        recorder.clear()
        make("INSERT INTO sly VALUES (1)")
        assert recorder.tables == {None}


def test_a_schema_that_is_known_is_not_read_again(engine: Engine, make: Make) -> None:
    make("CREATE TABLE t (id int)")
    with watched(engine) as (recorder, feed):
        with engine.connect() as connection:
            feed.know(describe(connection))
        calls: list[Any] = []
        feed._shared.read = calls.append  # type: ignore[assignment,method-assign]
        make("INSERT INTO t VALUES (1)")
        assert recorder.tables == {"public.t"}
        assert calls == []
