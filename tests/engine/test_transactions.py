"""Reads inside a transaction of the caller's, on SQLite and PostgreSQL (PROTOCOL, section 7)."""

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy.orm import Session

import everfresh
from everfresh.errors import ConfigurationError, StatementError

from .conftest import counted, make_flights, write

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"


@pytest.fixture(scope="module")
def postgres_engine(postgres_url):
    engine = sa.create_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def pg(postgres_engine):
    with postgres_engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS flights"))
    make_flights(postgres_engine)
    with everfresh.open(postgres_engine) as cache:
        yield cache


def inside(cache, connection, month=6):
    return cache.using(connection=connection).sql(COUNT, m=month)


def test_read_committed_may_be_answered_from_memory(pg):
    pg.sql(COUNT, m=6)
    with pg.engine.begin() as connection:
        assert inside(pg, connection).receipt.status == "hit"


def test_a_transaction_that_has_written_reads_its_own_writes(pg, cache):
    for one in (pg, cache):
        one.sql(COUNT, m=6)
        with one.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM flights WHERE month = 6"))
            rows = inside(one, connection)
            assert (rows.scalar(), rows.receipt.status) == (0, "bypass")
            assert "has written" in rows.receipt.reason
            assert one.sql(COUNT, m=6).scalar() == 4  # nobody else sees it
            connection.rollback()
        assert one.sql(COUNT, m=6).receipt.status == "hit"


def test_repeatable_read_gets_what_its_snapshot_shows(pg):
    pg.sql(COUNT, m=6)
    with pg.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert inside(pg, connection).receipt.status == "hit"
        write(pg, "DELETE FROM flights WHERE month = 6")
        assert pg.sql(COUNT, m=6).scalar() == 0  # kept, but newer than the snapshot
        rows = inside(pg, connection)
        assert (rows.scalar(), rows.receipt.status) == (4, "bypass")


def test_a_hit_takes_the_snapshot(pg):
    """BEGIN; hit; another commits; UPDATE from the hit: the database must refuse it."""
    pg.sql(COUNT, m=6)
    with pg.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert inside(pg, connection).receipt.status == "hit"
        write(pg, "UPDATE flights SET arr_delay = 1 WHERE id = 5")
        with pytest.raises(sa.exc.OperationalError, match="could not serialize"):
            connection.execute(sa.text("UPDATE flights SET arr_delay = 2 WHERE id = 5"))


def test_an_answer_younger_than_the_snapshot_is_not_given(pg):
    with pg.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(sa.text("SELECT 1"))  # the snapshot is taken here
        write(pg, "DELETE FROM flights WHERE month = 6")
        assert pg.sql(COUNT, m=6).scalar() == 0
        assert inside(pg, connection).scalar() == 4


def test_serializable_always_reads_from_the_database(pg):
    pg.sql(COUNT, m=6)
    with (
        pg.engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection,
        counted(pg.engine) as seen,
    ):
        assert inside(pg, connection).receipt.status == "bypass"
        assert len(seen.selects()) == 1


def test_a_sqlite_transaction_gets_what_its_snapshot_shows(url):
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def no_driver_transactions(raw, record):
        raw.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("BEGIN")
    with everfresh.open(engine) as cache:
        cache.sql(COUNT, m=6)
        with engine.connect() as connection:
            assert inside(cache, connection).receipt.status == "hit"
            write(cache, "DELETE FROM flights WHERE month = 6")
            assert cache.sql(COUNT, m=6).scalar() == 0
            assert inside(cache, connection).scalar() == 4
    engine.dispose()


def test_a_session_is_flushed_as_the_query_would(cache):
    class Base(sa.orm.DeclarativeBase):
        pass

    class Flight(Base):
        __tablename__ = "flights"
        id = sa.Column(sa.Integer, primary_key=True)
        month = sa.Column(sa.Integer)

    cache.sql(COUNT, m=6)
    with Session(cache.engine) as session:
        assert inside(cache, session).receipt.status == "hit"
        session.add(Flight(id=500, month=6))
        assert inside(cache, session).scalar() == 5
        session.rollback()
    assert cache.sql(COUNT, m=6).receipt.status == "hit"


def test_what_a_transaction_reads_is_not_kept(cache):
    with cache.engine.begin() as connection:
        assert inside(cache, connection).receipt.status == "bypass"
    assert cache.stats().entries == 0


def test_connections_of_other_engines_are_refused(cache, url):
    other = sa.create_engine(url)
    with other.connect() as connection, pytest.raises(ConfigurationError, match="another engine"):
        inside(cache, connection)
    other.dispose()
    with pytest.raises(ConfigurationError, match="Connection or Session"):
        inside(cache, object())


def test_an_in_memory_database_never_shares_what_is_uncommitted():
    with everfresh.open("sqlite://") as cache:
        make_flights(cache.engine)
        with cache.engine.connect() as connection:
            connection.execute(sa.text("DELETE FROM flights WHERE month = 6"))
            # the same connection underneath: a read of its own would see, and end, the transaction
            with pytest.raises(StatementError, match=r"cache\.using"):
                cache.sql(COUNT, m=6)
            assert inside(cache, connection).scalar() == 0
            connection.rollback()
        assert cache.sql(COUNT, m=6).scalar() == 4
        assert cache.sql(COUNT, m=6).receipt.status == "hit"


def test_a_memory_database_per_thread_is_refused():
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.SingletonThreadPool)
    with pytest.raises(ConfigurationError, match="StaticPool"):
        everfresh.open(engine)
    engine.dispose()
