"""Sections 1, 8 and 13 through a replication slot: no triggers, the server's own log tells."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine

import everfresh
from everfresh.changes.pgoutput import widened
from everfresh.changes.postgres_sources import SlotSource
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from everfresh.kernel.mark import SnapshotMark
from everfresh.testing.servers import postgres_server
from protocol.ear import Ear, listening

Run = Callable[..., None]


@pytest.fixture
def other(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another program's connection, in autocommit mode, to a database that is empty."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP PUBLICATION IF EXISTS everfresh")
        connection.execute("DROP SCHEMA IF EXISTS everfresh CASCADE; DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        yield connection


@pytest.fixture
def ear(engine: Engine, run: Run) -> Iterator[Ear]:
    """A listener to a table ``t`` that is published."""
    run("CREATE TABLE t (id int PRIMARY KEY, month int, name text)")
    with listening(engine, source=SlotSource()) as made:
        yield made


def test_inserts_are_told_row_by_row(ear: Ear, run: Run) -> None:
    run("INSERT INTO t VALUES (1, 6, 'a'), (2, NULL, 'Ü')")
    assert ear.heard() == [
        ("public.t", None, {"id": 1, "month": 6, "name": "a"}),
        ("public.t", None, {"id": 2, "month": None, "name": "Ü"}),
    ]
    assert ear.heard() == []
    assert (ear.watch.mode, ear.watch.means) == ("tracked", "replication slot")


def test_without_the_old_row_an_update_is_one_of_the_table(ear: Ear, run: Run) -> None:
    """By default no old row is sent: an answer of June would not hear that a row has left it."""
    run("INSERT INTO t VALUES (1, 6, 'a')")
    ear.hear()
    run("UPDATE t SET month = 5")
    assert ear.heard() == [("public.t", None, None)]
    run("DELETE FROM t")
    assert ear.heard() == [("public.t", None, None)]


def test_with_the_whole_old_row_it_is_one_of_the_row(ear: Ear, run: Run) -> None:
    run("ALTER TABLE t REPLICA IDENTITY FULL", "INSERT INTO t VALUES (1, 6, 'a')")
    ear.hear()
    run("UPDATE t SET month = 5")
    assert ear.heard() == [
        ("public.t", {"id": 1, "month": 6, "name": "a"}, {"id": 1, "month": 5, "name": "a"})
    ]
    run("DELETE FROM t")
    assert ear.heard() == [("public.t", {"id": 1, "month": 5, "name": "a"}, None)]


def test_a_large_value_that_was_not_touched_is_unknown(ear: Ear, run: Run) -> None:
    """It is not sent, which is not NULL."""
    run("ALTER TABLE t ALTER name SET STORAGE EXTERNAL", "ALTER TABLE t REPLICA IDENTITY FULL")
    run("INSERT INTO t VALUES (1, 6, repeat('x', 100000))")
    ear.hear()
    run("UPDATE t SET month = 5")
    ((_, _, new),) = ear.heard()
    assert new == {"id": 1, "month": 5}


def test_rollbacks_savepoints_truncate_copy_and_two_phases(
    ear: Ear, run: Run, other: psycopg.Connection[Any]
) -> None:
    with other.transaction(force_rollback=True):
        other.execute("INSERT INTO t VALUES (1, 6, 'undone')")
    with other.transaction():
        other.execute("INSERT INTO t VALUES (2, 6, 'kept')")
        with other.transaction(force_rollback=True):
            other.execute("INSERT INTO t VALUES (3, 6, 'undone')")
    with other.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write_row((4, 6, "copied"))
    run("BEGIN", "INSERT INTO t VALUES (5, 6, 'a')", "PREPARE TRANSACTION 'everfresh-slot'")
    assert [new["id"] for _, _, new in ear.heard()] == [2, 4]
    run("COMMIT PREPARED 'everfresh-slot'")
    assert [new["id"] for _, _, new in ear.heard()] == [5]
    run("TRUNCATE t")
    assert ear.heard() == [("public.t", None, None)]


def test_transactions_are_told_by_their_ids(ear: Ear, dsn: str, run: Run) -> None:
    with psycopg.connect(dsn) as slow:
        slow.execute("INSERT INTO t VALUES (1, 6, 'slow')")
        run("INSERT INTO t VALUES (2, 6, 'fast')")
        (fast,) = ear.hear()
        (number,) = slow.execute("SELECT pg_current_xact_id()::text").fetchone() or ("0",)
        slow.commit()
    (change,) = ear.hear()
    assert change.sequence == int(number) < fast.sequence


def test_ids_are_widened_around_the_end_of_an_epoch() -> None:
    epoch = 1 << 32
    assert widened(3, 5 * epoch - 2) == 5 * epoch + 3
    assert widened(epoch - 3, 5 * epoch + 2) == 5 * epoch - 3
    assert widened(7, 5 * epoch + 9) == 5 * epoch + 7


def test_values_as_their_columns_compare(engine: Engine, run: Run) -> None:
    run(
        "CREATE TABLE v (i bigint PRIMARY KEY, n numeric, f float8, b bool, d date, s timestamp,"
        " z timestamptz, u uuid, y bytea, j jsonb)"
    )
    with listening(engine, source=SlotSource()) as ear:
        run(
            "SET TimeZone = 'Asia/Tokyo'",
            "INSERT INTO v VALUES (9007199254740993, 1.10, 0.1::float8 + 0.2, true, '2013-06-01',"
            " '2013-06-01 10:00', '2013-06-01 10:00+02',"
            " '00000000-0000-0000-0000-000000000001', '\\x00ff', '{}')",
        )
        ((_, _, new),) = ear.heard()
    assert (new["i"], new["n"], float(new["f"])) == (
        9007199254740993,
        Decimal("1.10"),
        0.1 + 0.2,
    )
    assert new["z"].isoformat() == "2013-06-01T08:00:00+00:00"
    assert new["y"] == b"\x00\xff"
    assert "j" not in new


def test_partitions(engine: Engine, run: Run) -> None:
    run(
        "CREATE TABLE m (k int) PARTITION BY LIST (k)",
        "CREATE TABLE m1 PARTITION OF m FOR VALUES IN (1)",
    )
    with listening(engine, source=SlotSource()) as ear:
        run("INSERT INTO m VALUES (1)")
        assert ear.heard() == [("public.m1", None, {"k": 1}), ("public.m", None, {"k": 1})]
        run("CREATE TABLE m2 PARTITION OF m FOR VALUES IN (2)")
        ear.hear()
        assert ear.watch.untracked == {"public.m", "public.m2"}
        run("INSERT INTO m VALUES (2)")
        assert {"public.m", "public.m2"} <= {c.table for c in ear.hear()}


def test_many_rows_make_the_table_stale_at_once(ear: Ear, run: Run) -> None:
    run("INSERT INTO t SELECT g, 6, 'a' FROM generate_series(1, 51) g")
    assert ear.heard() == [("public.t", None, None)]


def test_a_look_waits_for_the_decoder_and_not_for_ever(
    ear: Ear, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = ear.watch.source._slot  # type: ignore[attr-defined]
    read, reached, go = slot._stream.read, threading.Event(), threading.Event()

    def held(seconds: float, wake: int) -> list[bytes]:
        reached.set()
        go.wait(10)
        return list(read(seconds, wake))

    monkeypatch.setattr(slot._stream, "read", held)
    os.write(slot._wake, b"?")  # ends the call that is under way
    try:
        assert reached.wait(10)
        run("INSERT INTO t VALUES (1, 6, 'held')")
        monkeypatch.setattr("everfresh.changes.postgres_slot._WAIT", 0.1)
        assert not ear.watch.poll()
        monkeypatch.setattr("everfresh.changes.postgres_slot._WAIT", 10.0)
        threading.Timer(0.1, go.set).start()
        assert [new["id"] for _, _, new in ear.heard()] == [1]
    finally:
        go.set()


def test_what_an_idle_writer_has_not_committed_holds_nobody_up(ear: Ear, dsn: str) -> None:
    with psycopg.connect(dsn) as writer:
        writer.execute("INSERT INTO t VALUES (99)")
        assert ear.heard() == []
        writer.rollback()


def test_a_publication_of_some_rows_tracks_nothing(ear: Ear, run: Run) -> None:
    run("ALTER PUBLICATION everfresh SET TABLE t WHERE (id > 5)")
    ear.hear()
    assert ear.watch.mode == "watched"
    run("INSERT INTO t VALUES (1)")
    ear.hear()
    assert ear.losses


def test_a_slot_that_is_lost_makes_everything_unproven(
    ear: Ear, run: Run, other: psycopg.Connection[Any]
) -> None:
    run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    run("INSERT INTO t VALUES (1, 6, 'unheard')")
    slot = ear.watch.source._slot  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while not slot.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [c.table for c in ear.hear()] == [None]
    run("INSERT INTO t VALUES (2, 6, 'heard')")
    assert [new["id"] for _, _, new in ear.heard()] == [2]
    (slots,) = other.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    ).fetchone() or (0,)
    assert slots == 1


def test_no_slot_is_left_behind(engine: Engine, run: Run, other: psycopg.Connection[Any]) -> None:
    run("CREATE TABLE t (id int PRIMARY KEY)")
    with listening(engine, source=SlotSource()):
        pass
    question = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    deadline = time.monotonic() + 10
    while other.execute(question).fetchone() != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_was_told_before_it_is_visible_voids_later_fills(ear: Ear, run: Run) -> None:
    """The log tells of a commit that a later snapshot may not see, where a replica is waited for."""
    run("INSERT INTO t VALUES (1, 6, 'a')")
    (change,) = ear.hear()
    at = ear.watch._at
    assert at is not None
    unseen = SnapshotMark("outbox", at.history, at.xmin, at.xmax, at.running | {change.sequence})
    told = ear.watch.early(unseen)
    assert told is not None
    assert [each.key for each in told] == [(1,)]
    assert ear.watch.early(at) == []
    older = SnapshotMark("outbox", at.history, 3, 3)
    assert ear.watch.early(older) is None


def test_a_fill_that_does_not_see_what_was_told_already_is_not_kept(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("CREATE TABLE t (id int PRIMARY KEY, month int)")
    with everfresh.open(engine, feed="slot", freshness="strict") as cache:
        cache.track()
        june = "SELECT count(*) FROM t WHERE month = 6"
        assert cache.sql(june).scalar() == 0
        cache.sql(june)
        run("INSERT INTO t VALUES (1, 5)")
        cache.proof.confirm()
        position = cache.feed.watch._at  # type: ignore[union-attr]
        watch = cache.feed.watch
        early = Change("public.t", new={"id": 2, "month": 6}, history=position.history, sequence=1)
        monkeypatch.setattr(watch, "early", lambda mark: [early])
        cache.invalidate()
        assert cache.sql(june).receipt.status == "bypass"
        monkeypatch.setattr(watch, "early", lambda mark: None)
        assert cache.sql(june).receipt.status == "bypass"
        monkeypatch.undo()
        cache.sql(june)
        assert cache.sql(june).receipt.status == "hit"


def test_a_cache_over_a_slot(engine: Engine, run: Run, other: psycopg.Connection[Any]) -> None:
    run(
        "CREATE TABLE t (id int PRIMARY KEY, month int)",
        "INSERT INTO t SELECT g, g % 12 + 1 FROM generate_series(1, 48) g",
    )
    count = "SELECT count(*) FROM t WHERE month = :m"
    with everfresh.open(engine, feed="slot", freshness="strict") as cache:
        assert cache.track().tracked == ("public.t",)
        for month in (5, 6):
            cache.sql(count, m=month)
            assert cache.sql(count, m=month).receipt.proof == "session feed, replication slot"
        for number in range(100, 110):
            run(f"INSERT INTO t VALUES ({number}, 6)")
            assert cache.sql(count, m=6).scalar() == number - 95
            assert cache.sql(count, m=5).receipt.status == "hit"
        with cache.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (200, 6)")
        assert cache.sql(count, m=6).scalar() == 15
        assert cache.sql(count, m=5).receipt.status == "hit"
        assert cache.audit().stale == 0
        assert cache.untrack().tracked == ()


def test_bounded_hears_by_itself(engine: Engine, run: Run) -> None:
    run("CREATE TABLE t (id int PRIMARY KEY, month int)")
    with everfresh.open(engine, feed="slot", freshness=everfresh.bounded(60.0)) as cache:
        cache.track()
        count = "SELECT count(*) FROM t"
        cache.sql(count)
        assert cache.sql(count).receipt.status == "hit"
        run("INSERT INTO t VALUES (1, 6)")
        deadline = time.monotonic() + 10
        while cache.sql(count).scalar() == 0:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_the_plan_is_what_is_run(ear: Ear, run: Run, other: psycopg.Connection[Any]) -> None:
    assert ear.watch.plan() == []
    run("CREATE TABLE added (a int)")
    assert ear.watch.plan() == ['ALTER PUBLICATION everfresh ADD TABLE "public"."added"']
    ear.watch.install()
    assert ear.watch.status().tracked == ("public.added", "public.t")
    assert ear.watch.remove().tracked == ()
    assert other.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    ear.hear()
    assert ear.watch.mode == "watched"


def test_bad_input(ear: Ear, postgres_url: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="REPLICATION"):
        ear.watch.install(readers=["app"])
    with pytest.raises(ConfigurationError, match="announce"):
        ear.watch.announce()
    with pytest.raises(ConfigurationError, match="unknown feed"):
        everfresh.open(postgres_url, feed="pigeon")
    with pytest.raises(ConfigurationError, match="only PostgreSQL"):
        everfresh.open("sqlite://", feed="slot")


def test_a_server_that_does_not_decode_says_so() -> None:
    settings = {"wal_level": "replica", "max_wal_senders": "0"}
    with postgres_server(settings=settings) as server:
        engine = create_engine(server.url)
        with everfresh.open(engine, feed="slot") as cache:
            with pytest.raises(ConfigurationError, match="wal_level"):
                cache.track()
            assert cache.sql("SELECT 1").scalar() == 1
        engine.dispose()
