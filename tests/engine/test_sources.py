"""What an answer depends on, and which session it was made by: views, settings, raw connections."""

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.errors import StatementError

from .conftest import make_flights, write

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"


@pytest.fixture
def pg(postgres_url):
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA IF EXISTS other CASCADE"))
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    make_flights(engine)
    with everfresh.open(engine) as cache:
        yield cache
    engine.dispose()


# -- views


@pytest.mark.parametrize("database", ["cache", "pg"])
def test_a_function_that_depends_on_a_view_depends_on_what_it_reads(database, request):
    cache = request.getfixturevalue(database)
    write(cache, "CREATE VIEW june AS SELECT * FROM flights WHERE month = 6")
    write(cache, 'CREATE VIEW "Of June" AS SELECT count(*) AS n FROM june')

    @cache.cached(depends_on="Of June")
    def june():
        with cache.engine.connect() as connection:
            return connection.execute(sa.text('SELECT n FROM "Of June"')).scalar()

    assert june() == june() == 4
    write(cache, "DELETE FROM flights WHERE month = 6")
    assert june() == 0


def test_a_view_that_is_not_understood_depends_on_everything(cache):
    write(cache, "CREATE VIEW odd AS SELECT count(*) AS n, random() FROM flights")
    (source,) = cache.reader.whole_tables(["odd"])
    assert source.table is None


def test_invalidating_a_view_drops_what_was_read_from_its_tables(cache):
    write(cache, "CREATE VIEW june AS SELECT * FROM flights WHERE month = 6")
    cache.sql(COUNT, m=6)
    cache.invalidate("june")
    assert cache.sql(COUNT, m=6).receipt.status != "hit"


# -- what is a question


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH 'other.db' AS other",
        "/* all */ VACUUM",
        "REINDEX",
        "ANALYZE",
        "DETACH main",
        "PRAGMA user_version = 7",
        "PRAGMA optimize",
        "PRAGMA main.journal_mode(wal)",
        "WITH x AS (SELECT 1) DELETE FROM flights",
        "INSERT INTO flights (id) VALUES (99)",
    ],
)
def test_what_is_no_question_is_refused(cache, statement):
    with pytest.raises(StatementError, match="only reads"):
        cache.sql(statement)


def test_questions_of_every_kind_reach_the_database(cache, pg):
    assert cache.sql("-- one\n PRAGMA user_version").scalar() == 0
    assert len(cache.sql("PRAGMA table_info(flights)")) == 4
    assert len(cache.sql("EXPLAIN QUERY PLAN SELECT * FROM flights")) == 1
    assert pg.sql("SHOW TimeZone").scalar()
    assert len(pg.sql("(TABLE flights)")) == 48
    assert len(pg.sql("EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM flights")) > 1
    for statement in ("EXPLAIN ANALYZE DELETE FROM flights", "VACUUM", "CHECKPOINT"):
        with pytest.raises(StatementError, match="only reads"):
            pg.sql(statement)
    for one in (cache, pg):
        with pytest.raises(sa.exc.DBAPIError, match="syntax error"):
            one.sql("SELECT FROM WHERE")


# -- sessions of PostgreSQL

ORDERS = "SELECT n FROM orders"


@pytest.fixture
def orders(pg):
    write(pg, "CREATE SCHEMA other")
    for place, n in (("public", 1), ("other", 2)):
        write(pg, f"CREATE TABLE {place}.orders (n INTEGER)")
        write(pg, f"INSERT INTO {place}.orders VALUES ({n})")
    return pg


@pytest.mark.parametrize(
    "setting", ["search_path TO other", "TIME ZONE 'America/New_York'", "DateStyle TO 'German'"]
)
def test_a_transaction_with_settings_of_its_own_is_not_answered_from_memory(orders, setting):
    orders.sql(ORDERS)
    with orders.engine.begin() as connection:
        view = orders.using(connection=connection)
        assert view.sql(ORDERS).receipt.status == "hit"
        connection.execute(sa.text(f"SET LOCAL {setting}"))
        rows = view.sql(ORDERS)
        assert rows.receipt.status == "bypass"
        assert "other settings" in rows.receipt.reason
        assert rows.scalar() == connection.execute(sa.text(ORDERS)).scalar()


def test_what_a_session_with_other_settings_answers_is_not_kept(orders):
    orders.sql(COUNT, m=6)
    with orders.engine.connect() as connection:  # the one connection of the pool
        connection.execute(sa.text("SELECT set_config('search_path', 'other', false)"))
        connection.commit()
    assert orders.sql(ORDERS).scalar() == 2  # what that session says, and for this once
    with orders.engine.connect() as connection:
        connection.execute(sa.text("SET search_path TO DEFAULT"))
        connection.commit()
    assert orders.sql(ORDERS).scalar() == 1
    assert orders.sql(ORDERS).receipt.status == "hit"


def test_row_level_security_is_refused(orders):
    orders.sql(ORDERS)
    write(orders, "CREATE VIEW many AS SELECT * FROM orders")
    write(orders, "ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    for statement in (ORDERS, "SELECT n FROM many"):
        receipt = orders.sql(statement).receipt
        assert receipt.status == "bypass"
        assert "row-level security" in receipt.reason


# -- connections that bypass SQLAlchemy


def test_ddl_on_a_raw_connection_is_heard_when_it_is_given_back(cache):
    write(cache, "CREATE VIEW some AS SELECT * FROM flights WHERE month = 6")
    statement = "SELECT count(*) FROM some"
    assert cache.sql(statement).scalar() == 4
    raw = cache.engine.raw_connection()
    raw.driver_connection.executescript(
        "DROP VIEW some; CREATE VIEW some AS SELECT * FROM flights WHERE month < 3"
    )
    before = cache.feed.schema_version
    raw.close()
    assert cache.feed.schema_version > before
    assert cache.sql(statement).scalar() == 8


def test_a_raw_connection_that_only_reads_voids_nothing(cache):
    cache.sql(COUNT, m=6)
    raw = cache.engine.raw_connection()
    raw.driver_connection.execute("SELECT * FROM flights").fetchall()
    raw.close()
    assert cache.sql(COUNT, m=6).receipt.status == "hit"


@pytest.mark.parametrize("database", ["cache", "pg"])
def test_a_detached_connection_is_heard_and_then_forgotten(database, request):
    cache = request.getfixturevalue(database)
    cache.sql(COUNT, m=6)
    followed = len(cache.feed._connections._by_id)
    for n in range(5):
        connection = cache.engine.connect()
        connection.detach()
        connection.execute(sa.text("DELETE FROM flights WHERE id = :n"), {"n": 5 + 12 * n})
        connection.commit()
        connection.close()
    assert len(cache.feed._connections._by_id) <= followed
    assert cache.sql(COUNT, m=6).scalar() == 0


def test_an_unfinished_cursor_on_a_pooled_connection_keeps_no_old_answer(url):
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    with everfresh.open(engine) as cache:
        write(cache, "DELETE FROM flights WHERE month = 12")
        cache.reader.schema()
        first, second = engine.connect(), engine.connect()
        leaked = first.execute(sa.text("SELECT * FROM flights"))
        leaked.fetchone()  # and no further: its snapshot stays open on the connection
        second.execute(sa.text("DELETE FROM flights WHERE month = 6"))
        second.commit()
        first.close()
        cursor_of_the_snapshot = leaked  # keeps it alive in the pool
        try:
            cache.sql(COUNT, m=6)
            assert cache.sql(COUNT, m=6).scalar() == 0
        finally:
            cursor_of_the_snapshot.close()
            second.close()
    engine.dispose()
