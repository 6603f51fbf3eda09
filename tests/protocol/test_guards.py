"""Rules that no other test notices the loss of, one test each."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.changes.closure import reach
from everfresh.changes.sqlite_history import read_changes
from everfresh.changes.sqlite_status import examine
from everfresh.changes.sqlite_tracking import install
from everfresh.connect.describe import DatabaseSchema, ForeignKey, identity
from everfresh.engine.proof import Proof, writers_clock
from everfresh.kernel.affinity import ANY
from everfresh.kernel.affinity_sqlite import literal_number
from everfresh.kernel.change import Change
from everfresh.kernel.entry import DROPPED, STALE, Entry, enter_flux
from everfresh.kernel.freshness import bounded
from everfresh.kernel.schema import Column, Table
from everfresh.kernel.sqltext import analyse
from everfresh.settings import SUSPENDED_TOO
from everfresh.stores.sqlite import SqliteStore
from everfresh.stores.sqlite_pool import Shared
from protocol.recorder import watched

ONE = "SELECT v FROM t WHERE id = 1"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file in WAL mode, so that readers and writers do not keep each other waiting."""
    connection = sqlite3.connect(tmp_path / "data.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    connection.execute("INSERT INTO t VALUES (1, 'a')")
    connection.close()
    return f"sqlite:///{tmp_path / 'data.db'}"


@pytest.fixture
def engine(url: str) -> Any:
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


def write(engine: sa.Engine, value: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE t SET v = :v WHERE id = 1"), {"v": value})


# -- commits and marks


def test_flux_starts_before_an_autocommitted_statement(engine: sa.Engine) -> None:
    other = sa.create_engine(engine.url)
    seen: list[str] = []

    def look() -> None:
        with other.connect() as reader:
            seen.append(str(reader.scalar(sa.text(ONE))))

    with watched(engine) as (recorder, _):
        recorder.on_begin = look
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("UPDATE t SET v = 'b'"))
    assert seen == ["a"]
    other.dispose()


def test_a_transaction_that_has_written_has_no_mark(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        install(connection.connection.driver_connection)  # type: ignore[arg-type]
    with watched(engine) as (_, feed), engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert feed.poll()
        assert feed.history_mark(raw) is not None
        connection.execute(sa.text("UPDATE t SET v = 'b'"))
        assert feed.history_mark(raw) is None
        connection.rollback()
        assert feed.history_mark(raw) is not None


def test_what_another_process_prepared_may_be_anything(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    other = sa.create_engine(postgres_url)
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE prepared (id int)"))
    with other.connect() as connection:
        connection.execute(sa.text("INSERT INTO prepared VALUES (1)"))
        connection.execute(sa.text("PREPARE TRANSACTION 'another'"))
    with watched(engine) as (recorder, _), engine.connect() as connection:
        connection.execute(sa.text("COMMIT PREPARED 'another'"))
        assert recorder.tables == {None}
    other.dispose()
    engine.dispose()


def test_truncate_reaches_every_child() -> None:
    """TRUNCATE … CASCADE does not ask what the foreign key does on DELETE."""
    tables = {name: Table(name) for name in ("public.t", "public.u")}
    keys = (ForeignKey("public.u", "public.t", acts=False),)
    schema = DatabaseSchema("postgresql", tables, ("public",), foreign_keys=keys)
    assert reach(schema, ["public.t"]) == {"public.t"}
    assert reach(schema, ["public.t"], truncates=True) == {"public.t", "public.u"}


# -- the change table


def test_a_history_that_went_back_is_not_this_history(engine: sa.Engine, url: str) -> None:
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    install(other)
    other.execute("UPDATE t SET v = 'b'")
    other.execute("UPDATE t SET v = 'c'")
    with watched(engine) as (recorder, feed):
        assert feed.poll()
        recorder.losses.clear()
        other.execute("UPDATE everfresh_change SET seq = seq - 1")
        assert feed.poll()
        assert recorder.losses == ["rows are missing from the change table"]
    other.close()


def test_a_gap_among_rows_that_are_only_counted(url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    install(connection)
    for number in range(50):
        connection.execute("INSERT INTO t (v) VALUES (?)", (number,))
    mapped = examine(lambda text: connection.execute(text).fetchall()).mapped
    told = read_changes(connection.execute, 0, 50, mapped, 1)
    assert told == [Change("main.t", sequence=50)]
    connection.execute("DELETE FROM everfresh_change WHERE seq = 20")
    assert read_changes(connection.execute, 0, 50, mapped, 1) is None
    connection.close()


# -- conditions and entries


class Typed:
    """A schema of one table with a column of text and one of numbers."""

    dialect = "sqlite"

    def table(self, schema: str | None, name: str) -> Table | None:
        columns = (Column("k", "INTEGER"), Column("t", "TEXT"), Column("n", "INTEGER"))
        return Table("main.c", columns=columns) if name == "c" else None

    def volatile_function(self, name: str) -> bool | None:
        return None


def test_columns_in_a_list_lose_their_affinity() -> None:
    """'6.0' is no member of a list that holds 6: compared with a text, 6 is '6'."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE c (k INTEGER, t TEXT, n INTEGER)")
    connection.execute("INSERT INTO c VALUES (1, '6.0', 6)")
    statement = "SELECT k FROM c WHERE t NOT IN (n)"
    assert connection.execute(statement).fetchall() == [(1,)]
    plan = analyse(statement, Typed())
    change = Change("main.c", new={"k": 1, "t": "6.0", "n": 6})
    assert any(source.touched_by(change) for source in plan.bind({}))
    connection.close()


@pytest.mark.parametrize("text", ["1234567890.1234567", "1e23", "0." + "0" * 22 + "1"])
def test_a_number_that_depends_on_rounding_has_no_normal_form(text: str) -> None:
    assert literal_number(text) is ANY


@pytest.mark.parametrize("state", [STALE, DROPPED])
def test_flux_makes_nothing_of_what_is_stale(state: int) -> None:
    entry = Entry("k", 1)
    entry.state = state
    enter_flux(entry)
    assert entry.state == state


def test_a_kept_part_counts_in_the_step_that_gives_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit right after the step: the computation around it is void, and nobody joins it."""
    with everfresh.open(url) as cache:

        @cache.cached
        def outer() -> Any:
            return cache.sql(ONE).scalar()

        cache.sql(ONE)
        reached, go, claim = threading.Event(), threading.Event(), cache.board.claim

        def paused(request: Any, *rest: Any) -> Any:
            given = claim(request, *rest)
            if request.kind == "sql" and not reached.is_set():
                reached.set()
                assert go.wait(10)
            return given

        monkeypatch.setattr(cache.board, "claim", paused)
        with ThreadPoolExecutor(2) as pool:
            early = pool.submit(outer)
            assert reached.wait(10)
            write(cache.engine, "b")
            try:
                assert pool.submit(outer).result(5) == "b"
            finally:
                go.set()
            assert early.result(10) == "a"
        assert outer() == "b"


def test_nobody_joins_a_computation_that_reads_past_the_cache(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a bypass read is heard by nobody: who asks later must not be given it."""
    with everfresh.open(url) as cache:

        @cache.cached
        def outer() -> Any:
            return cache.sql("SELECT v, random() FROM t WHERE id = 1").first()[0]  # type: ignore[index]

        reached, go, run = threading.Event(), threading.Event(), cache.reader.run

        def paused(*given: Any) -> Any:
            rows = run(*given)
            if not reached.is_set():
                reached.set()
                assert go.wait(10)
            return rows

        monkeypatch.setattr(cache.reader, "run", paused)
        with ThreadPoolExecutor(2) as pool:
            early = pool.submit(outer)
            assert reached.wait(10)
            write(cache.engine, "b")
            try:
                assert pool.submit(outer).result(5) == "b"
            finally:
                go.set()
            assert early.result(10) == "a"


def test_what_a_look_proves_begins_with_its_start() -> None:
    """What others commit during a slow look may not be in what it heard."""
    now = [100.0]

    class Watch:
        def wait(self, stop: threading.Event, interval: float, bound: float) -> bool:
            return stop.wait(interval)

    class Feed:
        watch = Watch()

        def poll(self, definitions: float = 0.0) -> bool:
            now[0] += 5
            return True

    proof = Proof(Feed(), lambda: now[0], bounded(7), interval=3600)  # type: ignore[arg-type]
    assert proof.until == 107.0
    assert proof.lag == 5.0
    proof.close()


def test_the_clock_of_hits_goes_on_in_suspend_where_other_machines_may_write(url: str) -> None:
    with everfresh.open(url) as cache:  # whoever writes to this file is suspended with us
        assert cache.proof.clock is time.monotonic
        assert cache.board.clock is SUSPENDED_TOO

    class Elsewhere:
        watch = object()

    assert writers_clock(Elsewhere(), SUSPENDED_TOO) is SUSPENDED_TOO  # type: ignore[arg-type]
    own: Any = lambda: 1.0  # noqa: E731
    with everfresh.open(url, clock=own) as cache:
        assert cache.proof.clock is own


def test_a_hit_after_the_bound_is_no_hit_before_a_look(url: str) -> None:
    """A process that was stopped wakes up hitting: nothing but the clock tells."""
    now = [100.0]
    rule = everfresh.bounded(2.0)
    settings: Any = {"freshness": rule, "poll_interval": 1000.0, "clock": lambda: now[0]}
    with everfresh.open(url, **settings) as cache:
        assert [cache.sql(ONE).scalar(), cache.sql(ONE).receipt.status] == ["a", "hit"]
        write(engine_of(url), "b")
        now[0] += 2.1
        assert cache.sql(ONE).scalar() == "b"


# -- transactions that read


def explicit(engine: sa.Engine) -> None:
    """Let BEGIN be told to SQLite when SQLAlchemy begins."""

    @sa.event.listens_for(engine, "connect")
    def no_driver_transactions(raw: Any, record: object) -> None:
        raw.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def test_the_first_hit_takes_the_snapshot_of_a_transaction_that_was_begun(
    engine: sa.Engine,
) -> None:
    explicit(engine)
    with everfresh.open(engine) as cache:
        cache.sql(ONE)
        with engine.begin() as connection:
            inside = cache.using(connection=connection)
            assert inside.sql(ONE).receipt.status == "hit"
            write(engine, "b")
            assert connection.scalar(sa.text(ONE)) == "a"
            assert inside.sql(ONE).scalar() == "a"


def test_what_was_read_after_the_snapshot_is_not_given_in_it(engine: sa.Engine, url: str) -> None:
    """Another process commits, the answer is read, and only then the change is heard."""
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    install(other)
    explicit(engine)
    settings: Any = {"freshness": everfresh.bounded(1000.0), "poll_interval": 1000.0}
    with everfresh.open(engine, **settings) as cache, engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT v FROM t")) == "a"
        inside = cache.using(connection=connection)
        assert inside.sql(ONE + " OR id = 9").scalar() == "a"  # takes note of the snapshot
        other.execute("UPDATE t SET v = 'b'")
        assert cache.sql(ONE).scalar() == "b"
        assert inside.sql(ONE).scalar() == "a"
    other.close()


def test_a_transaction_older_than_the_cache_reads_from_the_database(engine: sa.Engine) -> None:
    explicit(engine)
    with engine.begin() as connection:
        assert connection.scalar(sa.text(ONE)) == "a"  # its snapshot
        write(engine, "b")
        with everfresh.open(engine) as cache:
            assert cache.sql(ONE).scalar() == "b"
            assert cache.using(connection=connection).sql(ONE).scalar() == "a"


def test_a_connection_in_autocommit_mode_reads_from_the_database(postgres_url: str) -> None:
    """Its transactions are not ours to see: a textual BEGIN may have fixed a snapshot."""
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id int PRIMARY KEY, v text)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 'a')"))
    with everfresh.open(engine) as cache:
        cache.sql(ONE)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("BEGIN ISOLATION LEVEL REPEATABLE READ"))
            assert connection.scalar(sa.text(ONE)) == "a"
            write(engine, "b")
            assert cache.sql(ONE).scalar() == "b"
            assert cache.using(connection=connection).sql(ONE).scalar() == "a"
            connection.execute(sa.text("ROLLBACK"))
    engine.dispose()


def test_a_connection_whose_read_was_interrupted_is_not_used_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everfresh.open(url) as cache:
        cache.sql(ONE)
        cursors: list[Any] = []

        def interrupted(connection: Any, *rest: Any) -> Any:
            cursor = connection.connection.driver_connection.execute("SELECT * FROM t, t AS u")
            cursors.append(cursor)  # it is open still, and so is its snapshot
            cursor.fetchone()
            raise KeyboardInterrupt

        with engine_of(url).begin() as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (2, 'x')"))
        with monkeypatch.context() as patch:
            patch.setattr(cache.reader, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                cache.sql(ONE + " OR id = 3")
        write(cache.engine, "b")
        assert cache.sql(ONE).scalar() == "b"


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.pool.NullPool)


# -- stores


def test_a_row_under_another_key_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with SqliteStore(path) as store:
        store.put(Entry("a", "of a", bytes=10))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE body SET key = 'b'")
    connection.close()
    with SqliteStore(path) as store:
        assert store.get("b") is None
        assert store.damaged == 1


def test_a_write_to_the_store_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise MemoryError

    with SqliteStore(tmp_path / "store.db") as store:
        store.put(Entry("a", "old", bytes=10))
        with monkeypatch.context() as patch:
            patch.setattr(Shared, "make_room", fails)
            with pytest.raises(MemoryError):
                store.put(Entry("a", "new", bytes=10))
        kept = store.get("a")
        assert kept is not None
        assert kept.value == "old"


# -- identity and definitions


def test_a_link_to_a_file_is_the_same_database(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "data.db")
    link = sa.create_engine(f"sqlite:///{tmp_path / 'link.db'}")
    with engine.connect() as one, link.connect() as other:
        assert identity(one) == identity(other)
    link.dispose()


def test_a_name_that_a_temporary_table_took_is_not_kept(url: str) -> None:
    with everfresh.open(url) as cache:
        with cache.engine.connect() as connection:
            connection.execute(sa.text("CREATE TEMP TABLE t (id, v)"))
            connection.rollback()
        rows = cache.sql(ONE)
        assert (rows.receipt.status, rows.receipt.reason) == (
            "bypass",
            "it names a temporary table",
        )


def test_a_fill_under_an_old_plan_is_not_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DDL between the analysis and the start of the computation: the sources may be others."""
    with everfresh.open(url) as cache:
        claim, altered = cache.board.claim, []

        def late(request: Any, *rest: Any) -> Any:
            if not altered:
                altered.append(True)
                with cache.engine.begin() as connection:
                    connection.execute(sa.text("ALTER TABLE t RENAME TO old"))
                    connection.execute(sa.text("CREATE VIEW t AS SELECT * FROM old"))
            return claim(request, *rest)

        monkeypatch.setattr(cache.board, "claim", late)
        rows = cache.sql(ONE)
        assert rows.receipt.status == "bypass"
        with cache.engine.begin() as connection:
            connection.execute(sa.text("UPDATE old SET v = 'b'"))
        assert cache.sql(ONE).scalar() == "b"


def test_numbers_that_went_back_tell_nothing():
    assert read_changes(lambda text: [], 5, 3, {}, 10) is None
    assert read_changes(lambda text: [], 5, 5, {}, 10) == []
