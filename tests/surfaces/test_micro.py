"""The micro-cache as its document describes it, on databases of each kind."""

import sqlite3
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from everfresh.errors import (
    ClosedError,
    ConfigurationError,
    NotKeptError,
    StatementError,
    UnkeyableError,
)
from everfresh.micro import Entry, QueryCache

from .conftest import in_threads


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/data.db"
    else:
        url = request.getfixturevalue("postgres_url").replace(
            "postgresql://", "postgresql+psycopg://"
        )
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS t"))
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20))"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 'a:b'), (2, '100%'), (3, NULL)"))
    yield engine
    engine.dispose()


# the document ------------------------------------------------------------------


def test_the_callback_gets_one_result_set_for_each_query_in_order(engine, make):
    cache = make(engine)
    seen = []

    def callback(*sets):
        seen.append(sets)
        return "made of them"

    first, second = "SELECT id FROM t WHERE id < 3 ORDER BY id", "SELECT name FROM t WHERE id = 1"
    assert cache(callback, first, second) == "made of them"
    assert cache(callback, first, second) == "made of them"
    assert seen == [([{"id": 1}, {"id": 2}], [{"name": "a:b"}])]
    assert cache(callback, second, first) == "made of them"
    assert len(seen) == 2


def test_it_is_kept_for_the_threshold(make, db, now):
    cache = make()
    assert cache(len, "q") == 1
    now[0] += 4.999
    cache(len, "q")
    assert len(db.asked) == 1
    now[0] += 0.001
    cache(len, "q")
    assert len(db.asked) == 2


def test_the_defaults_are_those_of_the_document(db):
    with QueryCache(db) as cache:
        assert (cache.threshold, cache.threshold_prune) == (5, 60)


def test_changing_the_threshold_works_for_what_is_kept(make, db, now):
    cache = make()
    cache.one("q")
    now[0] += 4
    cache.threshold = 3
    cache.one("q")
    assert len(db.asked) == 2
    now[0] += 10
    cache.threshold = 11
    cache.one("q")
    assert len(db.asked) == 2
    cache.threshold = 0
    cache.one("q")
    cache.one("q")
    assert len(db.asked) == 4


def test_by_default_callbacks_collide_as_documented(make):
    cache = make()
    assert cache(lambda rows: "first", "q") == "first"
    assert cache(lambda rows: "second", "q") == "first"
    assert cache(lambda rows: "second", "q -- second") == "second"
    assert cache.one("q", process=lambda row: 1) == 1
    assert cache.one("q", process=lambda row: 2) == 1


def test_a_call_takes_two_or_more_arguments(make):
    with pytest.raises(TypeError, match="query"):
        make()(len)


def test_any_type_may_be_returned_and_none_is_kept_too(make, db):
    cache = make()
    assert cache(lambda rows: None, "q") is None
    assert cache(lambda rows: None, "q") is None
    assert len(db.asked) == 1


def test_a_hundred_threads_ask_once(make, db):
    cache = make()
    assert set(in_threads(100, lambda n: cache(lambda rows: "made", "q"))) == {"made"}
    assert len(db.asked) == 1


def test_one_and_all_as_users_of_the_original_know_them(engine, make):
    cache = make(engine)
    assert cache.one("SELECT id, name FROM t WHERE id = 1") == {"id": 1, "name": "a:b"}
    assert cache.one("SELECT id FROM t WHERE id = 9") is None
    assert cache.all("SELECT id FROM t ORDER BY id") == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert cache.all("SELECT id FROM t WHERE id = 9") == []
    by_id = "SELECT name FROM t WHERE id = :id"
    assert cache.one(by_id, {"id": 2}) == {"name": "100%"}
    assert cache.one(by_id, {"id": 2}, process=lambda row: 1) == {"name": "100%"}
    assert cache.one(by_id, {"id": 1}, process=lambda row: row["name"]) == "a:b"
    assert cache.all("SELECT id FROM t", process=len) == 3
    with pytest.raises(StatementError, match="one row at most"):
        cache.one("SELECT id FROM t")


def test_an_entry_has_the_attributes_of_the_document():
    entry = Entry()
    assert (entry.timestamp, entry.result) == (0, None)
    with entry.lock:
        entry.timestamp, entry.result = 5, "x"
    assert Entry(1, "lock", "result").lock == "lock"
    assert repr(entry) == "Entry(timestamp=5, result='x')"


def test_entries_show_what_is_kept(make, now):
    cache = make()
    cache.one("a", process=lambda row: "A")
    now[0] += 1
    cache.one("b", process=lambda row: "B")
    assert [(e.timestamp, e.result) for e in cache.entries()] == [(1000.0, "A"), (1001.0, "B")]


def test_prune_removes_what_is_stale(make, now):
    cache = make()
    cache.one("a")
    now[0] += 3
    cache.one("b")
    assert cache.prune() == 0
    now[0] += 2
    assert cache.prune() == 1
    assert len(cache.entries()) == 1
    assert cache.stats().entries == 1


# parameters --------------------------------------------------------------------


def test_each_way_of_giving_parameters_to_an_engine(engine, make):
    cache = make(engine)
    driver = engine.dialect.paramstyle
    places = {"qmark": "?", "pyformat": "%s", "format": "%s", "named": "?"}
    assert cache.one(f"SELECT name FROM t WHERE id = {places[driver]}", (2,)) == {"name": "100%"}
    assert cache.one(f"SELECT name FROM t WHERE id = {places[driver]}", [1]) == {"name": "a:b"}
    if driver == "pyformat":
        assert cache.one("SELECT id FROM t WHERE id = %(n)s", {"n": 2}) == {"id": 2}


def test_a_text_without_parameters_is_sent_as_it_is(engine, make):
    cache = make(engine)
    assert cache.one("SELECT id FROM t WHERE name = 'a:b'") == {"id": 1}
    assert cache.one("SELECT id FROM t WHERE name LIKE '%0%'") == {"id": 2}
    assert cache.one("SELECT ' :x' AS x") == {"x": " :x"}


@pytest.mark.parametrize("params", [{"a": 1}, {"a": 1.5}, {"a": [1]}, (1, 2), [1, {"b": {2}}]])
def test_parameters_reach_the_database_as_given_and_are_kept_apart(make, db, params):
    cache = make()
    for _ in range(2):
        assert cache.one("q", params)["params"] == params
        assert cache.all("q", params)[0]["params"] == params
    assert len(db.asked) == 2


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (1, "1"),
        (1, Decimal(1)),
        (0.0, -0.0),
        ("a", b"a"),
        (1, None),
    ],
)
def test_parameters_of_different_types_are_different_questions(make, left, right):
    cache = make()
    for _ in range(2):
        for value in (left, right):
            for params in ({"a": value}, (value,), {"a": [value]}):
                kept = cache.one("q", params)["params"]
                assert repr(kept) == repr(params)


def test_forms_and_queries_never_share_an_entry(make, db):
    cache = make()
    shapes = [
        lambda: cache.one("q"),
        lambda: cache.all("q"),
        lambda: cache(lambda rows: rows, "q"),
        lambda: cache(lambda *sets: sets, "q", "q"),
        lambda: cache.one("q", {"q": 1}),
        lambda: cache.one("q", {"q": 1, "int": 2}),
        lambda: cache.one("q", ("q", 1)),
        lambda: cache.one("q", ["q", 1]),
        lambda: cache.all("q", {"q": 1}),
        lambda: cache(lambda rows: rows, "q;q"),
        lambda: cache(lambda *sets: sets, "a", "bc"),
        lambda: cache(lambda *sets: sets, "ab", "c"),
    ]
    first = [shape() for shape in shapes]
    asked = len(db.asked)
    assert [shape() for shape in shapes] == first
    assert len(db.asked) == asked
    assert len(cache.entries()) == len(shapes)
    assert cache.one("q", {"int": 2, "q": 1}) == cache.one("q", {"q": 1, "int": 2})
    assert len(db.asked) == asked


def test_unhashable_parameters_are_keyed_by_content(make, db):
    cache = make()
    cache.one("q", {"ids": [1, 2], "more": {"a": {3}}})
    cache.one("q", {"more": {"a": {3}}, "ids": [1, 2]})
    assert len(db.asked) == 1
    cache.one("q", {"ids": [2, 1], "more": {"a": {3}}})
    assert len(db.asked) == 2


def test_parameters_that_are_changed_after_the_call_do_not_change_the_entry(make, db):
    cache, params = make(), {"ids": [1]}
    cache.one("q", params)
    params["ids"].append(2)
    cache.one("q", params)
    assert len(db.asked) == 2


def test_what_has_no_key_is_refused(make, db):
    cache = make()
    with pytest.raises(UnkeyableError, match="object"):
        cache.one("q", {"a": object()})
    with pytest.raises(StatementError, match="SQL text"):
        cache.one(sa.text("SELECT 1"))
    for wrong in (5, "text", {1, 2}):
        with pytest.raises(StatementError, match="mapping or a sequence"):
            cache.one("q", wrong)
    assert db.asked == []


# databases ---------------------------------------------------------------------


def test_a_connection_factory(tmp_path, make):
    opened = []

    def connect():
        opened.append(sqlite3.connect(tmp_path / "f.db", factory=Watched))
        return opened[-1]

    class Watched(sqlite3.Connection):
        closed = False

        def close(self):
            self.closed = True
            super().close()

    cache = make(connect)
    assert cache.one("SELECT ? AS a, ? AS b", (1, 2)) == {"a": 1, "b": 2}
    assert cache.one("SELECT :a AS a", {"a": 1}) == {"a": 1}
    assert cache.all("SELECT 1 AS n UNION SELECT 2") == [{"n": 1}, {"n": 2}]
    assert cache(lambda rows: rows, "SELECT 1 AS n") == [{"n": 1}]
    with pytest.raises(sqlite3.OperationalError):
        cache.one("SELECT nothing FROM nowhere")
    assert len(opened) == 5
    assert all(connection.closed for connection in opened)


def test_a_factory_of_postgres_connections(postgres_url, make):
    import psycopg
    from psycopg.rows import dict_row

    dsn = postgres_url.replace("+psycopg", "")
    cache = make(lambda: psycopg.connect(dsn))
    assert cache.one("SELECT %s::int AS a", (1,)) == {"a": 1}
    assert cache.one("SELECT %(a)s::int AS a", {"a": 2}) == {"a": 2}
    rows = make(lambda: psycopg.connect(dsn, row_factory=dict_row))
    assert rows.all("SELECT 1 AS a, '%' AS b") == [{"a": 1, "b": "%"}]


def test_an_object_may_make_rows_of_any_kind(make):
    from collections import namedtuple

    plain = sqlite3.connect(":memory:")
    plain.row_factory = sqlite3.Row

    class Rows:
        def one(self, sql, params):
            return "a row"

        def all(self, sql, params):
            yield {"n": 1}
            yield namedtuple("Row", "n")(2)
            yield from plain.execute("SELECT 3 AS n")
            yield (4,)

    cache = make(Rows())
    assert cache(lambda rows: rows, "q") == [{"n": 1}, {"n": 2}, {"n": 3}, (4,)]
    assert len(cache.all("q")) == 4
    assert cache.one("q") == "a row"
    plain.close()


def test_a_statement_that_is_no_query(engine, make, tmp_path):
    with pytest.raises(StatementError, match="no rows"):
        make(engine).one("UPDATE t SET name = 'x'")
    with pytest.raises(StatementError, match="no rows"):
        make(lambda: sqlite3.connect(tmp_path / "f.db")).one("CREATE TABLE x (n)")


def test_wrong_databases_and_options_are_refused():
    with pytest.raises(ConfigurationError, match="not int"):
        QueryCache(5)
    with pytest.raises(ConfigurationError, match="AsyncQueryCache"):
        QueryCache(create_async_engine("sqlite+aiosqlite://"))
    for wrong in (
        {"threshold": -1},
        {"threshold": None},
        {"threshold_prune": 0},
        {"max_entries": 0},
        {"max_bytes": -1},
        {"stale_while_revalidate": 0},
    ):
        with pytest.raises(ConfigurationError):
            QueryCache(lambda: None, **wrong)
    with pytest.raises(TypeError, match="unknown"):
        QueryCache(lambda: None, unknown=1)


# closing, receipts --------------------------------------------------------------


def test_a_closed_cache_says_so(make, db):
    cache = make()
    with cache:
        cache.one("q")
    assert "closed" in repr(cache)
    for ask in (cache.one, cache.all, lambda sql: cache(len, sql)):
        with pytest.raises(ClosedError, match="make another"):
            ask("q")
    cache.close()
    assert cache.entries() == []
    assert len(db.asked) == 1


def test_receipts(make, now):
    cache = make()
    with pytest.raises(NotKeptError, match="ask for it first"):
        cache.receipt("one", "q")
    cache.one("q", {"a": 1})
    cache.all("q")
    cache(lambda q, r: len(q + r), "q", "r")
    now[0] += 2
    receipt = cache.receipt("one", "q", {"a": 1})
    assert (receipt.status, receipt.age, receipt.proof) == ("fill", 2.0, "not proven by a feed")
    cache.one("q", {"a": 1})
    assert cache.receipt("one", "q", {"a": 1}).status == "hit"
    assert cache.receipt("all", "q").label == "q"
    assert cache.receipt("call", None, "q", "r").label == "q; r"
    now[0] += 3
    cache.one("q", {"a": 1})
    assert cache.receipt("one", "q", {"a": 1}).status == "refresh"
    assert "3 entries" in repr(cache)
    assert cache.stats().hits == 1


def test_results_are_shared_or_copied_on_request(make):
    cache, copied = make(), make(copy=True)
    assert cache.all("q") is cache.all("q")
    assert cache(lambda rows: rows, "q") is cache(lambda rows: rows, "q")
    copied.all("q").append("mine")
    assert len(copied.all("q")) == 1
