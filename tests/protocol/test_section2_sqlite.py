"""Section 2, commits of this process, on SQLite."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    String,
    create_engine,
    delete,
    event,
    insert,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from everfresh.changes.session import SessionFeed
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from protocol.recorder import Recorder, watched


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True)
    v: Mapped[str | None]


class Related(Base):
    __tablename__ = "u"
    id = Column(Integer, primary_key=True)
    v = Column(String)


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = create_engine(sqlite_url, connect_args={"timeout": 0.05})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def recorder(engine: Engine) -> Iterator[Recorder]:
    with watched(engine) as (recorder, _):
        yield recorder


def a_row(number: int, value: str = "a") -> tuple[str, None, tuple[int, str]]:
    return ("main.t", None, (number, value))


# -- every way to write


def test_unit_of_work(engine: Engine, recorder: Recorder) -> None:
    with Session(engine) as session:
        session.add(Item(id=1, v="a"))
        session.flush()
        assert recorder.committed == []
        session.commit()
        assert recorder.rows == [a_row(1)]
        session.get_one(Item, 1).v = "b"
        session.commit()
    assert recorder.rows[1:] == [("main.t", (1, "a"), (1, "b"))]


def test_bulk_and_returning_and_executemany(engine: Engine, recorder: Recorder) -> None:
    with Session(engine) as session:
        items = session.scalars(
            insert(Item).returning(Item), [{"id": n, "v": "a"} for n in range(1, 4)]
        ).all()
        assert len(items) == 3
        session.execute(update(Item).where(Item.id > 1).values(v="b"))
        session.execute(delete(Item).where(Item.id == 3))
        session.execute(update(Item), [{"id": 1, "v": "c"}, {"id": 2, "v": "d"}])
        session.commit()
    assert recorder.rows == [
        *(a_row(n) for n in range(1, 4)),
        ("main.t", (2, "a"), (2, "b")),
        ("main.t", (3, "a"), (3, "b")),
        ("main.t", (3, "b"), None),
        ("main.t", (1, "a"), (1, "c")),
        ("main.t", (2, "b"), (2, "d")),
    ]
    assert recorder.ends == [True]


def test_core_and_text(engine: Engine, recorder: Recorder) -> None:
    with engine.begin() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
        connection.execute(text("INSERT INTO t VALUES (:id, 'a')"), [{"id": 2}, {"id": 3}])
        connection.exec_driver_sql("INSERT INTO t VALUES (?, ?)", (4, "a"))
        connection.exec_driver_sql("WITH x AS (SELECT 5 AS n) INSERT INTO t SELECT n, 'a' FROM x")
    assert recorder.rows == [a_row(n) for n in range(1, 6)]


def test_rollback_is_silent(engine: Engine, recorder: Recorder) -> None:
    """What was rolled back is not reported with a later commit."""
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
        connection.rollback()
        connection.execute(insert(Item).values(id=2, v="a"))
        connection.commit()
    assert recorder.rows == [a_row(2)]
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=3, v="a"))
    assert recorder.rows == [a_row(2)]  # the pool rolled it back


def test_flux_starts_before_the_driver_commits(engine: Engine, recorder: Recorder) -> None:
    """Flux is raised before the driver's commit, lowered before commit returns."""
    seen: list[int] = []
    other = create_engine(engine.url)

    def look() -> None:
        with other.connect() as connection:
            seen.append(connection.scalar(text("SELECT count(*) FROM t")) or 0)

    recorder.on_begin = look
    with engine.begin() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
        assert recorder.flux == {}
    assert seen == [0]
    assert recorder.flux == {}
    other.dispose()


def test_a_read_only_transaction_says_nothing(engine: Engine, recorder: Recorder) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM t"))
    assert recorder.ends == []


# -- commits SQLAlchemy has no event for


def test_autocommit_is_bracketed(engine: Engine, recorder: Recorder) -> None:
    """Autocommitted statements are bracketed at execution."""
    in_flux: list[set[str | None]] = []
    recorder.on_begin = lambda: in_flux.append(recorder.in_flux)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        assert recorder.rows == [a_row(1)]
        with pytest.raises(Exception, match="UNIQUE"):
            connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
    assert in_flux[0] == {"main.t"}
    assert recorder.flux == {}


def test_autocommitted_executemany_that_fails_half_way(engine: Engine, recorder: Recorder) -> None:
    """Rows that were committed before the error are reported."""
    rows = [{"n": 1}, {"n": 2}, {"n": 1}]
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(IntegrityError),
    ):
        connection.execute(text("INSERT INTO t VALUES (:n, 'a')"), rows)
    assert a_row(1) in recorder.rows
    assert a_row(2) in recorder.rows


def test_autocommitted_returning_commits_when_it_is_read(
    engine: Engine, recorder: Recorder
) -> None:
    """Flux is lowered only on a known outcome: SQLite commits after the last row is fetched."""
    other = create_engine(engine.url)
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    statement = "INSERT INTO t VALUES (1, 'a'), (2, 'a') RETURNING id"
    result = connection.exec_driver_sql(statement)
    with other.connect() as reader:
        assert reader.scalar(text("SELECT count(*) FROM t")) == 0
    assert recorder.in_flux == {"main.t"}
    assert recorder.ends == []
    result.all()
    connection.close()
    assert recorder.flux == {}
    assert recorder.rows == [a_row(1), a_row(2)]
    other.dispose()


def test_a_with_statement_commits_by_itself(engine: Engine, recorder: Recorder) -> None:
    """The driver begins no transaction before WITH … INSERT: SQLite commits it at once."""
    with engine.connect() as connection:
        connection.exec_driver_sql("WITH x AS (SELECT 1 AS n) INSERT INTO t SELECT n, 'a' FROM x")
        assert recorder.rows == [a_row(1)]


@pytest.mark.parametrize("end", ["COMMIT", "END TRANSACTION", "commit /* now */;"])
def test_textual_commit(engine: Engine, recorder: Recorder, end: str) -> None:
    """A textual COMMIT fires no event of SQLAlchemy."""
    flux: list[set[str | None]] = []
    recorder.on_begin = lambda: flux.append(recorder.in_flux)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.execute(insert(Item).values(id=1, v="a"))
        assert recorder.committed == []
        connection.exec_driver_sql(end)
        assert recorder.tables == {"main.t"}
        assert len(flux) == 1
        connection.exec_driver_sql("BEGIN")
        connection.execute(insert(Item).values(id=2, v="a"))
        connection.exec_driver_sql("ROLLBACK")
        connection.commit()
    assert recorder.ends == [True]


def test_releasing_the_outermost_savepoint_commits(engine: Engine, recorder: Recorder) -> None:
    """SQLite's RELEASE of a savepoint outside a transaction is a COMMIT."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SAVEPOINT one")
        connection.execute(insert(Item).values(id=1, v="a"))
        connection.exec_driver_sql("SAVEPOINT two")
        connection.exec_driver_sql("RELEASE two")
        assert True not in recorder.ends
        connection.exec_driver_sql("RELEASE SAVEPOINT one")
        assert recorder.tables == {"main.t"}
        connection.rollback()


def test_ddl_that_the_driver_commits(engine: Engine, recorder: Recorder) -> None:
    """DDL where the driver commits by itself is bracketed, and voids everything."""
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE fresh (a)")
        assert recorder.tables == {None}
        recorder.clear()
        connection.exec_driver_sql("CREATE INDEX i ON fresh (a)")
        assert recorder.tables <= set()
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO fresh VALUES (1)")
    assert recorder.rows == [("main.fresh", None, (1,))]


def test_schema_version_counts_ddl(engine: Engine) -> None:
    with watched(engine) as (_, feed), engine.connect() as connection:
        before = feed.schema_version
        connection.execute(text("SELECT 1"))
        connection.execute(insert(Item).values(id=1))
        assert feed.schema_version == before
        connection.exec_driver_sql("CREATE TEMP TABLE scratch (a)")
        assert feed.schema_version > before
        assert feed.temporary_names == {"scratch"}


def test_raw_connections_are_noticed_at_check_in(engine: Engine, recorder: Recorder) -> None:
    """A commit by the driver itself is seen when the connection returns to the pool."""
    raw = engine.raw_connection()
    raw.cursor().execute("INSERT INTO t VALUES (1, 'a')")
    raw.commit()
    raw.close()
    assert recorder.tables == {None}
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=2))
        driver: Any = connection.connection.dbapi_connection
        driver.execute("INSERT INTO u VALUES (1, 'a')")
        recorder.clear()
        connection.commit()
    assert recorder.tables == {None}


def test_a_commit_by_the_driver_of_what_was_watched(engine: Engine, recorder: Recorder) -> None:
    """Writes whose transaction ended without us are not taken for rolled back."""
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
        connection.connection.commit()
    assert recorder.rows == [a_row(1)]
    recorder.clear()
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=2, v="a"))
        connection.connection.commit()
        connection.execute(insert(Item).values(id=3, v="a"))
        assert recorder.rows == [a_row(2)]
        connection.rollback()
    assert recorder.rows == [a_row(2)]


def test_a_raw_read_says_nothing(engine: Engine, recorder: Recorder) -> None:
    raw = engine.raw_connection()
    raw.cursor().execute("SELECT * FROM t").fetchall()
    raw.close()
    assert recorder.ends == []


# -- outcomes


def test_busy_commit_is_still_open(engine: Engine, recorder: Recorder) -> None:
    """A SQLite COMMIT that reports BUSY is still open: nothing is void, nothing is forgotten."""
    reader = sqlite3.connect(str(engine.url.database), isolation_level=None)
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()  # a shared lock: COMMIT cannot write
        driver: Any = connection.connection
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            engine.dialect.do_commit(driver)
        assert recorder.ends == [False]
        assert recorder.flux == {}
        reader.execute("ROLLBACK")
        engine.dialect.do_commit(driver)
        assert recorder.rows == [a_row(1)]
        connection.rollback()
    reader.close()
    assert recorder.ends == [False, True]


def test_busy_commit_that_is_rolled_back(engine: Engine, recorder: Recorder) -> None:
    reader = sqlite3.connect(str(engine.url.database), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    with pytest.raises(OperationalError, match="locked"), engine.begin() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
    reader.execute("ROLLBACK")
    reader.close()
    with engine.begin() as connection:
        connection.execute(insert(Item).values(id=2, v="a"))
    assert recorder.rows == [a_row(2)]


def test_two_threads_that_commit(engine: Engine) -> None:
    """Positions grow with the commits; a mark includes what ended before it was taken."""
    count = 40
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=wal")
        connection.exec_driver_sql("PRAGMA busy_timeout=20000")
    busy = create_engine(engine.url, connect_args={"timeout": 20})
    with watched(busy) as (recorder, feed):

        def work(first: int) -> None:
            for number in range(count):
                with busy.begin() as connection:
                    connection.execute(insert(Item).values(id=first + number, v="a"))

        threads = [threading.Thread(target=work, args=(n * 1000,)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(change.position for change in recorder.committed) == list(
            range(1, 2 * count + 1)
        )
        mark = feed.mark()
        assert all(mark.includes(change) for change in recorder.committed)
        assert not mark.includes(Change("main.t", position=2 * count + 1))
    busy.dispose()


# -- connections and engines


def test_an_engine_with_options_is_the_same_engine(engine: Engine, recorder: Recorder) -> None:
    with engine.execution_options(stream_results=False).begin() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
    assert recorder.rows == [a_row(1)]


def test_a_feed_made_on_an_engine_with_options(engine: Engine) -> None:
    with watched(engine.execution_options(echo=False)) as (recorder, _):
        with engine.begin() as connection:
            connection.execute(insert(Item).values(id=1, v="a"))
        assert recorder.rows == [a_row(1)]


def test_what_commits_outside_the_engine_is_foreign(engine: Engine, recorder: Recorder) -> None:
    other = create_engine(engine.url)
    with other.begin() as connection:
        connection.execute(insert(Item).values(id=1))
    other.dispose()
    assert recorder.ends == []


def test_one_feed_at_a_time(engine: Engine, recorder: Recorder) -> None:
    with pytest.raises(ConfigurationError, match="watched by another cache"):
        SessionFeed(engine)


def test_close_restores_the_engine(engine: Engine) -> None:
    def wrapped() -> set[str]:
        return {name for name in vars(engine.dialect) if name.startswith(("do_", "_everfresh"))}

    before = wrapped()
    with watched(engine) as (recorder, feed):
        assert "do_commit" in wrapped() - before
        with engine.begin() as connection:
            connection.execute(insert(Item).values(id=1))
        recorder.clear()
    feed.close()  # a second time does nothing
    assert wrapped() == before
    with engine.begin() as connection:
        connection.execute(insert(Item).values(id=2))
        triggers = connection.exec_driver_sql("SELECT count(*) FROM sqlite_temp_master").scalar()
    assert recorder.ends == []
    assert triggers == 0
    with watched(engine) as (recorder, _):
        with engine.begin() as connection:
            connection.execute(insert(Item).values(id=3, v="a"))
        assert recorder.rows == [a_row(3)]


def test_a_transaction_older_than_the_feed(engine: Engine) -> None:
    """What a connection wrote before it was watched is unknown: everything is void."""
    with engine.connect() as connection:
        connection.execute(insert(Item).values(id=1))
        with watched(engine) as (recorder, feed):
            assert feed.written(connection)
            connection.commit()
            assert recorder.tables == {None}
            connection.execute(insert(Item).values(id=2, v="a"))
            assert feed.written(connection)
            connection.commit()
            assert recorder.rows[1:] == [a_row(2)]
            assert not feed.written(connection)


def test_written_is_told_per_connection(engine: Engine) -> None:
    with (
        watched(engine) as (_, feed),
        engine.connect() as first,
        engine.connect() as second,
    ):
        first.execute(insert(Item).values(id=1))
        assert feed.written(first)
        assert feed.uncommitted(first.connection)
        assert feed.uncommitted(first.connection.dbapi_connection)
        assert not feed.written(second)
        first.rollback()
        assert not feed.written(first)


def test_a_listener_that_comes_during_a_commit_hears_of_it(engine: Engine) -> None:
    late = Recorder()
    with watched(engine) as (recorder, feed):
        recorder.on_begin = lambda: feed.subscribe(late) if not late.ends else None
        with engine.begin() as connection:
            connection.execute(insert(Item).values(id=1, v="a"))
    assert late.rows == [a_row(1)]


def begin_recipe(engine: Engine, how: str) -> None:
    """Let transactions begin explicitly, as SQLAlchemy's documentation says."""

    @event.listens_for(engine, "connect")
    def _connect(raw: Any, record: object) -> None:
        raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(how)


@pytest.mark.parametrize("how", ["BEGIN", "BEGIN IMMEDIATE"])
def test_the_recipe_for_explicit_begin(sqlite_url: str, how: str) -> None:
    """The first write of a connection counts by tables if it has no lock before, later ones not."""
    engine = create_engine(sqlite_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    begin_recipe(engine, how)
    with watched(engine) as (recorder, _):
        for number in (1, 2):
            with engine.begin() as connection:
                connection.execute(insert(Item).values(id=number, v="a"))
                with connection.begin_nested() as savepoint:
                    connection.execute(insert(Item).values(id=number + 10, v="a"))
                    savepoint.rollback()
    engine.dispose()
    first = ("main.t", None, None) if how == "BEGIN" else a_row(1)
    assert recorder.rows == [first, a_row(2)]


def test_the_first_write_is_not_made_to_fail(sqlite_url: str) -> None:
    """We read nothing in a transaction before its first write, or that could not wait for a lock.

    A deferred transaction that has read fails with BUSY at once when another one has committed.
    """
    engine = create_engine(sqlite_url, connect_args={"timeout": 10})
    Base.metadata.create_all(engine)
    engine.dispose()
    begin_recipe(engine, "BEGIN")
    path = str(engine.url.database)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode=wal")
    with watched(engine) as (recorder, _):
        for number in (1, 2, 3):
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO u VALUES (?, 'x')", (number,))
            commit = threading.Timer(0.1, other.execute, ["COMMIT"])
            with engine.begin() as connection:
                commit.start()
                connection.execute(insert(Item).values(id=number, v="a"))  # waits for the lock
            commit.join()
    assert recorder.rows == [("main.t", None, None), a_row(2), a_row(3)]
    other.close()
    engine.dispose()


def test_memory_database() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with watched(engine) as (recorder, _), engine.begin() as connection:
        connection.execute(insert(Item).values(id=1, v="a"))
    assert recorder.rows == [a_row(1)]
    engine.dispose()
