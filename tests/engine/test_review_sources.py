"""What an answer depends on, and which session it was made by: views, settings, raw connections."""

import pytest
import sqlalchemy as sa

import everfresh

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
