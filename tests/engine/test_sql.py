"""cache.sql: the promise of the README, receipts, bypasses and bad input."""

import gc
import math
import threading
import weakref
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.errors import (
    ClosedError,
    ConfigurationError,
    DatabaseNotFoundError,
    NotKeptError,
    StatementError,
    UnkeyableError,
    UnknownURLError,
)

from .conftest import JUNE, counted, write


def test_the_three_lines(cache):
    with counted(cache.engine) as seen:
        rows = cache.sql(JUNE, m=6)
        assert [row.carrier for row in rows] == ["UA"]
        assert rows.receipt.status == "fill"
        again = cache.sql(JUNE, m=6)
        assert (again, again.receipt.status) == (rows, "hit")
        assert len(seen.selects()) == 1


def test_a_commit_that_touches_june_and_one_that_touches_may(cache):
    june, may = cache.sql(JUNE, m=6), cache.sql(JUNE, m=5)
    write(cache, "UPDATE flights SET arr_delay = 1000 WHERE id = 5")  # June
    assert cache.sql(JUNE, m=5).receipt.status == "hit"
    fresh = cache.sql(JUNE, m=6)
    assert fresh.receipt.status == "refresh"
    assert "an UPDATE of main.flights, row (5,)" in fresh.receipt.reason
    assert fresh[0].delay > june[0].delay
    assert cache.sql(JUNE, m=5) == may


def test_a_row_that_moves_from_june_to_may_touches_both(cache):
    for month in (4, 5, 6):
        cache.sql(JUNE, m=month)
    write(cache, "UPDATE flights SET month = 5 WHERE id = 5")
    assert [cache.sql(JUNE, m=m).receipt.status for m in (4, 5, 6)] == ["hit", "refresh", "refresh"]


def test_a_rollback_changes_nothing(cache):
    cache.sql(JUNE, m=6)
    with cache.engine.connect() as connection:
        connection.execute(sa.text("UPDATE flights SET arr_delay = 0"))
        connection.rollback()
    assert cache.sql(JUNE, m=6).receipt.status == "hit"


def test_the_receipt_says_it_all(cache):
    receipt = cache.sql(JUNE, m=6).receipt
    assert receipt.status == "fill"
    assert len(receipt.key) == 40
    assert receipt.sources == ("flights WHERE month = 6",)
    assert receipt.cost > 0
    assert receipt.bytes > 0
    assert receipt.age >= 0
    assert receipt.parents == ()
    assert receipt.mark is not None
    assert cache.sql(JUNE, m=6).receipt.key == receipt.key
    data = cache.sql(JUNE, m=6).receipt.to_dict()
    assert data["status"] == "hit"
    assert "entry" not in data
    assert "owner" not in data


def test_age_is_that_of_the_data(url):
    now = [100.0]
    with everfresh.open(url, clock=lambda: now[0]) as cache:
        cache.sql(JUNE, m=6)
        now[0] += 7
        assert cache.sql(JUNE, m=6).receipt.age == 7


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), (1, True), (1, "1"), (0.0, -0.0), ("a", b"a"), (Decimal("1"), 1)],
)
def test_parameters_of_different_types_never_share_an_answer(cache, left, right):
    statement = "SELECT typeof(:x) AS kind, quote(:x) AS text"
    if isinstance(left, Decimal):
        with pytest.raises(sa.exc.StatementError):  # the driver does not take it
            cache.sql(statement, x=left)
        return
    first, second = cache.sql(statement, x=left), cache.sql(statement, x=right)
    assert first.receipt.key != second.receipt.key
    assert second.receipt.status == "fill"
    assert cache.sql(statement, x=left).receipt.status == "hit"
    assert repr(cache.sql(statement, x=left)) == repr(first)


def test_keyword_order_does_not_matter(cache):
    statement = "SELECT count(*) AS n FROM flights WHERE month = :m AND carrier = :c"
    cache.sql(statement, m=6, c="UA")
    assert cache.sql(statement, c="UA", m=6).receipt.status == "hit"
    assert cache.sql(statement, {"c": "UA", "m": 6}).receipt.status == "hit"


def test_a_list_for_in(cache):
    statement = "SELECT count(*) AS n FROM flights WHERE month IN :months"
    assert cache.sql(statement, months=[5, 6]).scalar() == 8
    write(cache, "UPDATE flights SET arr_delay = 1, month = 7 WHERE id = 5")
    assert cache.sql(statement, months=[5, 6]).scalar() == 7
    write(cache, "UPDATE flights SET month = 8 WHERE id = 5")
    assert cache.sql(statement, months=[5, 6]).receipt.status == "hit"


def test_nan_and_dates_as_parameters(cache):
    assert cache.sql("SELECT :x IS NULL AS missing", x=math.nan).scalar() == 1
    statement = "SELECT count(*) FROM flights WHERE carrier = :d"
    assert cache.sql(statement, d=datetime(2013, 6, 1, tzinfo=UTC).isoformat()).scalar() == 0


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT random() AS r FROM flights", "random()"),
        ("SELECT count(*) FROM sqlite_master", "catalogue"),
        ("SELECT date('now'), count(*) FROM flights", "time"),
    ],
)
def test_what_is_not_deterministic_is_not_kept_and_says_why(cache, statement, reason):
    for _ in range(2):
        receipt = cache.sql(statement).receipt
        assert receipt.status == "bypass"
        assert reason in receipt.reason
    assert cache.stats().entries == 0
    assert sum(cache.stats().bypasses.values()) == 2


def test_temporary_tables_are_not_kept(cache):
    write(cache, "CREATE TEMP TABLE scratch (n INTEGER)")
    with cache.engine.begin() as connection:
        connection.execute(sa.text("CREATE TEMP TABLE IF NOT EXISTS scratch (n INTEGER)"))
        view = cache.using(connection=connection)
        assert view.sql("SELECT count(*) FROM scratch").receipt.status == "bypass"


def test_ddl_makes_plans_and_answers_void(cache):
    write(cache, "CREATE VIEW june AS SELECT * FROM flights WHERE month = 6")
    assert cache.sql("SELECT count(*) AS n FROM june").scalar() == 4
    write(cache, "DROP VIEW june")
    write(cache, "CREATE VIEW june AS SELECT * FROM flights WHERE month IN (6, 7)")
    rows = cache.sql("SELECT count(*) AS n FROM june")
    assert rows.scalar() == 8
    assert "7" in rows.receipt.sources[0]
    write(cache, "ALTER TABLE flights ADD COLUMN note TEXT DEFAULT 'x'")
    assert cache.sql("SELECT * FROM flights LIMIT 1").columns[-1] == "note"


def test_a_plan_made_while_ddl_was_uncommitted_is_void_afterwards(cache):
    """Another reader plans with the old view between the DDL and its commit."""
    statement = "SELECT count(*) AS n FROM june"
    write(cache, "CREATE VIEW june AS SELECT * FROM flights WHERE month = 6")
    with cache.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("DROP VIEW june")
        connection.exec_driver_sql("CREATE VIEW june AS SELECT * FROM flights WHERE month = 7")
        assert cache.sql(statement).receipt.sources == ("flights WHERE month = 6",)
        connection.commit()
    assert cache.sql(statement).receipt.sources == ("flights WHERE month = 7",)
    write(cache, "DELETE FROM flights WHERE month = 7")
    assert cache.sql(statement).scalar() == 0


def test_a_statement_is_analysed_once(cache, monkeypatch):
    from everfresh.engine import reader

    calls = []
    real = reader.analyse
    monkeypatch.setattr(reader, "analyse", lambda *args: calls.append(args[0]) or real(*args))
    for month in (1, 2, 3):
        cache.sql(JUNE, m=month)
    assert calls == [JUNE]


def test_plans_are_bounded(url):
    with everfresh.open(url, plans=10) as cache:
        for n in range(30):
            cache.sql(f"SELECT {n} AS n")
        assert len(cache.reader._plans) <= 10


def test_memory_is_bounded_and_shortcuts_go_with_their_entries(url):
    with everfresh.open(url, max_bytes=20_000) as cache:
        for n in range(300):
            cache.sql("SELECT :n AS n, 'some text that takes room' AS t", n=n)
        stats = cache.stats()
        assert stats.bytes <= 20_000
        assert stats.evicted > 0
        assert len(cache._shortcuts) == stats.entries
        assert cache.sql("SELECT :n AS n, 'some text that takes room' AS t", n=0).scalar() == 0


def test_a_value_over_the_limit_is_answered_and_not_kept(url):
    with everfresh.open(url, max_bytes=1000) as cache:
        rows = cache.sql("SELECT * FROM flights")
        assert len(rows) == 48
        assert rows.receipt.status == "bypass"
        assert "raise max_bytes" in rows.receipt.reason
        assert cache.stats().entries == 0


def test_ttl_bounds_the_age(url):
    now = [0.0]
    with everfresh.open(url, clock=lambda: now[0], ttl=5) as cache:
        cache.sql(JUNE, m=6)
        now[0] = 4.9
        assert cache.sql(JUNE, m=6).receipt.status == "hit"
        now[0] = 5.0
        assert cache.sql(JUNE, m=6).receipt.status == "refresh"
        write(cache, "UPDATE flights SET arr_delay = 1 WHERE id = 5")
        assert cache.sql(JUNE, m=6).receipt.status == "refresh"


def test_ttl_per_call(url):
    now = [0.0]
    with everfresh.open(url, clock=lambda: now[0]) as cache:
        view = cache.using(ttl=1)
        view.sql(JUNE, m=6)
        now[0] = 2.0
        assert view.sql(JUNE, m=6).receipt.status == "refresh"


# --- telling ----------------------------------------------------------------


def test_why_tells_the_row_that_outdated_an_answer(cache):
    cache.sql(JUNE, m=6)
    write(cache, "UPDATE flights SET arr_delay = 77.5 WHERE id = 5")
    explanation = cache.why(cache.sql(JUNE, m=6))
    data = explanation.to_dict()
    assert data["status"] == "refresh"
    assert data["last_outdated_by"] == "an UPDATE of main.flights, row (5,)"
    assert data["changed_row"] == {"arr_delay": "2.5 → 77.5"}
    assert data["sources"] == ["flights WHERE month = 6"]
    assert "row (5,)" in str(explanation)
    assert cache.why(data["key"]).to_dict()["kept_now"] is True


def test_why_of_what_went(cache):
    key = cache.sql(JUNE, m=6).receipt.key
    write(cache, "DELETE FROM flights WHERE month = 6")
    assert "no longer kept" in str(cache.why(key)) or "nothing is kept" in str(cache.why(key))
    with pytest.raises(NotKeptError):
        cache.why("0" * 40)
    with pytest.raises(ConfigurationError, match="takes an answer"):
        cache.why(3)


def test_why_not_names_the_nearest_and_the_difference(cache):
    cache.sql(JUNE, m=6)
    data = cache.why_not(JUNE, m="6").to_dict()
    assert data["difference"] == "parameter m: kept 6 (int), asked '6' (str)"
    assert "from memory" in cache.why_not(JUNE, m=6).summary
    assert "white space" in str(cache.why_not(JUNE.replace("SELECT", "SELECT "), m=6))
    assert "random" in cache.why_not("SELECT random()").summary
    write(cache, "DELETE FROM flights WHERE id = 5")
    assert "a DELETE from main.flights" in str(cache.why_not(JUNE, m=6))


def test_invalidate_by_table_statement_answer_key_and_all(cache):
    def fill():
        cache.sql("SELECT 1")
        return cache.sql(JUNE, m=6)

    for what, parameters, gone in (
        ("flights", {}, 1),
        (JUNE, {"m": 6}, 1),
        (JUNE, {"m": 7}, 0),
        (None, {}, 2),
    ):
        fill()
        assert cache.invalidate(what, **parameters) == gone
    assert cache.invalidate(fill()) == 1
    assert cache.invalidate(fill().receipt.key) == 1
    assert fill().receipt.status == "refresh"
    with pytest.raises(ConfigurationError, match="no table 'nowhere'"):
        cache.invalidate("nowhere")


def test_stats_add_up(cache):
    for _ in range(3):
        cache.sql(JUNE, m=6)
    write(cache, "UPDATE flights SET arr_delay = 1 WHERE id = 5")
    cache.sql(JUNE, m=6)
    cache.sql("SELECT random()")
    stats = cache.stats()
    assert (stats.hits, stats.fills, stats.refreshes, stats.invalidated) == (2, 1, 1, 1)
    assert sum(stats.bypasses.values()) == 1
    assert stats.entries == 1
    assert stats.seconds_saved > 0
    assert stats.hit_ratio == 2 / 5
    assert stats.to_dict()["hits"] == 2


def test_audit_finds_a_planted_lie(cache):
    cache.sql(JUNE, m=6)
    cache.sql(JUNE, m=7)
    assert str(cache.audit()) == "audit: 2 checked, 0 stale"
    entry = next(e for e in cache.entries() if e.request.detail == {"m": 7})
    from everfresh.engine.rows import make_rows

    entry.value = make_rows(("carrier", "delay"), [("UA", -1.0)])
    audit = cache.audit()
    assert (audit.checked, audit.stale, audit.stale_keys) == (2, 1, (entry.key,))
    assert cache.audit(sample=1, seed=1).checked == 1


# --- bad input --------------------------------------------------------------


def test_bad_urls_say_what_to_do(tmp_path):
    with pytest.raises(UnknownURLError, match="sqlite:///file"):
        everfresh.open("flights.db")
    with pytest.raises(UnknownURLError, match="sqlite://, postgresql://"):
        everfresh.open("mysql://user:secret@host/db")
    with pytest.raises(DatabaseNotFoundError, match="check the path") as caught:
        everfresh.open(f"sqlite:///{tmp_path}/missing.db")
    assert isinstance(caught.value, FileNotFoundError)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(ConfigurationError, match="URL or a SQLAlchemy engine"):
        everfresh.open(3)
    with pytest.raises(ConfigurationError, match="not installed"):
        everfresh.open("postgresql+nodriver://host/db") if False else everfresh.open(
            "postgresql+psycopg2://host/db"
        )


def test_secrets_stay_out_of_errors():
    for url in ("mysql://user:hunter2@host/db", "nonsense://user:hunter2@host/db"):
        with pytest.raises(UnknownURLError) as caught:
            everfresh.open(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "fifo"}, "half_life, gdsf, lru"),
        ({"max_bytes": 0}, "max_bytes must be above 0"),
        ({"ttl": -1}, "ttl must be a number of seconds"),
        ({"half_life": 0}, "half_life"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        everfresh.open("sqlite://", **settings)


def test_bad_statements_and_parameters(cache):
    with pytest.raises(StatementError, match="no value was given for m"):
        cache.sql(JUNE)
    with pytest.raises(StatementError, match="it has no parameter n"):
        cache.sql(JUNE, m=6, n=1)
    with pytest.raises(StatementError, match="only reads"):
        cache.sql("DELETE FROM flights")
    with pytest.raises(StatementError, match="takes SQL text"):
        cache.sql(sa.select(sa.literal(1)))
    with pytest.raises(UnkeyableError, match="object"):
        cache.sql("SELECT :x", x=object())
    with pytest.raises(sa.exc.OperationalError):
        cache.sql("SELECT FROM WHERE")
    with pytest.raises(sa.exc.OperationalError):
        cache.sql("SELECT * FROM no_such_table")
    assert cache.stats().entries == 0
    assert cache.sql("SELECT count(*) FROM flights").scalar() == 48


def test_a_closed_cache_says_so(cache):
    rows = cache.sql(JUNE, m=6)
    cache.close()
    cache.close()
    for call in (
        lambda: cache.sql(JUNE, m=6),
        lambda: cache.sql("SELECT 1"),
        lambda: cache.invalidate("flights"),
        lambda: cache.audit(),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()
    assert rows[0].carrier == "UA"
    assert "closed" in repr(cache)


def test_a_cache_leaves_the_users_engine_as_it_was(url):
    engine = sa.create_engine(url)
    before = dict(vars(engine.dialect))
    with everfresh.open(engine) as cache:
        assert cache.engine is engine
        cache.sql(JUNE, m=6)
    assert vars(engine.dialect).get("do_commit") == before.get("do_commit")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM flights")).scalar() == 48
    with everfresh.open(engine) as again:
        assert again.sql(JUNE, m=6).receipt.status == "fill"
    engine.dispose()


def test_an_evicted_answer_is_freed(url):
    with everfresh.open(url) as cache:
        rows = cache.sql(JUNE, m=6)
        ref = weakref.ref(cache.sql(JUNE, m=6))
        del rows
        cache.invalidate(None)
        gc.collect()
        assert ref() is None


def test_many_threads_read_while_one_writes(cache):
    """A read that starts after a commit returned never gets a value from before it."""
    done, was_read, wrong = threading.Event(), threading.Event(), []
    floor = [0]

    def read():
        while not done.is_set():
            least = floor[0]
            value = cache.sql("SELECT arr_delay AS d FROM flights WHERE id = 5").one().d
            if value < least:
                wrong.append((value, least))
            was_read.set()

    write(cache, "UPDATE flights SET arr_delay = 0 WHERE id = 5")
    readers = [threading.Thread(target=read) for _ in range(4)]
    for thread in readers:
        thread.start()
    for n in range(1, 60):
        write(cache, "UPDATE flights SET arr_delay = :n WHERE id = 5", n=n)
        floor[0] = n
        was_read.clear()
        assert was_read.wait(10)  # SQLite would let the writer starve them
    done.set()
    for thread in readers:
        thread.join()
    assert wrong == []
    assert cache.stats().hits > 0
