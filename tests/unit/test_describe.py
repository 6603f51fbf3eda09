"""What a database says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from everfresh.connect.describe import describe, identity, version
from everfresh.connect.describe_sqlite import collations
from everfresh.errors import ConfigurationError


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Connection]:
    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def pg(postgres_url: str) -> Iterator[Connection]:
    engine = create_engine(postgres_url, poolclass=NullPool)
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def test_sqlite_tables(sqlite: Connection) -> None:
    run(
        sqlite,
        'CREATE TABLE Flights (Id INTEGER PRIMARY KEY, "odd ""name" TEXT COLLATE NOCASE,'
        " g AS (id + 1), CHECK (id > 0))",
        "CREATE TABLE pair (b, a, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "CREATE VIEW late AS SELECT id FROM flights",
        "CREATE VIEW broken AS SELECT missing FROM nowhere",
        "CREATE TEMP TABLE scratch (x)",
        "CREATE VIRTUAL TABLE docs USING fts5(body)",
        "CREATE TABLE seq (a INTEGER PRIMARY KEY AUTOINCREMENT)",
    )
    schema = describe(sqlite)
    flights = schema.table(None, "FLIGHTS")
    assert flights is not None
    assert flights.name == "main.flights"
    assert flights.primary_key == ("Id",)
    assert [(c.name, c.type, c.collation) for c in flights.columns] == [
        ("Id", "INTEGER", None),
        ('odd "name', "TEXT", "nocase"),
        ("g", "", None),
    ]
    assert schema.tables["main.pair"].primary_key == ("a", "b")
    late = schema.tables["main.late"]
    assert (late.kind, late.definition) == ("view", "SELECT id FROM flights")
    assert [c.name for c in late.columns] == ["Id"]
    assert schema.tables["main.broken"].columns == ()
    assert schema.tables["temp.scratch"].kind == "temporary"
    assert schema.tables["main.docs"].kind == "virtual"
    assert schema.modules["main.docs"] == "fts5"
    assert schema.tables["main.sqlite_sequence"].kind == "system"
    assert schema.table(None, "sqlite_master") is not None
    assert schema.table("main", "nowhere") is None
    assert schema.volatile_function("anything") is None


def test_sqlite_attached_and_shadowed(sqlite: Connection, tmp_path: Path) -> None:
    run(
        sqlite,
        f"ATTACH '{tmp_path / 'other.db'}' AS \"Other\"",
        "CREATE TABLE other.t (a)",
        "CREATE TABLE other.u (a)",
        "CREATE TABLE main.t (a)",
        "CREATE TEMP TABLE t (a)",
    )
    schema = describe(sqlite)
    found = [schema.table(s, n) for s, n in [(None, "t"), ("main", "t"), (None, "u")]]
    assert [t.name for t in found if t] == ["temp.t", "main.t", "other.u"]


def test_sqlite_what_a_write_may_write_besides(sqlite: Connection) -> None:
    run(
        sqlite,
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (id REFERENCES p ON DELETE CASCADE, x UNIQUE ON CONFLICT REPLACE)",
        "CREATE TABLE d (id REFERENCES p)",
        "CREATE TRIGGER tr AFTER INSERT ON d BEGIN DELETE FROM c; END",
        "CREATE TEMP TRIGGER tt AFTER INSERT ON p BEGIN SELECT 1; END",
    )
    schema = describe(sqlite)
    keys = {(k.child, k.parent, k.acts) for k in schema.foreign_keys}
    assert keys == {("main.c", "main.p", True), ("main.d", "main.p", False)}
    assert schema.triggering == {"main.d", "*.p"}
    assert schema.replacing == {"main.c"}


@pytest.mark.parametrize("tables", [1, 50])
def test_few_statements_however_many_tables(sqlite: Connection, tables: int) -> None:
    for number in range(tables):
        run(sqlite, f"CREATE TABLE t{number} (a)")
    seen: list[str] = []
    event.listen(sqlite, "before_cursor_execute", lambda c, cur, s, *rest: seen.append(s))
    describe(sqlite)
    assert len(seen) < 14


def test_sqlite_version_moves_with_the_schema(sqlite: Connection) -> None:
    before = version(sqlite)
    run(sqlite, "CREATE TABLE t (a)")
    changed = version(sqlite)
    assert changed != before
    run(sqlite, "INSERT INTO t VALUES (1)")
    assert version(sqlite) == changed
    assert describe(sqlite).stamp == changed


def test_sqlite_identity(sqlite: Connection, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "data.db")
    other = create_engine(f"sqlite:///{tmp_path / 'link.db'}")
    with other.connect() as connection:
        assert identity(connection) == identity(sqlite)
    other.dispose()
    memories = [create_engine("sqlite://") for _ in range(2)]
    names = set()
    for engine in memories:
        with engine.connect() as connection:
            names.add(identity(connection).database)
            names.add(identity(connection).database)
        engine.dispose()
    assert len(names) == 2


def test_collations_are_read_from_the_declaration() -> None:
    sql = """CREATE TABLE "t" (a TEXT /* COLLATE x, */ COLLATE "NoCase", -- COLLATE y
        [b] INT DEFAULT ('COLLATE z'), c VARCHAR(10) NOT NULL COLLATE RTRIM)"""
    assert collations(sql) == {"a": "nocase", "c": "rtrim"}


def test_postgres_tables(pg: Connection) -> None:
    run(
        pg,
        "CREATE SCHEMA app",
        'CREATE TABLE app."Odd" (b int, a text COLLATE "C", n numeric(4,1), PRIMARY KEY (a, b))',
        "CREATE TABLE t (a int)",
        "CREATE VIEW v AS SELECT a FROM t",
        "CREATE MATERIALIZED VIEW m AS SELECT a FROM t",
        "CREATE TEMP TABLE t (a int)",
        "SET LOCAL search_path = app, public",
    )
    schema = describe(pg)
    odd = schema.table(None, "Odd")
    assert odd is not None
    assert (odd.name, odd.primary_key) == ("app.Odd", ("a", "b"))
    assert [(c.name, c.type, c.collation) for c in odd.columns] == [
        ("b", "integer", None),
        ("a", "text", "C"),
        ("n", "numeric(4,1)", None),
    ]
    temporary = schema.table(None, "t")
    assert temporary is not None
    assert temporary.kind == "temporary"
    assert schema.tables["public.t"].kind == "table"
    view = schema.tables["public.v"]
    assert (view.kind, view.definition) == ("view", "SELECT a\n   FROM t") or (
        view.definition is not None and "public.t" in view.definition
    )
    assert schema.tables["public.m"].kind == "table"
    system = schema.table(None, "pg_class")
    assert system is not None
    assert system.kind == "system"


def test_postgres_what_a_write_may_write_besides(pg: Connection) -> None:
    run(
        pg,
        "CREATE TABLE p (id int PRIMARY KEY) ",
        "CREATE TABLE c (id int REFERENCES p ON UPDATE CASCADE)",
        "CREATE TABLE d (id int REFERENCES p)",
        "CREATE TABLE part (k int) PARTITION BY LIST (k)",
        "CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1)",
        "CREATE FUNCTION vol() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION sta() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION imm() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE def (id int DEFAULT vol())",
        "CREATE TABLE plain (id int DEFAULT 3, at timestamptz DEFAULT now())",
        "CREATE TABLE ruled (id int)",
        "CREATE RULE r AS ON INSERT TO ruled DO ALSO DELETE FROM plain",
        "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER tr AFTER INSERT ON d EXECUTE FUNCTION tf()",
    )
    schema = describe(pg)
    keys = {(k.child, k.parent, k.acts) for k in schema.foreign_keys}
    assert keys == {("public.c", "public.p", True), ("public.d", "public.p", False)}
    assert schema.kin == (("public.part", "public.part1"),)
    assert schema.triggering == {"public.def", "public.ruled", "public.d"}
    names = ("vol", "sta", "imm", "abs")
    assert [schema.volatile_function(n) for n in names] == [True, True, False, None]
    writing = schema.writing_functions()
    assert {"vol", "tf", "query_to_xml", "setval"} <= writing
    assert not {"sta", "imm", "random", "clock_timestamp", "abs"} & writing


def test_postgres_identity_holds_what_changes_answers(pg: Connection) -> None:
    first = identity(pg)
    assert first == identity(pg)
    assert first.database.count(".") == 1
    run(pg, "SET LOCAL TimeZone = 'Asia/Tokyo'")
    second = identity(pg)
    assert second.database == first.database
    assert second.session != first.session


def test_postgres_identity_without_the_right_to_read_the_control_file(pg: Connection) -> None:
    run(
        pg,
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
        "CREATE ROLE limited",
        "SET LOCAL ROLE limited",
    )
    assert identity(pg).database.startswith("postgresql:127.0.0.1:")
    assert version(pg) == ()


def test_an_unknown_database_is_refused() -> None:
    from everfresh.connect.describe import describe_with

    with pytest.raises(ConfigurationError, match="postgresql"):
        describe_with("oracle", lambda statement: [])
