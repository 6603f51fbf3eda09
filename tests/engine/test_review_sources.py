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
