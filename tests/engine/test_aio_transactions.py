"""Reads inside asyncio transactions, and writes through asyncio drivers (PROTOCOL, 2 and 7)."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import everfresh
from everfresh.errors import ConfigurationError

from .aio import run
from .conftest import counted, make_flights

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"
ASYNC_POSTGRES = ("postgresql+psycopg_async", "postgresql+asyncpg")


@pytest.fixture(params=ASYNC_POSTGRES)
def postgres_flights(request, postgres_url):
    """The URL of a PostgreSQL database of flights, for each asyncio driver."""
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS flights"))
    make_flights(engine)
    engine.dispose()
    return postgres_url.replace("postgresql+psycopg", request.param, 1)


@pytest.fixture(params=["sqlite+aiosqlite", *ASYNC_POSTGRES])
def database(request):
    if request.param.startswith("sqlite"):
        return request.getfixturevalue("url").replace("sqlite", request.param, 1)
    engine = sa.create_engine(request.getfixturevalue("postgres_url"))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS flights"))
    make_flights(engine)
    engine.dispose()
    return request.getfixturevalue("postgres_url").replace("postgresql+psycopg", request.param, 1)


def story(database, tell):
    """Run a story with an engine of the user's and a cache of it."""

    async def main():
        engine = create_async_engine(database)
        try:
            async with everfresh.open_async(engine) as cache:
                await tell(engine, cache)
            assert engine.pool.checkedout() == 0
        finally:
            await engine.dispose()

    run(main())


def inside(cache, connection, month=6):
    return cache.using(connection=connection).sql(COUNT, m=month)


# -- reads


def test_a_transaction_may_be_answered_from_memory(database):
    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        async with engine.connect() as connection:
            assert (await inside(cache, connection)).receipt.status == "hit"
            missed = await inside(cache, connection, 5)
            assert (missed.scalar(), missed.receipt.status) == (4, "bypass")
        async with AsyncSession(engine) as session:
            assert (await inside(cache, session)).receipt.status == "hit"
        assert len(cache.entries()) == 1

    story(database, tell)


def test_a_transaction_that_has_written_reads_its_own_writes(database):
    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        async with engine.connect() as connection:
            await connection.execute(sa.text("DELETE FROM flights WHERE month = 6"))
            rows = await inside(cache, connection)
            assert (rows.scalar(), rows.receipt.status) == (0, "bypass")
            assert "has written" in rows.receipt.reason
            assert (await cache.sql(COUNT, m=6)).scalar() == 4  # nobody else sees it
            await connection.rollback()
        assert (await cache.sql(COUNT, m=6)).receipt.status == "hit"

    story(database, tell)


def test_repeatable_read_gets_what_its_snapshot_shows(postgres_flights):
    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
        async with repeatable.connect() as connection:
            assert (await inside(cache, connection)).receipt.status == "hit"
            async with engine.begin() as other:
                await other.execute(sa.text("DELETE FROM flights WHERE month = 6"))
            assert (await cache.sql(COUNT, m=6)).scalar() == 0  # kept, but newer than the snapshot
            rows = await inside(cache, connection)
            assert (rows.scalar(), rows.receipt.status) == (4, "bypass")

    story(postgres_flights, tell)


def test_a_hit_takes_the_snapshot(postgres_flights):
    """BEGIN; hit; another commits; UPDATE from the hit: the database must refuse it."""

    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
        async with repeatable.connect() as connection:
            assert (await inside(cache, connection)).receipt.status == "hit"
            async with engine.begin() as other:
                await other.execute(sa.text("UPDATE flights SET arr_delay = 1 WHERE id = 5"))
            with pytest.raises(sa.exc.DBAPIError, match="could not serialize"):
                await connection.execute(sa.text("UPDATE flights SET arr_delay = 2 WHERE id = 5"))

    story(postgres_flights, tell)


@pytest.mark.parametrize("level", ["SERIALIZABLE", "AUTOCOMMIT"])
def test_levels_that_always_read_from_the_database(postgres_flights, level):
    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        async with engine.execution_options(isolation_level=level).connect() as connection:
            with counted(engine.sync_engine) as seen:
                assert (await inside(cache, connection)).receipt.status == "bypass"
            assert len(seen.selects()) == 1

    story(postgres_flights, tell)


def test_a_session_is_flushed_as_the_query_would(database):
    class Base(sa.orm.DeclarativeBase):
        pass

    class Flight(Base):
        __tablename__ = "flights"
        id = sa.Column(sa.Integer, primary_key=True)
        month = sa.Column(sa.Integer)

    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        async with AsyncSession(engine) as session:
            session.add(Flight(id=500, month=6))
            assert (await inside(cache, session)).scalar() == 5
            await session.rollback()
        assert (await cache.sql(COUNT, m=6)).receipt.status == "hit"
        async with AsyncSession(engine) as session, session.begin():
            session.add(Flight(id=500, month=6))
        assert (await cache.sql(COUNT, m=6)).scalar() == 5

    story(database, tell)


def test_connections_that_cannot_be_used_are_refused(database):
    async def tell(engine, cache):
        with pytest.raises(ConfigurationError, match="not started"):
            cache.using(connection=engine.connect())
        with pytest.raises(ConfigurationError, match="Connection or Session"):
            await inside(cache, object())
        other = create_async_engine(database)
        async with other.connect() as connection:
            with pytest.raises(ConfigurationError, match="another engine"):
                await inside(cache, connection)
        await other.dispose()

    story(database, tell)


def test_a_blocking_connection_is_read_in_a_thread(url):
    async def main():
        async with everfresh.open_async(url) as cache:
            await cache.sql(COUNT, m=6)
            with cache.engine.connect() as connection:
                assert (await inside(cache, connection)).receipt.status == "hit"
                connection.execute(sa.text("DELETE FROM flights WHERE month = 6"))
                assert (await inside(cache, connection)).scalar() == 0
            assert (await cache.sql(COUNT, m=6)).scalar() == 4

    run(main())


# -- writes


INSERT = "INSERT INTO flights (id, month) VALUES (:id, 6)"


async def at_once(connection):
    await connection.execute(sa.text(INSERT), {"id": 100})
    return 1


async def many(connection):
    await connection.execute(sa.text(INSERT), [{"id": n} for n in range(100, 105)])
    return 5


async def returning(connection):
    result = await connection.execute(sa.text(INSERT + " RETURNING id"), {"id": 100})
    assert result.scalar() == 100
    return 1


async def savepoint(connection):
    await connection.execute(sa.text(INSERT), {"id": 100})
    async with connection.begin_nested() as inner:
        await connection.execute(sa.text(INSERT), {"id": 101})
        await inner.rollback()
    return 1


async def streamed(connection):
    async with connection.stream(sa.text("SELECT id FROM flights ORDER BY id")) as result:
        ids = [row.id async for row in result]
    await connection.execute(sa.text(INSERT), {"id": ids[-1] + 1})
    return 1


async def renamed(connection):
    await connection.execute(sa.text("ALTER TABLE flights RENAME TO old"))
    await connection.execute(sa.text("CREATE TABLE flights (id INTEGER, month INTEGER)"))
    await connection.execute(sa.text("INSERT INTO flights SELECT id, month FROM old WHERE id = 5"))
    await connection.execute(sa.text("DROP TABLE old"))
    return -3


async def widened(connection):
    """Prepared statements of other connections are void after this."""
    await connection.execute(sa.text("ALTER TABLE flights ADD COLUMN note VARCHAR(9)"))
    await connection.execute(sa.text(INSERT), {"id": 100})
    return 1


DDL = [renamed, widened]
WRITES = [at_once, many, returning, savepoint, streamed, *DDL]


@pytest.mark.parametrize("write", WRITES)
def test_every_way_of_writing_is_heard(database, write):
    async def tell(engine, cache):
        star = "SELECT * FROM flights WHERE month = 6"
        assert (await cache.sql(COUNT, m=6)).scalar() == len(await cache.sql(star)) == 4
        if "sqlite" not in database or write not in DDL:  # which its driver commits by itself
            async with engine.connect() as connection:
                await write(connection)
                await connection.rollback()
            assert (await cache.sql(COUNT, m=6)).scalar() == len(await cache.sql(star)) == 4
        async with engine.begin() as connection:
            more = await write(connection)
        assert (await cache.sql(COUNT, m=6)).scalar() == len(await cache.sql(star)) == 4 + more
        assert (await cache.audit()).stale == 0

    story(database, tell)


def test_a_write_in_autocommit_mode_is_heard(database):
    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await at_once(connection)
            assert (await cache.sql(COUNT, m=6)).scalar() == 5
            with pytest.raises(sa.exc.IntegrityError):
                await at_once(connection)
        assert (await cache.sql(COUNT, m=6)).scalar() == 5

    story(database, tell)


def test_a_failed_transaction_changes_nothing(database):
    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)

        async def twice():
            async with engine.begin() as connection:
                await at_once(connection)
                await at_once(connection)

        with pytest.raises(sa.exc.IntegrityError):
            await twice()
        assert (await cache.sql(COUNT, m=6)).receipt.status == "hit"

    story(database, tell)


def test_a_commit_that_is_cancelled_is_not_missed(database):
    """Nobody knows how it ended: nothing kept may say so."""

    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        begun = asyncio.Event()

        class Spy:
            def begin(self, changes):
                begun.set()

            def end(self, token, *, committed, changes=None):
                pass

            def lost(self, reason):
                pass

        cache.blocking.feed.subscribe(Spy())

        async def write():
            async with engine.connect() as connection:
                await at_once(connection)
                await connection.commit()

        writing = asyncio.create_task(write())
        await begun.wait()
        writing.cancel()
        await asyncio.wait([writing])
        async with engine.connect() as connection:
            truth = (await connection.execute(sa.text(COUNT), {"m": 6})).scalar()
        assert (await cache.sql(COUNT, m=6)).scalar() == truth
        await at_rest(cache)
        assert (await cache.audit()).stale == 0

    story(database, tell)


async def at_rest(cache):
    """Wait until an answer is kept again: the outcome of the commit is known."""
    while (await cache.sql(COUNT, m=6)).receipt.status == "bypass":
        await asyncio.sleep(0)


def test_what_is_given_to_the_driver_itself_is_heard(postgres_flights):
    """COPY is no statement of SQLAlchemy's: the driver's own connection was handed out for it."""

    async def tell(engine, cache):
        await cache.sql(COUNT, m=6)
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
            driver = (await connection.get_raw_connection()).driver_connection
            if "asyncpg" in postgres_flights:
                await driver.copy_records_to_table(
                    "flights", records=[(100, 6)], columns=["id", "month"]
                )
            else:
                cursor = driver.cursor()
                async with cursor.copy("COPY flights (id, month) FROM STDIN") as copy:
                    await copy.write_row((100, 6))
                await cursor.close()
            assert (await inside(cache, connection)).scalar() == 5
            assert (await cache.sql(COUNT, m=6)).scalar() == 4
            await connection.commit()
        assert (await cache.sql(COUNT, m=6)).scalar() == 5
        async with engine.connect() as connection:  # and the next transaction is as any other
            assert (await inside(cache, connection)).receipt.status == "hit"

    story(postgres_flights, tell)
