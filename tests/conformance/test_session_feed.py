"""The session feed as a `ChangeFeed`, on each driver it is used with."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from everfresh.changes.session import SessionFeed
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from everfresh.kernel.ports import Mark
from protocol.recorder import Recorder, watched


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    engine = create_engine(request.getfixturevalue(name))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS t")
        connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    yield engine
    engine.dispose()


def insert(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (:n, 'a')"), {"n": number})


def test_marks_include_what_ended_before_them(engine: Engine) -> None:
    with watched(engine) as (recorder, feed):
        before = feed.mark()
        insert(engine, 1)
        between = feed.mark()
        insert(engine, 2)
        first, second = recorder.committed
        assert isinstance(between, Mark)
        assert (before.feed, feed.name) == ("session", "session")
        assert [before.includes(c) for c in (first, second)] == [False, False]
        assert [between.includes(c) for c in (first, second)] == [True, False]
        assert before.position < between.position < feed.mark().position


def test_what_is_in_flux_is_in_no_mark(engine: Engine) -> None:
    with watched(engine) as (recorder, feed):
        seen: list[bool] = []

        def look() -> None:
            changes = [c for begun in recorder.flux.values() for c in begun]
            seen.extend(feed.mark().includes(change) for change in changes)

        recorder.on_begin = look
        insert(engine, 1)
        insert(engine, 2)
        assert seen == [False, False]


def test_every_listener_hears(engine: Engine) -> None:
    other = Recorder()
    with watched(engine) as (recorder, feed):
        feed.subscribe(other)
        insert(engine, 1)
        assert recorder.committed == other.committed != []


def test_a_closed_feed_is_silent(engine: Engine) -> None:
    with watched(engine) as (recorder, _):
        pass
    insert(engine, 1)
    assert recorder.ends == []


def test_what_was_wrapped_by_others_stays(engine: Engine) -> None:
    """Where somebody wrapped our functions, closing leaves theirs in place."""
    with watched(engine) as (recorder, _):
        ours = engine.dialect.do_commit
        calls: list[object] = []

        def theirs(connection: Any) -> None:
            calls.append(connection)
            ours(connection)

        engine.dialect.do_commit = theirs  # type: ignore[method-assign]
        insert(engine, 1)
    insert(engine, 2)
    assert len(calls) == 2
    assert len(recorder.ends) == 1


def test_a_connection_used_by_several_threads_in_turn(engine: Engine) -> None:
    with watched(engine) as (recorder, _):
        for number in range(3):
            thread = threading.Thread(target=insert, args=(engine, number))
            thread.start()
            thread.join()
        assert recorder.ends == [True] * 3


def test_connections_are_forgotten(engine: Engine) -> None:
    """What is known of a connection goes with it."""
    bare = create_engine(engine.url, poolclass=NullPool)
    with watched(bare) as (recorder, feed):
        for number in range(5):
            insert(bare, number)
        assert len(feed._connections._by_id) == 0
        assert len(recorder.ends) == 5
    bare.dispose()


def test_statements_are_remembered_within_bounds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(engine) as (recorder, feed):
        feed._statements._size = 10
        with engine.begin() as connection:
            for number in range(50):
                connection.exec_driver_sql(f"SELECT {number}")
        insert(engine, 1)
        assert len(feed._statements._known) <= 10
        assert feed._statements.idle <= feed._statements._known.keys()
        assert recorder.ends == [True]


def test_other_databases_are_refused() -> None:
    engine = create_engine("sqlite://")
    engine.dialect.name = "oracle"
    with pytest.raises(ConfigurationError, match="use SQLite or PostgreSQL"):
        SessionFeed(engine)
    engine.dispose()


def test_errors_pass_unchanged(engine: Engine) -> None:
    with watched(engine) as (recorder, _):
        with pytest.raises(Exception, match="nowhere"), engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")
        assert True not in recorder.ends
        assert recorder.flux == {}


def test_a_static_pool() -> None:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    with watched(engine) as (recorder, _):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (a)")
        recorder.clear()
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        assert recorder.committed == [Change("main.t", new={"a": 1}, position=2)]
    engine.dispose()


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+psycopg"])
def test_an_async_engine(request: pytest.FixtureRequest, driver: str) -> None:
    """An AsyncEngine is watched as its sync_engine, commits, autocommits and rollbacks."""
    name = "sqlite_url" if "sqlite" in driver else "postgres_url"
    url = str(request.getfixturevalue(name)).partition("://")[2]
    engine = create_async_engine(f"{driver}://{url}")

    async def story() -> Recorder:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DROP TABLE IF EXISTS t")
            await connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        with watched(engine) as (recorder, _):  # type: ignore[arg-type]
            async with AsyncSession(engine) as session:
                await session.execute(text("INSERT INTO t VALUES (1, 'a')"))
                await session.commit()
                await session.execute(text("INSERT INTO t VALUES (2, 'a')"))
                await session.rollback()
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text("DELETE FROM t"))
        with watched(engine) as (second, _):  # type: ignore[arg-type]
            async with engine.begin() as connection:
                await connection.execute(text("INSERT INTO t VALUES (5, 'a')"))
            if "sqlite" in driver:  # the first feed's triggers are gone
                assert second.rows == [("main.t", None, (5, "a"))]
        await engine.dispose()
        return recorder

    recorder = asyncio.run(story())
    assert {change.table for change in recorder.committed} <= {"main.t", "public.t"}
    if "sqlite" in driver:
        assert recorder.rows == [("main.t", None, (1, "a")), ("main.t", (1, "a"), None)]
    assert recorder.ends == [True, True]
    assert recorder.flux == {}


def test_an_async_commit_that_is_cancelled_is_unknown(postgres_url: str) -> None:
    """A task cancelled during COMMIT leaves flux until the backend is gone."""
    engine = create_async_engine(postgres_url)

    async def story() -> Recorder:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DROP TABLE IF EXISTS t")
            await connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        with watched(engine) as (recorder, _):  # type: ignore[arg-type]
            connection = await engine.connect()
            await connection.execute(text("INSERT INTO t VALUES (1, 'a')"))
            raw: Any = (await connection.get_raw_connection()).driver_connection
            commit = raw.commit

            async def slow() -> None:
                await commit()
                raise asyncio.CancelledError

            raw.commit = slow
            with pytest.raises(asyncio.CancelledError):
                await connection.commit()
            assert recorder.in_flux == {None}  # its driver was handed out
            await connection.invalidate()
            await connection.close()
            await raw.close()
            assert await asyncio.to_thread(recorder.settled.wait, 10)
        await engine.dispose()
        return recorder

    recorder = asyncio.run(story())
    assert recorder.ends == [True]
    assert recorder.flux == {}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3.connect(autocommit=) is of 3.12")
@pytest.mark.parametrize("autocommit", [True, False])
def test_the_autocommit_modes_of_sqlite3(sqlite_url: str, autocommit: bool) -> None:
    engine = create_engine(sqlite_url)

    @event.listens_for(engine, "connect")
    def _connect(raw: Any, record: object) -> None:
        raw.autocommit = autocommit

    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with watched(engine) as (recorder, _):
        for number in range(3):
            insert(engine, number)
        with engine.connect() as connection:
            connection.execute(text("INSERT INTO t VALUES (9, 'a')"))
            connection.rollback()  # does nothing with autocommit=True
        other = sqlite3.connect(str(engine.url.database))
        kept = [row[0] for row in other.execute("SELECT id FROM t ORDER BY id")]
        other.close()
        assert kept == ([0, 1, 2, 9] if autocommit else [0, 1, 2])
        told = [change.new and change.new["id"] for change in recorder.committed]
        # autocommit=False always has a transaction open: its first write counts by tables
        assert told == ([0, 1, 2, 9] if autocommit else [None, 1, 2])
    engine.dispose()
