"""A disk that is full for the database itself: what is kept stays true, and goes on when there is room."""

import contextlib

import pytest
import sqlalchemy as sa

import everfresh

COUNT = "SELECT count(*) AS n, max(length(text)) AS longest FROM note WHERE topic = :topic"
LONG = "x" * 100_000


@pytest.fixture(params=["watched", "tracked"])
def cache(request, tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'notes.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE note (id INTEGER PRIMARY KEY, topic, text)")
        connection.exec_driver_sql("INSERT INTO note (topic, text) VALUES ('a', 'one')")
    with everfresh.open(engine, freshness="strict") as opened:
        if request.param == "tracked":
            opened.track()
        yield opened
    engine.dispose()


@contextlib.contextmanager
def full(cache):
    """Allow the file not one page more."""

    def limit(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(cache.engine, "connect", limit)
    cache.engine.dispose()
    try:
        yield
    finally:
        sa.event.remove(cache.engine, "connect", limit)
        cache.engine.dispose()


def write(cache, text):
    with cache.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO note (topic, text) VALUES ('a', :text)"), {"text": text}
        )


def test_a_write_that_finds_no_room_changes_nothing_and_outdates_nothing_for_good(cache):
    assert cache.sql(COUNT, topic="a")[0] == (1, 3)
    with full(cache):
        with pytest.raises(sa.exc.OperationalError, match="full"):
            write(cache, LONG)
        assert cache.sql(COUNT, topic="a")[0] == (1, 3)
        assert cache.sql(COUNT, topic="a").receipt.status == "hit"
    write(cache, LONG)
    assert cache.sql(COUNT, topic="a")[0] == (2, 100_000)
    assert cache.audit().stale == 0


def test_what_was_written_before_the_disk_was_full_is_heard(cache):
    assert cache.sql(COUNT, topic="a")[0] == (1, 3)
    with full(cache), cache.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE note SET topic = 'b'")
        with pytest.raises(sa.exc.OperationalError, match="full"):
            connection.execute(sa.text("INSERT INTO note (text) VALUES (:text)"), {"text": LONG})
        if connection.connection.dbapi_connection.in_transaction:
            connection.commit()
            left = 0
        else:
            left = 1  # SQLite rolled the transaction back by itself
    assert cache.sql(COUNT, topic="a")[0].n == left
    assert cache.audit().stale == 0
