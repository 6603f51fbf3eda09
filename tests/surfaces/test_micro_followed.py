"""Opt-in invalidation by change: an entry goes when a commit touches what it was made from."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.errors import ClosedError, ConfigurationError, StatementError
from everfresh.micro import FormattingError, QueryCache

from .conftest import Gate

COUNT = "SELECT count(*) AS n FROM t WHERE kind = :k"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/data.db"
    else:
        url = request.getfixturevalue("postgres_url").replace(
            "postgresql://", "postgresql+psycopg://"
        )
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for table in ("t", "other"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {table}"))
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, kind INTEGER)"))
        connection.execute(sa.text("CREATE TABLE other (id INTEGER PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 1), (2, 1), (3, 2)"))
    engine.dispose()
    return url


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def cache(url, now):
    if url.startswith("sqlite"):
        sqlite3.connect(url.removeprefix("sqlite:///")).close()
    with everfresh.open(url, clock=lambda: now[0]) as opened:
        yield opened
        opened.engine.dispose()


@pytest.fixture
def micro(cache):
    with QueryCache(cache.engine, threshold=60, cache=cache) as made:
        yield made


def write(cache, statement, **parameters):
    with cache.engine.begin() as connection:
        connection.execute(sa.text(statement), parameters)


def test_a_commit_that_touches_its_source_ends_an_entry_before_its_time(cache, micro):
    assert micro.one(COUNT, {"k": 1}) == {"n": 2}
    total = "SELECT count(*) AS n FROM t", "SELECT count(*) AS n FROM other"
    assert micro(lambda t, o: (t[0]["n"], o[0]["n"]), *total) == (3, 0)
    write(cache, "INSERT INTO t VALUES (4, 1)")
    assert micro.one(COUNT, {"k": 1}) == {"n": 3}
    assert micro(lambda t, o: (t[0]["n"], o[0]["n"]), *total) == (4, 0)
    write(cache, "INSERT INTO other VALUES (1)")
    assert micro(lambda t, o: (t[0]["n"], o[0]["n"]), *total) == (4, 1)


def test_a_commit_that_touches_other_rows_leaves_it(cache, micro):
    kept = micro.all(COUNT, {"k": 2})
    write(cache, "INSERT INTO other VALUES (1)")
    assert micro.all(COUNT, {"k": 2}) is kept
    if cache.engine.dialect.name == "sqlite":  # row by row there, table by table on PostgreSQL
        write(cache, "INSERT INTO t VALUES (4, 1)")
        assert micro.all(COUNT, {"k": 2}) is kept
    with cache.engine.connect() as connection:
        connection.execute(sa.text("DELETE FROM t"))
        connection.rollback()
    assert micro.all(COUNT, {"k": 2}) is kept


def test_the_receipt_is_proven_by_the_feed(cache, micro):
    micro.one(COUNT, {"k": 1})
    receipt = micro.receipt("one", COUNT, {"k": 1})
    assert (receipt.status, receipt.proof[:12]) == ("fill", "session feed")
    assert receipt.mark is not None
    assert "kind = 1" in receipt.sources[0]
    assert cache.why(receipt.key).to_dict()["asked"] == COUNT


def test_it_also_ends_after_the_threshold(cache, micro, now):
    kept = micro.all(COUNT, {"k": 1})
    now[0] += 59.9
    assert micro.all(COUNT, {"k": 1}) is kept
    now[0] += 0.1
    assert micro.all(COUNT, {"k": 1}) is not kept


def test_a_fill_that_a_commit_overtakes_is_not_kept(cache, micro):
    gate = Gate()

    def slow(row):
        gate.wait()
        return row["n"]

    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(micro.one, COUNT, {"k": 1}, slow)
        assert gate.reached.wait(10)
        write(cache, "INSERT INTO t VALUES (4, 1)")
        assert micro.one(COUNT, {"k": 1}, lambda row: row["n"]) == 3  # does not share the early one
        gate.opened.set()
        assert early.result(10) == 2  # it was waiting since before the change
    assert micro.one(COUNT, {"k": 1}) == 3


def test_an_aged_entry_that_a_change_voided_is_never_served(cache, now):
    with QueryCache(cache.engine, 5, cache=cache, stale_while_revalidate=60) as micro:
        old = micro.one(COUNT, {"k": 1})
        now[0] += 5
        write(cache, "INSERT INTO t VALUES (4, 1)")
        assert micro.one(COUNT, {"k": 1}) == {"n": 3} != old


def test_a_change_ends_a_kept_error_too(cache, micro):
    def strict(row):
        return 6 / (row["n"] - 2)

    for _ in range(2):
        with pytest.raises(FormattingError, match="ZeroDivisionError"):
            micro.one(COUNT, {"k": 1}, strict)
    write(cache, "INSERT INTO t VALUES (4, 1)")
    assert micro.one(COUNT, {"k": 1}, strict) == 6


def test_what_a_function_makes_of_it_depends_on_its_sources(cache, micro):
    calls = []

    @cache.cached
    def double():
        calls.append(1)
        return micro.one(COUNT, {"k": 1})["n"] * 2

    assert [double(), double(), len(calls)] == [4, 4, 1]
    write(cache, "INSERT INTO t VALUES (4, 1)")
    assert [double(), double(), len(calls)] == [6, 6, 2]


def test_what_is_not_understood_goes_by_age_and_with_any_change(cache, micro, now):
    chance = "SELECT random() AS r"
    kept = micro.one(chance)
    assert micro.one(chance) is kept
    write(cache, "INSERT INTO other VALUES (1)")
    again = micro.one(chance)
    assert again is not kept
    assert micro.one(chance) is again

    @cache.cached
    def lucky():
        return micro.one(chance)["r"]

    lucky()
    now[0] += 60  # what is made of it lives no longer
    assert lucky() == micro.one(chance)["r"] != again["r"]


def test_statements_that_write_and_wrong_parameters_are_refused(cache, micro):
    with pytest.raises(StatementError, match="only reads"):
        micro.all("DELETE FROM t RETURNING id")
    with pytest.raises(StatementError, match="no value was given for k"):
        micro.one(COUNT)
    with pytest.raises(StatementError, match="mapping"):
        micro.one(COUNT, (1,))


def test_the_cache_must_be_of_that_engine(cache, url):
    other = sa.create_engine(url)
    for wrong in (other, lambda: None):
        with pytest.raises(ConfigurationError, match=r"cache\.engine"):
            QueryCache(wrong, cache=cache)
    for option in ({"clock": lambda: 0.0}, {"max_bytes": 1000}):
        with pytest.raises(ConfigurationError, match=r"everfresh\.open"):
            QueryCache(cache.engine, cache=cache, **option)
    other.dispose()


def test_closing_takes_only_its_own(cache, micro):
    cache.sql(COUNT, k=1)
    with QueryCache(cache.engine, 60, cache=cache) as other:
        other.one(COUNT, {"k": 1})
        micro.one(COUNT, {"k": 1})
        assert len(cache.entries()) == 3
    assert len(cache.entries()) == 2
    assert cache.sql(COUNT, k=1).receipt.status == "hit"
    cache.close()
    with pytest.raises(ClosedError):
        micro.one(COUNT, {"k": 1})


def test_a_dropped_cache_takes_its_entries_along(cache):
    import threading

    micro = QueryCache(cache.engine, 60, cache=cache)
    micro.one(COUNT, {"k": 1})
    [thread] = [t for t in threading.enumerate() if t.name == "everfresh-micro-prune"]
    del micro
    thread.join(10)
    assert cache.entries() == []


def test_a_fill_that_ends_after_close_is_not_kept(cache):
    gate = Gate()
    micro = QueryCache(cache.engine, 60, cache=cache)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(micro.one, COUNT, {"k": 1}, lambda row: gate.wait() or row["n"])
        assert gate.reached.wait(10)
        micro.close()
        gate.opened.set()
        assert late.result(10) == 2
    assert cache.entries() == []


def test_limits_count_its_own_entries(cache):
    cache.sql(COUNT, k=1)
    with QueryCache(cache.engine, 60, cache=cache, max_entries=3) as micro:
        for k in range(10):
            micro.one(COUNT, {"k": k})
        assert len(micro.entries()) == 3
        assert len(cache.entries()) == 4
