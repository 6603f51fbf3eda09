"""Section 2, commits of this process, on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import psycopg.sql
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from everfresh.changes import outcome
from everfresh.testing.servers import PostgresServer, postgres_server
from protocol.recorder import Recorder, watched

Run = Callable[..., None]


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
        connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        connection.exec_driver_sql("CREATE TABLE u (id int)")
    yield engine
    engine.dispose()


@pytest.fixture
def recorder(engine: Engine) -> Iterator[Recorder]:
    with watched(engine) as (recorder, _):
        yield recorder


def test_a_transaction(engine: Engine, recorder: Recorder) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        connection.execute(text("SELECT count(*) FROM u"))
        assert recorder.ends == []
        connection.commit()
        assert recorder.rows == [("public.t", None, None)]
        connection.execute(text("DELETE FROM u"))
        connection.rollback()
        connection.execute(text("SELECT 1"))
        connection.commit()
    assert recorder.ends == [True]


def test_flux_starts_before_the_driver_commits(engine: Engine, recorder: Recorder) -> None:
    """Flux is raised before the driver's commit, lowered before commit returns."""
    seen: list[int] = []
    other = create_engine(engine.url)

    def look() -> None:
        with other.connect() as connection:
            seen.append(connection.scalar(text("SELECT count(*) FROM t")) or 0)

    recorder.on_begin = look
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
    assert seen == [0]
    assert recorder.flux == {}
    other.dispose()


def test_autocommit_is_bracketed(engine: Engine, recorder: Recorder) -> None:
    """Autocommitted statements are bracketed at execution."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        assert recorder.rows == [("public.t", None, None)]
        recorder.clear()
        with pytest.raises(IntegrityError):
            connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        assert recorder.ends == [False]
        connection.execute(text("SELECT count(*) FROM t"))
        assert recorder.ends == [False]
        connection.execute(text("VACUUM t"))
    assert recorder.flux == {}


def test_autocommitted_executemany_that_fails(engine: Engine, recorder: Recorder) -> None:
    """What an executemany committed before its error is told."""
    rows = [{"n": 1}, {"n": 2}, {"n": 1}]
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(IntegrityError),
    ):
        connection.execute(text("INSERT INTO t VALUES (:n, 'a')"), rows)
    assert recorder.tables == {"public.t"}


def test_textual_transactions(engine: Engine, recorder: Recorder) -> None:
    """A textual COMMIT fires no event of SQLAlchemy."""
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        connection.execute(text("COMMIT"))
        assert recorder.tables == {"public.t"}
        recorder.clear()
        connection.execute(text("INSERT INTO u VALUES (1)"))
        connection.execute(text("ROLLBACK"))
        connection.commit()
        assert recorder.tables == set()
        connection.execute(text("INSERT INTO u VALUES (1)"))
        connection.execute(text("COMMIT AND CHAIN"))
        assert recorder.tables == {"public.u"}
    recorder.clear()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("BEGIN"))
        connection.execute(text("INSERT INTO u VALUES (1)"))
        assert recorder.ends == []
        connection.execute(text("END"))
        assert recorder.tables == {"public.u"}


def test_a_commit_of_an_aborted_transaction_commits_nothing(
    engine: Engine, recorder: Recorder
) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        with pytest.raises(ProgrammingError):
            connection.execute(text("SELECT nonsense"))
        connection.execute(text("COMMIT"))
    assert recorder.tables == set()


def test_several_statements_in_one_text(engine: Engine, recorder: Recorder) -> None:
    flux: list[set[str | None]] = []
    recorder.on_begin = lambda: flux.append(recorder.in_flux)
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 'a'); COMMIT; SELECT 1")
        assert recorder.tables == {None}
        assert recorder.flux == {}
        recorder.clear()
        connection.exec_driver_sql(
            "INSERT INTO t VALUES (2, 'a'); COMMIT; BEGIN; INSERT INTO u VALUES (1)"
        )
        assert recorder.tables == {None}
        recorder.clear()
        connection.commit()
        assert recorder.tables == {None}
    assert len(flux) == 3


def test_a_pool_that_commits_on_return(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flux is raised before the pool's own commit of a raw connection."""
    monkeypatch.setattr("everfresh.changes.wrap.watch", lambda raw, watcher: None)
    seen: list[int | None] = []
    pool = create_engine(engine.url, pool_reset_on_return="commit")

    def look() -> None:
        with engine.connect() as connection:
            seen.append(connection.scalar(text("SELECT count(*) FROM t")))

    with watched(pool) as (recorder, _):
        recorder.on_begin = look
        raw = pool.raw_connection()
        raw.cursor().execute("INSERT INTO t VALUES (1, 'a')")
        raw.close()
        assert seen == [0]
        assert recorder.tables == {None}
        assert recorder.ends == [True]
    pool.dispose()


def test_procedures_that_commit(engine: Engine, recorder: Recorder) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE PROCEDURE p() LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO t VALUES (1, 'a'); COMMIT; END $$"
        )
    recorder.clear()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CALL p()"))
        assert recorder.tables == {None}


def test_a_deferred_constraint_that_fails_at_commit(engine: Engine, recorder: Recorder) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE u ADD FOREIGN KEY (id) REFERENCES t DEFERRABLE INITIALLY DEFERRED"
        )
    recorder.clear()
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("INSERT INTO u VALUES (77)"))
    assert recorder.ends == [False]
    assert recorder.flux == {}


def test_ddl_voids_everything(engine: Engine, recorder: Recorder) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE fresh (a int)")
        assert recorder.ends == []
    assert recorder.tables == {None}
    recorder.clear()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX ON fresh (a)")
        connection.exec_driver_sql("INSERT INTO fresh VALUES (1)")
    assert recorder.tables == {"public.fresh"}


@pytest.mark.parametrize("driver", ["psycopg", "another"])
def test_raw_connections_are_noticed(
    engine: Engine, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit by the driver itself is seen, at the latest at check-in; psycopg's at once."""
    if driver == "another":
        monkeypatch.setattr("everfresh.changes.wrap.watch", lambda raw, watcher: None)
    engine.dispose()
    with watched(engine) as (recorder, _):
        raw = engine.raw_connection()
        raw.cursor().execute("INSERT INTO t VALUES (1, 'a')")
        raw.commit()
        assert recorder.tables == ({"public.t"} if driver == "psycopg" else set())
        raw.close()
        assert recorder.tables == ({"public.t"} if driver == "psycopg" else {None})
        recorder.clear()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        assert recorder.ends == []


def load(connection: Any, rows: int = 2) -> None:
    """COPY through the driver's own cursor."""
    with connection.connection.cursor().copy("COPY t (id) FROM STDIN") as copy:
        for number in range(rows):
            copy.write_row((number,))


def test_copy_through_the_drivers_cursor(engine: Engine, recorder: Recorder) -> None:
    """The driver's own cursors are watched too: COPY is seen at its commit."""
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
        load(connection)
        assert recorder.ends == []
    assert recorder.tables == {"public.t"}
    recorder.clear()
    with engine.connect() as connection:
        load(connection, 0)
        connection.rollback()
    assert recorder.tables == set()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DELETE FROM t"))
        recorder.clear()
        load(connection)
        assert recorder.tables == {"public.t"}
        recorder.clear()
        with pytest.raises(psycopg.Error):
            load(connection)
        assert recorder.ends == [False]
        with connection.connection.cursor().copy("COPY t TO STDOUT") as copy:
            assert len(list(copy)) == 2
        assert recorder.ends == [False]


def test_statements_through_the_drivers_cursor(engine: Engine, recorder: Recorder) -> None:
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.execute(
            psycopg.sql.SQL("INSERT INTO {} VALUES (1)").format(psycopg.sql.Identifier("u"))
        )
        driver.cursor().executemany(b"INSERT INTO t VALUES (%s)", [(1,), (2,)])
        driver.commit()
        assert recorder.tables == {"public.t", "public.u"}
        recorder.clear()
        driver.execute("DELETE FROM u")
        driver.rollback()
        connection.commit()
        assert recorder.tables == set()
        with driver.transaction():  # commits in a way of its own
            driver.execute("DELETE FROM u")
    assert recorder.tables == {"public.u"}


def test_close_gives_the_driver_its_own_cursors_back(engine: Engine) -> None:
    with watched(engine), engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert driver.cursor_factory is psycopg.Cursor
        assert not {"commit", "rollback"} & vars(driver).keys()


def test_a_transaction_older_than_the_feed(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        with watched(engine) as (recorder, feed):
            assert feed.written(connection)
            connection.commit()
            assert recorder.tables == {None}
            assert not feed.written(connection)


def test_written(engine: Engine) -> None:
    with watched(engine) as (_, feed), engine.connect() as connection:
        connection.execute(text("SELECT count(*), now() FROM t"))
        assert not feed.written(connection)
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        assert feed.written(connection)
        connection.rollback()
        assert not feed.written(connection)


def test_savepoints_are_coarse(engine: Engine, recorder: Recorder) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        with connection.begin_nested() as savepoint:
            connection.execute(text("INSERT INTO u VALUES (1)"))
            savepoint.rollback()
    assert recorder.tables == {"public.t", "public.u"}


# -- two phases


def test_prepare_keeps_flux(engine: Engine, recorder: Recorder) -> None:
    """PREPARE keeps flux until COMMIT PREPARED."""
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        transaction.prepare()
        assert recorder.in_flux == {"public.t"}
        assert recorder.ends == []
        transaction.commit()
        assert recorder.flux == {}
        assert recorder.tables == {"public.t"}
        recorder.clear()
        transaction = connection.begin_twophase()
        connection.execute(text("INSERT INTO t VALUES (2, 'a')"))
        transaction.prepare()
        transaction.rollback()
        assert recorder.ends == [False]
        transaction = connection.begin_twophase()
        connection.execute(text("INSERT INTO t VALUES (3, 'a')"))
        transaction.commit()
        assert recorder.tables == {"public.t"}
        recorder.clear()
        transaction = connection.begin_twophase()
        connection.execute(text("INSERT INTO t VALUES (4, 'a')"))
        transaction.rollback()
        assert recorder.tables == set()
        assert recorder.flux == {}


def test_two_phases_that_only_read(engine: Engine, recorder: Recorder) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.rollback()
    for phases in (1, 2):
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            connection.execute(text("SELECT 1"))
            if phases == 2:
                transaction.prepare()
            transaction.commit()
    assert recorder.tables == set()
    assert recorder.flux == {}


def test_textual_two_phases(engine: Engine, recorder: Recorder) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        connection.execute(text("PREPARE TRANSACTION 'it''s'"))
        assert recorder.in_flux == {"public.t"}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT 1"))
        assert recorder.in_flux == {"public.t"}
        connection.execute(text("commit prepared 'it''s'"))
    assert recorder.flux == {}
    assert recorder.tables == {"public.t"}


def test_recovered_two_phase(engine: Engine, recorder: Recorder) -> None:
    """What another process prepared may be anything."""
    other = create_engine(engine.url)
    with other.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        connection.execute(text("PREPARE TRANSACTION 'foreign'"))
    other.dispose()
    with engine.connect() as connection:
        connection.commit_prepared("foreign", recover=True)
    assert recorder.tables == {None}


def test_a_prepared_transaction_finished_elsewhere(engine: Engine, recorder: Recorder) -> None:
    """A COMMIT PREPARED that fails leaves flux until the server does not list it any more."""
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
        connection.execute(text("PREPARE TRANSACTION 'one'"))
    other = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        connection.execute(text("COMMIT PREPARED 'one'"))
    other.dispose()
    assert recorder.in_flux == {"public.t"}
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(DBAPIError),
    ):
        connection.execute(text("COMMIT PREPARED 'one'"))
    assert recorder.settled.wait(10)
    assert recorder.tables == {"public.t"}
    assert recorder.flux == {}


# -- outcomes that are lost


@pytest.fixture(scope="module")
def lonely() -> Iterator[PostgresServer]:
    """A server whose COMMIT waits for a standby that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EVERFRESH_TEST_POSTGRES_URL", raising=False)
        server = postgres_server(settings={"synchronous_standby_names": "missing"})
    with server:
        yield server


@pytest.fixture
def hanging(lonely: PostgresServer) -> Iterator[Engine]:
    engine = create_engine(lonely.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL synchronous_commit = local")
        connection.exec_driver_sql("DROP TABLE IF EXISTS t")
        connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    yield engine
    engine.dispose()


def pid_in_commit(postgres: PostgresServer) -> int:
    """Wait until a backend waits for the standby; return its pid."""
    while True:
        found = postgres.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        if found:
            return int(str(found[0][0]))


@pytest.mark.parametrize("how", ["commit", "text", "autocommit"])
def test_a_backend_terminated_during_commit(
    lonely: PostgresServer, hanging: Engine, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend terminated during COMMIT gives an error, and the value is committed.

    Flux stays until that backend is gone, and the sources are voided.
    """
    asked = threading.Event()
    answer = threading.Event()
    original = outcome.Resolver._answers

    def answers(self: Any, waiting: Any) -> Any:
        asked.set()
        assert answer.wait(30)
        return original(self, waiting)

    monkeypatch.setattr(outcome.Resolver, "_answers", answers)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with hanging.connect() as connection:
                if how == "autocommit":
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
                if how == "text":
                    connection.execute(text("COMMIT"))
                connection.commit()
        except DBAPIError as error:
            errors.append(error)

    with watched(hanging) as (recorder, _):
        thread = threading.Thread(target=work)
        thread.start()
        pid = pid_in_commit(lonely)
        assert recorder.in_flux == {"public.t"}
        lonely.execute(f"SELECT pg_terminate_backend({pid})")
        thread.join()
        assert len(errors) == 1
        assert asked.wait(10)
        assert recorder.in_flux == {"public.t"}  # still: the outcome is not known
        assert recorder.ends == []
        answer.set()
        assert recorder.settled.wait(10)
        assert recorder.flux == {}
        assert recorder.tables == {"public.t"}
        with hanging.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM t")) == 1


def test_an_outcome_waits_for_the_backend(engine: Engine, postgres: PostgresServer) -> None:
    """As long as the backend lives the commit may still happen: flux stays."""
    from everfresh.changes.outcome import Resolver, Unresolved
    from everfresh.changes.publisher import Flux

    settled = threading.Event()
    connection = create_engine(engine.url).connect()
    pid = connection.scalar(text("SELECT pg_backend_pid()"))
    resolver = Resolver(engine, lambda item: settled.set())
    item = Unresolved(Flux(()), pid=pid)
    assert resolver._answers([item]) == []
    resolver.add(item)
    assert not settled.is_set()
    connection.invalidate()
    connection.close()
    postgres.execute(f"SELECT pg_terminate_backend({pid})")
    assert settled.wait(10)
    resolver.close()


def test_a_number_taken_over_by_a_new_backend(engine: Engine, postgres: PostgresServer) -> None:
    """A backend that started after the loss only has the same number."""
    from everfresh.changes.outcome import Resolver, Unresolved
    from everfresh.changes.publisher import Flux

    (clock,) = postgres.execute("SELECT clock_timestamp()::text")[0]
    resolver = Resolver(engine, lambda item: None)
    with engine.connect() as connection:
        connection.invalidate()
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        item = Unresolved(Flux(()), pid=pid, asked=str(clock))
        assert resolver._answers([item]) == [item]


def test_the_resolver_outlives_a_server_that_is_down(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks again, after a pause, on a new connection; and it ends with the feed."""
    from everfresh.changes.outcome import Resolver, Unresolved
    from everfresh.changes.publisher import Flux

    tries: list[int] = []
    original = Resolver._answers

    def answers(self: Any, waiting: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("connection refused")
        return original(self, waiting)

    monkeypatch.setattr(Resolver, "_answers", answers)
    settled = threading.Event()
    resolver = Resolver(engine, lambda item: settled.set())
    resolver.add(Unresolved(Flux(()), gid="never was"))
    assert settled.wait(10)
    assert len(tries) == 3
    monkeypatch.setattr(Resolver, "_answers", lambda *_: [])
    resolver.add(Unresolved(Flux(()), gid="never was"))
    resolver.close()
    assert not [t for t in threading.enumerate() if t.name == "everfresh-outcomes"]
