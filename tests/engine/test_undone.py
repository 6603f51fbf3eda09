"""Writes after a rollback that took away what was to log them."""

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

import everfresh

SCHEMA = [
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, name)",
    "CREATE TABLE other (v)",
    "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
]
OTHER, RENAME = "INSERT INTO other VALUES (1)", "UPDATE parent SET name = 'x' WHERE id = 1"
DELETE, COUNT = "DELETE FROM parent WHERE id = 1", "SELECT count(*) FROM parent"


@pytest.fixture(params=["file", "tracked file", "memory"])
def cache(request, tmp_path):
    if request.param == "memory":
        engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    else:
        engine = sa.create_engine(f"sqlite:///{tmp_path / 'data.db'}")
    with engine.begin() as connection:
        for statement in SCHEMA:
            connection.exec_driver_sql(statement)
    with everfresh.open(engine, freshness="strict") as opened:
        if request.param == "tracked file":
            opened.track()
        yield opened
    engine.dispose()


def run(connection, *statements):
    for statement in statements:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    "undone", [[OTHER, RENAME], ["BEGIN IMMEDIATE", RENAME], ["BEGIN", OTHER, RENAME]]
)
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
@pytest.mark.parametrize(
    "written", [[DELETE], ["BEGIN", DELETE, "COMMIT"], ["BEGIN IMMEDIATE", DELETE, "COMMIT"]]
)
def test_a_table_whose_triggers_were_rolled_back_is_watched_again(cache, undone, level, written):
    assert cache.sql(COUNT).scalar() == 2
    with cache.engine.connect() as connection:
        run(connection, *undone)
        connection.rollback()
    assert cache.sql(COUNT).scalar() == 2
    with cache.engine.connect().execution_options(isolation_level=level) as connection:
        run(connection, *written)
        connection.commit()
    assert cache.sql(COUNT).scalar() == 1


@pytest.mark.parametrize("last", [["COMMIT"], ["RELEASE a", "COMMIT"]])
def test_a_write_after_a_savepoint_took_its_triggers_away_is_heard(cache, last):
    assert cache.sql(COUNT).scalar() == 2
    with cache.engine.connect() as connection:
        run(connection, "BEGIN IMMEDIATE", "SAVEPOINT a", RENAME, "ROLLBACK TO a", DELETE)
        assert cache.using(connection=connection).sql(COUNT).scalar() == 1
        run(connection, *last)
    assert cache.sql(COUNT).scalar() == 1
