"""Section 4, commits of others on a SQLite file: noticed, and told from our own."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from everfresh.changes.session import SessionFeed
from everfresh.changes.sqlite_tracking import install, prune, remove
from everfresh.kernel.change import Change
from everfresh.kernel.mark import HistoryMark
from protocol.recorder import Recorder, watched

Heard = tuple[Recorder, SessionFeed]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


@pytest.fixture(params=["wal", "delete"])
def other(file: Path, request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    """Return a connection that everfresh knows nothing of, as another process would have."""
    connection = sqlite3.connect(file, isolation_level=None, timeout=0.2, check_same_thread=False)
    connection.execute(f"PRAGMA journal_mode = {request.param}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    connection.execute("CREATE TABLE u (id INTEGER PRIMARY KEY, v)")
    connection.execute("INSERT INTO t VALUES (1, 'a')")
    yield connection
    connection.close()


@pytest.fixture
def engine(file: Path, other: sqlite3.Connection) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def heard(engine: Engine) -> Iterator[Heard]:
    with watched(engine) as (recorder, feed):
        assert feed.poll()
        assert (recorder.committed, recorder.losses) == ([], [])
        yield recorder, feed


@pytest.fixture
def tracked(engine: Engine, other: sqlite3.Connection) -> Iterator[Heard]:
    install(other, ["t"])
    with watched(engine) as (recorder, feed):
        assert feed.mode == "tracked"
        yield recorder, feed


def write(engine: Engine, statement: str, level: str | None = None) -> None:
    with engine.connect() as connection:
        if level is not None:
            connection = connection.execution_options(isolation_level=level)
        connection.exec_driver_sql(statement)
        connection.commit()


def told(recorder: Recorder) -> list[Any]:
    """Return what was heard since last time: rows, tables, or the reason of a loss."""
    found: list[Any] = [*recorder.losses, *recorder.rows]
    recorder.losses.clear()
    recorder.clear()
    return found


ALL = [(None, None, None)]


# -- without tracking


def test_a_foreign_commit_makes_everything_stale(heard: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    before, version = feed.mark(), feed.schema_version
    other.execute("INSERT INTO t VALUES (2, 'b')")
    assert feed.poll()
    assert told(recorder) == ["another connection or process committed to the database"]
    assert feed.mark().position > before.position
    assert feed.schema_version == version  # plans hold
    assert feed.poll()
    assert told(recorder) == []
    assert feed.mode == "watched"


def test_a_commit_of_another_process(heard: Heard, file: Path) -> None:
    recorder, feed = heard
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM t'); c.commit()"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert feed.poll()
    assert len(told(recorder)) == 1


def test_a_rollback_is_nothing(heard: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    other.execute("BEGIN")
    other.execute("DELETE FROM t")
    other.execute("ROLLBACK")
    assert feed.poll()
    assert told(recorder) == []


@pytest.mark.parametrize("level", [None, "AUTOCOMMIT"])
def test_own_commits_are_exact(heard: Heard, engine: Engine, level: str | None) -> None:
    recorder, feed = heard
    for number in range(10, 15):
        write(engine, f"INSERT INTO t VALUES ({number}, 'x')", level)
        assert told(recorder) == [("main.t", None, (number, "x"))]
        assert feed.poll()
        assert told(recorder) == []


def test_own_commits_without_a_poll_between(heard: Heard, engine: Engine) -> None:
    recorder, feed = heard
    for number in range(10, 15):
        write(engine, f"INSERT INTO t VALUES ({number}, 'x')")
        write(engine, f"DELETE FROM t WHERE id = {number}", "AUTOCOMMIT")
    told(recorder)
    assert feed.poll()
    assert told(recorder) == []


def test_an_own_commit_by_returning_and_by_text(heard: Heard, engine: Engine) -> None:
    recorder, feed = heard
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (7, 'x') RETURNING id").all()
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("UPDATE t SET v = 'z'")
        connection.exec_driver_sql("COMMIT")
    assert len(told(recorder)) == 3
    assert feed.poll()
    assert told(recorder) == []


@pytest.mark.parametrize("level", [None, "AUTOCOMMIT"])
def test_foreign_before_own(
    heard: Heard, engine: Engine, other: sqlite3.Connection, level: str | None
) -> None:
    recorder, feed = heard
    other.execute("INSERT INTO t VALUES (2, 'b')")
    write(engine, "INSERT INTO t VALUES (10, 'x')", level)
    told(recorder)
    assert feed.poll()
    assert len(told(recorder)) == 1


@pytest.mark.parametrize("level", [None, "AUTOCOMMIT"])
def test_foreign_right_after_own(
    heard: Heard, engine: Engine, other: sqlite3.Connection, level: str | None
) -> None:
    """Between our commit and the look at the monitor: our own data_version tells."""
    recorder, feed = heard
    assert feed.watch is not None
    bracket, ask = feed.watch.bracket, feed.watch.bracket._ask
    asked: list[int] = []

    def late() -> int:
        asked.append(1)
        if len(asked) == 2:  # before the commit, then after it
            other.execute("INSERT INTO t VALUES (2, 'b')")
        return ask()

    bracket._ask = late
    write(engine, "INSERT INTO t VALUES (10, 'x')", level)
    bracket._ask = ask
    assert len(asked) == 2
    told(recorder)
    assert feed.poll()
    assert len(told(recorder)) == 1


def test_a_foreign_commit_hidden_by_an_open_cursor(
    heard: Heard, engine: Engine, other: sqlite3.Connection
) -> None:
    """A cursor left open keeps a snapshot, and with it the data_version that would tell."""
    recorder, feed = heard
    assert feed.watch is not None
    ask = feed.watch.bracket._ask
    asked: list[int] = []

    def late() -> int:
        asked.append(1)
        if len(asked) == 2:
            try:
                other.execute("INSERT INTO u VALUES (2, 'b')")
            except sqlite3.OperationalError:
                pytest.skip("without WAL the open cursor keeps others from committing")
        return ask()

    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (2, 'x'), (3, 'x')")
        connection.commit()
        assert feed.poll()
        connection.exec_driver_sql("INSERT INTO t VALUES (9, 'x')")
        raw: Any = connection.connection.dbapi_connection
        cursor = raw.execute("SELECT id FROM t")
        cursor.fetchone()
        feed.watch.bracket._ask = late
        connection.commit()
        feed.watch.bracket._ask = ask
        cursor.close()
    told(recorder)
    assert feed.poll()
    assert len(told(recorder)) == 1


def test_own_commit_while_reads_are_open_elsewhere(heard: Heard, engine: Engine) -> None:
    recorder, feed = heard
    with engine.connect() as reader:
        reader.exec_driver_sql("SELECT * FROM t").fetchall()
        write(engine, "INSERT INTO t VALUES (10, 'x')")
    told(recorder)
    assert feed.poll()
    assert told(recorder) == []


def test_busy_is_still_open(heard: Heard, engine: Engine, other: sqlite3.Connection) -> None:
    recorder, _ = heard
    if other.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        pytest.skip("readers do not keep a COMMIT waiting in WAL")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
        connection.exec_driver_sql("INSERT INTO t VALUES (10, 'x')")
        other.execute("BEGIN")
        other.execute("SELECT * FROM t").fetchall()
        with pytest.raises(OperationalError, match="locked"):
            connection.commit()
        other.execute("COMMIT")
        connection.connection.commit()
    write(engine, "INSERT INTO t VALUES (11, 'x')")
    assert 11 in {new[0] for _, _, new in recorder.rows if new}


def test_many_threads_write_at_once(heard: Heard, engine: Engine) -> None:
    """Nobody waits for ever, and what was committed by hand is never taken for ours."""
    recorder, feed = heard
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(thread: int) -> None:
        try:
            for number in range(20):
                level = "AUTOCOMMIT" if thread % 2 else None
                write(engine, f"INSERT INTO u (v) VALUES ({thread * 1000 + number})", level)
        except BaseException as error:
            failures.append(error)

    def watch() -> None:
        while not stop.is_set():
            feed.poll()

    poller = threading.Thread(target=watch)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    poller.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    poller.join(60)
    assert failures == []
    assert not any(thread.is_alive() for thread in [*threads, poller])
    assert {row[1] for row in told_rows(recorder)} == {
        thread * 1000 + number for thread in range(6) for number in range(20)
    }


def told_rows(recorder: Recorder) -> list[tuple[Any, ...]]:
    return [new for _, _, new in recorder.rows if new]


def test_threads_that_take_turns_stay_exact(heard: Heard, engine: Engine) -> None:
    """Writers that hold the lock before they commit are told apart, whoever polls meanwhile."""
    recorder, feed = heard

    def run(thread: int) -> None:
        for number in range(25):
            with engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql(f"INSERT INTO u (v) VALUES ({thread * 1000 + number})")
                connection.commit()
            feed.poll()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert feed.poll()
    assert recorder.losses == []


def test_a_poll_waits_for_a_commit_under_way(heard: Heard, engine: Engine) -> None:
    """Between COMMIT and the look at the monitor a poll would take ours for foreign."""
    recorder, feed = heard
    assert feed.watch is not None
    after = feed.watch.bracket._after
    polls: list[bool] = []

    def slow(ticket: Any) -> None:
        poller = threading.Thread(target=lambda: polls.append(feed.poll()))
        poller.start()
        poller.join()
        after(ticket)

    feed.watch.bracket._after = slow  # type: ignore[method-assign]
    write(engine, "INSERT INTO t VALUES (10, 'x')")
    assert polls == [False]
    assert feed.poll()
    assert told(recorder) == [("main.t", None, (10, "x"))]


def test_no_commit_waits_for_long(heard: Heard, engine: Engine, other: sqlite3.Connection) -> None:
    """Whoever has the write lock must not wait for one who waits for a lock himself."""
    recorder, feed = heard
    assert feed.watch is not None
    with feed.watch.bracket.mutex:
        writer = threading.Thread(
            target=write, args=(engine, "INSERT INTO t VALUES (10, 'x')"), daemon=True
        )
        writer.start()
        writer.join(20)
        assert not writer.is_alive()
    told(recorder)
    assert feed.poll()
    assert len(told(recorder)) == 1  # coarse


def test_two_engines_on_one_file_are_coarse(heard: Heard, engine: Engine) -> None:
    recorder, feed = heard
    second = create_engine(engine.url)
    with watched(second):
        write(second, "INSERT INTO t VALUES (10, 'x')")
    second.dispose()
    assert feed.poll()
    assert len(told(recorder)) == 1


def test_raw_connections_of_the_pool(heard: Heard, engine: Engine) -> None:
    recorder, feed = heard
    raw = engine.raw_connection()
    raw.cursor().execute("INSERT INTO t VALUES (10, 'x')")
    raw.commit()
    raw.close()
    assert feed.poll()
    assert told(recorder) != []


def test_own_schema_changes(heard: Heard, engine: Engine) -> None:
    recorder, feed = heard
    write(engine, "CREATE TABLE fresh (a)")
    told(recorder)
    assert feed.poll()
    write(engine, "INSERT INTO fresh VALUES (1)")
    assert told(recorder)[-1:] == [("main.fresh", None, (1,))]
    assert feed.poll()
    assert told(recorder) == []


def test_foreign_schema_changes_void_plans(heard: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    version = feed.schema_version
    other.execute("ALTER TABLE t ADD COLUMN w")
    assert feed.poll()
    assert told(recorder) == ALL
    assert feed.schema_version > version


# -- with tracking


def test_foreign_rows_and_untracked_tables(tracked: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = tracked
    other.execute("INSERT INTO t VALUES (2, 'b')")
    assert feed.poll()
    assert told(recorder) == [("main.t", None, (2, "b")), ("main.u", None, None)]
    other.execute("DELETE FROM u")
    assert feed.poll()
    assert told(recorder) == [("main.u", None, None)]


def test_own_commits_are_not_told_twice(tracked: Heard, engine: Engine) -> None:
    recorder, feed = tracked
    write(engine, "INSERT INTO t VALUES (2, 'b')")
    write(engine, "INSERT INTO u VALUES (2, 'b')", "AUTOCOMMIT")
    assert told(recorder) == [("main.t", None, (2, "b")), ("main.u", None, (2, "b"))]
    assert feed.poll()
    assert told(recorder) == []


def test_installing_later_is_noticed(heard: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    install(other)
    assert feed.poll()
    assert (told(recorder), feed.mode) == (ALL, "tracked")
    other.execute("UPDATE t SET v = 'n'")
    assert feed.poll()
    assert told(recorder) == [("main.t", (1, "a"), (1, "n"))]
    remove(other)
    assert feed.poll()
    assert (told(recorder), feed.mode) == (ALL, "watched")


def test_a_trigger_dropped_by_hand_makes_its_table_coarse(
    heard: Heard, other: sqlite3.Connection
) -> None:
    recorder, feed = heard
    install(other)
    other.execute("DROP TRIGGER everfresh_1_ai")
    assert feed.poll()
    told(recorder)
    other.execute("INSERT INTO t VALUES (2, 'b')")
    assert feed.poll()
    assert told(recorder) == [("main.t", None, None)]


def test_marks_and_what_came_since(
    tracked: Heard, engine: Engine, other: sqlite3.Connection
) -> None:
    _, feed = tracked
    with engine.connect() as connection:
        before = feed.history_mark(connection.connection)
    assert before is not None
    other.execute("INSERT INTO t VALUES (2, 'b')")
    with engine.connect() as connection:
        after = feed.history_mark(connection.connection)
        connection.exec_driver_sql("INSERT INTO u VALUES (3, 'c')")
        assert feed.history_mark(connection.connection) is None  # its own writes may yet go
    assert after is not None
    assert after.feed == "outbox"
    changes = feed.since(before)
    assert changes is not None
    row, table = changes
    assert (row.new, table) == ({"id": 2, "v": "b"}, Change("main.u"))
    assert (before.includes(row), after.includes(row)) == (False, True)
    assert not after.includes(table)
    assert feed.since(after) == [Change("main.u")]


def test_a_mark_is_of_its_own_snapshot(
    tracked: Heard, engine: Engine, other: sqlite3.Connection
) -> None:
    _, feed = tracked
    if other.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        pytest.skip("a reader keeps writers out")
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT * FROM t").fetchall()
        other.execute("INSERT INTO t VALUES (2, 'b')")
        assert feed.poll()
        mark = feed.history_mark(connection.connection)
        assert mark is not None
        changes = feed.since(mark)
        assert changes is not None
        assert changes[0].new == {"id": 2, "v": "b"}


def test_marks_the_history_does_not_reach(
    tracked: Heard, engine: Engine, other: sqlite3.Connection
) -> None:
    recorder, feed = tracked
    with engine.connect() as connection:
        mark = feed.history_mark(connection.connection)
    assert mark is not None
    assert feed.since(HistoryMark("outbox", "another", 0)) is None
    assert feed.since(HistoryMark("outbox", mark.history, 99)) is None
    for number in range(10, 20):
        other.execute("INSERT INTO t VALUES (?, 'x')", (number,))
    assert feed.poll()
    assert len(feed.since(mark) or ()) == 11
    prune(other, keep_rows=3)
    assert feed.since(mark) is None
    times = dict(other.execute("SELECT seq, at FROM everfresh_change"))
    assert feed.since(HistoryMark("outbox", mark.history, 8, times[8])) is not None
    assert feed.since(HistoryMark("outbox", mark.history, 8, times[8] + 1)) is None
    assert feed.since(HistoryMark("outbox", mark.history, 7, times[8])) is None
    other.execute("ALTER TABLE u ADD COLUMN w")
    assert feed.since(HistoryMark("outbox", mark.history, 8, times[8])) is None
    with engine.connect() as connection:  # made under a schema the watch has not seen
        assert feed.history_mark(connection.connection) is None
    told(recorder)


def test_rows_deleted_by_hand_before_they_were_read(
    tracked: Heard, other: sqlite3.Connection
) -> None:
    recorder, feed = tracked
    for number in range(10, 14):
        other.execute("INSERT INTO t VALUES (?, 'x')", (number,))
    other.execute("DELETE FROM everfresh_change WHERE seq = 2")
    assert feed.poll()
    assert told(recorder) == ["rows are missing from the change table"]
    other.execute("INSERT INTO t VALUES (20, 'x')")
    assert feed.poll()
    assert told(recorder)[0] == ("main.t", None, (20, "x"))


def test_an_older_state_put_back_in_place(
    tracked: Heard, engine: Engine, other: sqlite3.Connection
) -> None:
    recorder, feed = tracked
    other.execute("INSERT INTO t VALUES (2, 'b')")
    assert feed.poll()
    told(recorder)
    # as if the newest row had gone with a copy of the file, and its number was given again
    other.execute("UPDATE everfresh_change SET at = at + 1 WHERE seq = 1")
    other.execute("INSERT INTO t VALUES (3, 'c')")
    assert feed.poll()
    assert told(recorder) == ["rows are missing from the change table"]


def test_a_change_table_dropped_by_hand(
    tracked: Heard, engine: Engine, other: sqlite3.Connection
) -> None:
    recorder, feed = tracked
    with engine.connect() as connection:
        mark = feed.history_mark(connection.connection)
    assert mark is not None
    other.execute("DROP TABLE everfresh_change")
    other.execute("BEGIN IMMEDIATE")
    assert feed.poll()  # somebody has the lock: it is mended later
    other.execute("ROLLBACK")
    assert feed.poll()
    assert None in recorder.tables
    told(recorder)
    # a connection that knew the broken schema keeps it until a statement without triggers
    other.execute("SELECT * FROM t").fetchall()
    other.execute("INSERT INTO t VALUES (2, 'b')")
    assert feed.poll()
    assert told(recorder)[0] == ("main.t", None, (2, "b"))
    assert feed.since(mark) is None


def test_a_history_replaced_at_the_same_schema_version(
    tracked: Heard, other: sqlite3.Connection
) -> None:
    recorder, feed = tracked
    other.execute("UPDATE everfresh_tracking SET value = 'other' WHERE item = 'history'")
    assert feed.poll()
    assert told(recorder) == ALL


# -- the file


def test_a_checkpoint_is_coarse_never_wrong(heard: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    other.execute("INSERT INTO t VALUES (2, 'b')")
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert feed.poll()
    assert told(recorder) != []
    other.execute("INSERT INTO t VALUES (3, 'b')")
    assert feed.poll()
    assert told(recorder) != []


@pytest.mark.parametrize("statement", ["VACUUM", "PRAGMA journal_mode = {other}"])
def test_vacuum_and_journal_modes(
    tracked: Heard, engine: Engine, other: sqlite3.Connection, statement: str
) -> None:
    recorder, feed = tracked
    engine.dispose()
    mode = other.execute("PRAGMA journal_mode").fetchone()[0]
    try:
        other.execute(statement.format(other="delete" if mode == "wal" else "wal"))
    except sqlite3.OperationalError:
        pytest.skip("the monitor's connection keeps WAL on")
    assert feed.poll()
    told(recorder)
    other.execute("INSERT INTO t VALUES (2, 'b')")
    assert feed.poll()
    assert told(recorder)[0] == ("main.t", None, (2, "b"))


def test_a_file_that_was_replaced(heard: Heard, file: Path, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    fresh = file.with_name("fresh.db")
    copy = sqlite3.connect(fresh)
    copy.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    copy.commit()
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    fresh.replace(file)
    assert feed.poll()
    assert told(recorder) == ALL
    copy.close()
    writer = sqlite3.connect(file)
    writer.execute("INSERT INTO t VALUES (5, 'e')")
    writer.commit()
    writer.close()
    assert feed.poll()
    assert len(told(recorder)) == 1


def test_a_locked_file_is_not_confirmed(heard: Heard, other: sqlite3.Connection) -> None:
    recorder, feed = heard
    if other.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        pytest.skip("readers are never locked out in WAL")
    other.execute("BEGIN EXCLUSIVE")
    assert not feed.poll()
    other.execute("COMMIT")
    assert feed.poll()
    assert told(recorder) == []


def test_a_file_that_is_gone_and_comes_back(
    heard: Heard, file: Path, other: sqlite3.Connection
) -> None:
    recorder, feed = heard
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    feed.poll()
    told(recorder)
    away = file.with_name("away")
    file.rename(away)
    assert not feed.poll()
    assert not file.exists()
    away.rename(file)
    assert feed.poll()
    feed.poll()


def test_attached_files_are_not_covered(heard: Heard) -> None:
    _, feed = heard
    assert feed.watch is not None
    assert feed.watch.covers("main.t")
    assert not feed.watch.covers("other.t")


def test_a_closed_feed_confirms_nothing(engine: Engine) -> None:
    with watched(engine) as (_, feed):
        pass
    assert not feed.poll()
    assert feed.mode == "none"


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&cache=shared&uri=true"]
)
def test_databases_in_memory_have_no_watch(url: str) -> None:
    engine = create_engine(url, poolclass=StaticPool)
    with watched(engine) as (_, feed):
        assert (feed.watch, feed.mode, feed.poll()) == (None, "none", True)
    engine.dispose()


def test_a_creator_of_the_users(file: Path, other: sqlite3.Connection) -> None:
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(file))
    with watched(engine) as (recorder, feed):
        other.execute("DELETE FROM t")
        poller = threading.Thread(target=feed.poll)
        poller.start()
        poller.join()
        assert len(told(recorder)) == 1
    engine.dispose()


def test_the_pool_does_not_notice(engine: Engine) -> None:
    connects: list[object] = []
    event.listen(engine, "connect", lambda *_: connects.append(1))
    with watched(engine) as (_, feed):
        feed.poll()
        assert (connects, engine.pool.checkedout()) == ([], 0)  # type: ignore[attr-defined]


def test_an_async_engine(file: Path, other: sqlite3.Connection) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    async def story(recorder: Recorder, feed: SessionFeed) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO t VALUES (2, 'b')"))
        assert told(recorder) == [("main.t", None, (2, "b"))]
        assert feed.poll()
        assert told(recorder) == []
        other.execute("DELETE FROM t")
        assert feed.poll()
        assert len(told(recorder)) == 1
        await engine.dispose()

    with watched(engine) as (recorder, feed):  # type: ignore[arg-type]
        asyncio.run(story(recorder, feed))


# -- what must never be done

LOCKS = """
import os, sqlite3, sys
opened = []
sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
from sqlalchemy import create_engine
from everfresh.changes.session import SessionFeed
from everfresh.changes.sqlite_tracking import install
path = sys.argv[1]
engine = create_engine("sqlite:///" + path)
feed = SessionFeed(engine)
for track in (False, True):
    if track:
        feed.watch.install()
    for number in range(3):
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO u (v) VALUES (1)")
        assert feed.poll()
feed.close()
engine.dispose()
print([name for name in opened if name.startswith(path)])
"""


def test_the_files_are_never_opened_by_ourselves(file: Path, other: sqlite3.Connection) -> None:
    """Closing any descriptor of them would drop this process's POSIX locks (SQLite's own may)."""
    command = [sys.executable, "-c", LOCKS, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FORK = """
import os, sys
from sqlalchemy import create_engine
from everfresh.changes.session import SessionFeed
feed = SessionFeed(create_engine("sqlite:///" + sys.argv[1]))
assert feed.poll()
inherited = feed.watch._monitor.raw
if (child := os.fork()) == 0:
    done = feed.poll() and feed.watch._monitor.raw is not inherited
    inherited.execute("PRAGMA main.data_version")  # left alone, and not closed
    os._exit(0 if done else 1)
print(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_does_not_use_its_parents_connection(
    file: Path, other: sqlite3.Connection
) -> None:
    command = [sys.executable, "-c", FORK, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_our_locks_hold_against_another_process(heard: Heard, engine: Engine, file: Path) -> None:
    """The lost-lock experiment: while we write, polls must not let another writer in."""
    _, feed = heard
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try: c.execute('DELETE FROM t'); c.commit(); print('in')\n"
        "except sqlite3.OperationalError as error: print(error)"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (10, 'x')")
        feed.poll()
        assert feed.watch is not None
        feed.watch._drop()  # as after an error: another connection to the file is closed
        feed.poll()
        command = [sys.executable, "-c", code, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "locked" in done.stdout
        connection.commit()
