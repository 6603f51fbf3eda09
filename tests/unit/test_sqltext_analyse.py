"""What is refused, with which words, and what is seen of the statements that are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everfresh.kernel.change import Change
from everfresh.kernel.plan import Plan
from everfresh.kernel.schema import Column, Table, TableKind
from everfresh.kernel.sqltext import analyse


class Tables:
    """A schema of flights, airlines, a view of June, and one table of every refused kind."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        home = "main" if dialect == "sqlite" else "public"
        integer, text = ("INTEGER", "TEXT") if dialect == "sqlite" else ("integer", "text")
        flights = tuple(
            Column(name, type_)
            for name, type_ in (("id", integer), ("month", integer), ("carrier", text),
                                ("active", "boolean"), ("day", "date"), ("code", "character(3)"))
        )  # fmt: skip
        self.tables = {
            "flights": Table(f"{home}.flights", columns=flights, primary_key=("id",)),
            "airlines": Table(f"{home}.airlines", columns=(flights[2], Column("name", text))),
            "june": self.view(home, "june", "SELECT * FROM flights WHERE month = 6"),
            "clock": self.view(home, "clock", "SELECT current_timestamp AS t"),
            "circle": self.view(home, "circle", "SELECT * FROM circle"),
            "nested": self.view(home, "nested", "SELECT id FROM june WHERE carrier = 'UA'"),
            "broken": self.view(home, "broken", "SELECT FROM WHERE"),
        }
        kinds: tuple[TableKind, ...] = ("temporary", "virtual", "foreign", "system")
        self.tables |= {kind: Table(f"{home}.{kind}", kind, flights) for kind in kinds}
        self.asked: list[str] = []

    @staticmethod
    def view(home: str, name: str, definition: str) -> Table:
        return Table(f"{home}.{name}", "view", definition=definition)

    def table(self, schema: str | None, name: str) -> Table | None:
        if schema == "attached":
            attached = {
                "flights": Table("attached.flights", columns=self.tables["flights"].columns)
            }
            attached["june"] = self.view("attached", "june", "SELECT * FROM flights")
            return attached.get(name)
        return self.tables.get(name) if schema in (None, "main", "public") else None

    def volatile_function(self, name: str) -> bool | None:
        return {"pure": False, "moody": True}.get(name)


def plan(statement: str, dialect: str = "sqlite") -> Plan:
    return analyse(statement, Tables(dialect))


BOTH = (
    ("", "no statement"),
    ("SELECT 1; SELECT 2", "several statements"),
    ("DELETE FROM flights", "only SELECT"),
    ("INSERT INTO flights VALUES (1)", "only SELECT"),
    ("CREATE TABLE x (a)", "only SELECT"),
    ("EXPLAIN SELECT 1", "only SELECT"),
    ("SELECT FROM WHERE", "parsed"),
    ("SELECT (((", "parsed"),
    ("SELECT '\0'", "NUL"),
    ("WITH d AS (DELETE FROM flights RETURNING *) SELECT * FROM d", "writes"),
    ("SELECT * FROM flights FOR UPDATE", "locks"),
    ("SELECT * FROM flights TABLESAMPLE (10)", "TABLESAMPLE"),
    ("SELECT * FROM nowhere", "no table nowhere"),
    ("SELECT * FROM elsewhere.flights", "no table elsewhere.flights"),
    ("SELECT * FROM temporary", "temporary"),
    ("SELECT * FROM virtual", "virtual"),
    ("SELECT * FROM foreign", "foreign"),
    ("SELECT * FROM system", "system catalogue"),
    ("SELECT * FROM clock", "another answer each time"),
    ("SELECT * FROM circle", "defined by itself"),
    ("SELECT * FROM broken", "parsed"),
    ("SELECT random()", "another answer each time"),
    ("SELECT current_timestamp", "another answer each time"),
    ("SELECT current_date", "another answer each day"),
    ("SELECT unheard_of(id) FROM flights", "unheard_of() is not known"),
    ("SELECT moody(id) FROM flights", "moody() may give another answer"),
    ("SELECT id FROM flights WHERE month = (SELECT max(random()) FROM airlines)", "another answer"),
)
SQLITE = (
    ("SELECT * FROM sqlite_master", "system catalogue"),
    ("SELECT * FROM sqlite_stat1", "system catalogue"),
    ("SELECT * FROM pragma_table_info('flights')", "not known"),
    ("PRAGMA user_version", "only SELECT"),
    ("SELECT date('now')", "without a fixed time"),
    ("SELECT date('NOW', 'localtime')", "without a fixed time"),
    ("SELECT date()", "without a fixed time"),
    ("SELECT strftime('%Y')", "without a fixed time"),
    ("SELECT strftime('%s', coalesce(day, 'now')) FROM flights", "without a fixed time"),
    ('SELECT date("now")', "without a fixed time"),
    ("SELECT unixepoch('subsec')", "without a fixed time"),
    ("SELECT last_insert_rowid()", "depends on the session"),
    ("SELECT changes()", "depends on the session"),
    ("SELECT load_extension('x')", "loads code"),
    ("SELECT id FROM flights WHERE carrier REGEXP 'U'", "not known"),
    ("SELECT id FROM flights WHERE carrier MATCH 'U'", ""),
    ("SELECT id FROM flights WHERE month IN airlines", "name of a table"),
)
POSTGRES = (
    ("SELECT * INTO copy FROM flights", "writes"),
    ("SELECT * FROM pg_class", "system catalogue"),
    ("SELECT * FROM pg_catalog.pg_class", "system catalogue"),
    ("SELECT * FROM information_schema.tables", "system catalogue"),
    ("SELECT * FROM other.public.flights", "another database"),
    ("SELECT now()", "another answer each time"),
    ("SELECT pg_catalog.now()", "another answer each time"),
    ("SELECT clock_timestamp()", "another answer each time"),
    ("SELECT current_user", "depends on who asks"),
    ("SELECT session_user", "depends on who asks"),
    ("SELECT localtimestamp", ""),
    ("SELECT current_setting('app.tenant')", "depends on the session"),
    ("SELECT nextval('s')", "another answer each time"),
    ("SELECT set_config('a', 'b', false)", "changes the session"),
    ("SELECT pg_sleep(1)", "wait"),
    ("SELECT pg_relation_size('flights')", "not known"),
    ("SELECT age(day) FROM flights", "another answer each time"),
    ("SELECT 'now'::timestamp", "current time"),
    ("SELECT CAST('today' AS date)", "current time"),
    ("SELECT DATE 'tomorrow'", "current time"),
    ("SELECT id FROM flights WHERE day > 'yesterday'", "current time"),
    ('SELECT "Lower"(carrier) FROM flights', "not known"),
    ("SELECT mine.lower(carrier) FROM flights", "not known"),
    ('SELECT * FROM "Flights"', "no table Flights"),
    ("SELECT id FROM flights FOR NO KEY UPDATE", "locks"),
    ("TABLE pg_class", ""),  # refused either way; older versions of sqlglot read it as a command
)


@pytest.mark.parametrize(
    ("dialect", "statement", "words"),
    [
        *[(dialect, *case) for dialect in ("sqlite", "postgresql") for case in BOTH],
        *[("sqlite", *case) for case in SQLITE],
        *[("postgresql", *case) for case in POSTGRES],
    ],
)
def test_what_is_refused_says_why(dialect: str, statement: str, words: str) -> None:
    refusal = plan(statement, dialect).refusal
    assert refusal is not None
    assert words in refusal
    assert len(refusal) < 100
    assert plan(statement, dialect).sources == ()


KEPT_BOTH = (
    "SELECT 1",
    "VALUES (1, 2), (3, 4)",
    "SELECT count(*), avg(id), min(carrier) FROM flights GROUP BY month HAVING count(*) > 2",
    "SELECT rank() OVER (PARTITION BY month ORDER BY id DESC) FROM flights",
    "SELECT sum(id) OVER w FROM flights WINDOW w AS (ORDER BY id ROWS 2 PRECEDING)",
    "SELECT CASE WHEN month > 6 THEN 'late' ELSE upper(carrier) END FROM flights",
    "SELECT coalesce(carrier, 'x') || '!' FROM flights WHERE carrier LIKE 'U%' ESCAPE '!'",
    "SELECT CAST(month AS integer) FROM flights ORDER BY 1 LIMIT :n OFFSET 2",
    "SELECT * FROM june JOIN airlines USING (carrier)",
    "SELECT * FROM nested",
    "SELECT pure(id) FROM flights",
    "SELECT id FROM flights UNION ALL SELECT 2 EXCEPT SELECT 3 ORDER BY 1",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n",
    "SELECT id FROM flights AS f WHERE EXISTS (SELECT 1 FROM airlines a WHERE a.carrier = f.carrier)",
    "-- a comment\nSELECT /* another */ id FROM flights;",
)
KEPT_SQLITE = (
    "SELECT strftime('%Y-%m', day), date(day, '+1 day') FROM flights",
    "SELECT date('2013-06-01'), julianday(:day)",
    "SELECT json_each.value FROM flights, json_each(flights.carrier)",
    "SELECT group_concat(carrier, ', '), total(id), iif(id, 1, 2), printf('%d', id) FROM flights",
    "SELECT id FROM flights NOT INDEXED WHERE carrier GLOB 'U*' COLLATE NOCASE",
    'SELECT [id], `month`, "carrier" FROM main.FLIGHTS',
)
KEPT_POSTGRES = (
    "SELECT date_trunc('month', day), extract(year FROM day), to_char(day, 'YYYY') FROM flights",
    "SELECT DISTINCT ON (month) id FROM public.flights ORDER BY month, id",
    "SELECT day + interval '1 day', day::timestamptz AT TIME ZONE 'UTC' FROM flights",
    "SELECT string_agg(carrier, ',' ORDER BY id), array_agg(id) FILTER (WHERE month > 2) FROM flights",
    "SELECT f.id, l.n FROM flights f, LATERAL (SELECT f.month + 1 AS n) l",
    "SELECT g, u FROM generate_series(1, 3) g, unnest(ARRAY[1, 2]) u",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM flights",
    "SELECT month, count(*) FROM flights GROUP BY ROLLUP (month)",
    "SELECT id FROM flights WHERE carrier ILIKE 'u%' AND month = ANY(:months) AND id % 2 = 0",
    "SELECT id FROM flights WHERE carrier = 'as of now and then'",
    "SELECT pg_catalog.lower(carrier), carrier::jsonb -> 'x' ->> 'y' FROM flights",
)


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [
        *[(dialect, one) for dialect in ("sqlite", "postgresql") for one in KEPT_BOTH],
        *[("sqlite", one) for one in KEPT_SQLITE],
        *[("postgresql", one) for one in KEPT_POSTGRES],
    ],
)
def test_what_is_fixed_is_kept(dialect: str, statement: str) -> None:
    assert plan(statement, dialect).refusal is None


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_sources_are_shown_as_a_receipt_shows_them(dialect: str) -> None:
    statement = (
        "SELECT a.name, count(*) FROM flights f JOIN airlines a ON a.carrier = f.carrier"
        " WHERE f.month = :m AND f.id BETWEEN 3 AND 9 AND a.name LIKE 'U%'"
    )
    shown = [str(one) for one in plan(statement, dialect).bind({"m": 6})]
    assert shown == [
        "flights WHERE month = 6 AND id >= 3 AND id <= 9",
        "airlines WHERE name LIKE 'U%'",
    ]


def test_conditions_of_views_and_outside_of_them_meet() -> None:
    (source,) = plan("SELECT id FROM nested WHERE id IN (1, 2)").bind({})
    assert str(source) == "flights WHERE id IN (1, 2) AND carrier = 'UA' AND month = 6"


@pytest.mark.parametrize(
    ("condition", "column", "values"),
    [
        ("month = :m", "month", {6}),
        ("month = '6'", "month", {6}),
        ("month = :m OR month = 7", "month", {6, 7}),
        ("month IN (:m, 7) AND id = 3", "id", {3}),
        ("month = :m AND (id = 3 OR id = 4) AND carrier LIKE 'U%'", "month", {6}),
        ("carrier IS NULL", "carrier", {None}),
        ("month IN (5, :m) AND month IN (:m, 7)", "month", {6}),
        ("(month, carrier) = (:m, 'UA')", "month", {6}),
        ("(:m IS NULL OR month = :m)", "month", {6}),
    ],
)
def test_the_best_equality_is_the_anchor(condition: str, column: str, values: set[object]) -> None:
    (source,) = plan(f"SELECT id FROM flights WHERE {condition}").bind({"m": 6})
    assert source.anchor is not None
    assert (source.anchor.column, set(source.anchor.values)) == (column, values)


@pytest.mark.parametrize(
    "condition",
    [
        "month > 6",
        "month <> 6",
        "NOT month = 6",
        "month = 6 OR id = 3",
        "carrier = 'UA' COLLATE NOCASE",
        "month = :unknown",
        "month IS NOT 6",
    ],
)
def test_what_allows_many_values_is_no_anchor(condition: str) -> None:
    (source,) = plan(f"SELECT id FROM flights WHERE {condition}").bind({})
    assert source.anchor is None


def test_a_view_of_an_attached_database_reads_that_database() -> None:
    tables = [one.table for one in plan("SELECT id FROM attached.june, june").bind({})]
    assert tables == ["attached.flights", "main.flights"]


def test_a_table_read_whole_is_one_source() -> None:
    statement = "SELECT * FROM flights UNION ALL SELECT * FROM flights WHERE month = 6"
    assert [str(one) for one in plan(statement).bind({})] == ["flights"]


def test_identifiers_are_folded_as_the_dialect_folds_them() -> None:
    (source,) = plan('SELECT "ID" FROM "FLIGHTS" WHERE MONTH = 6').bind({})
    assert str(source) == "flights WHERE month = 6"
    (source,) = plan("SELECT ID FROM Flights WHERE MONTH = 6", "postgresql").bind({})
    assert str(source) == "flights WHERE month = 6"
    (source,) = plan('SELECT id FROM flights WHERE "MONTH" = 6', "postgresql").bind({})
    assert str(source) == "flights"


def test_casts_and_escaped_colons_are_not_parameters() -> None:
    (source,) = plan("SELECT id FROM flights WHERE month = :m::int", "postgresql").bind({"m": 6})
    assert str(source) == "flights WHERE month = 6"
    (source,) = plan(r"SELECT id FROM flights WHERE month = :m\:\:int", "postgresql").bind({"m": 6})
    assert str(source) == "flights WHERE month = 6"


def test_a_parameter_that_may_say_now_is_named() -> None:
    assert plan("SELECT date(:day), :other").clock_parameters == ("day",)
    found = plan("SELECT id FROM flights WHERE day > :day", "postgresql")
    assert found.refuses({"day": "today"}) is not None
    assert found.refuses({"day": "2013-06-01"}) is None
    assert plan("SELECT moody(1)").refuses({}) == plan("SELECT moody(1)").refusal


def test_blanks_at_the_end_of_char_n_do_not_count() -> None:
    (source,) = plan("SELECT id FROM flights WHERE code = 'UA'", "postgresql").bind({})
    assert source.touched_by(Change("public.flights", new={"id": 1, "code": "UA "}))
    assert not source.touched_by(Change("public.flights", new={"id": 1, "code": "UAL"}))


def test_order_of_texts_depends_on_the_collation_on_postgresql() -> None:
    (source,) = plan("SELECT id FROM flights WHERE carrier > 'm'", "postgresql").bind({})
    assert source.touched_by(Change("public.flights", new={"id": 1, "carrier": "A"}))


def test_deep_nesting_is_refused_not_an_error() -> None:
    assert plan("SELECT " + "(" * 5000 + "1" + ")" * 5000).refusal is not None
    assert plan("SELECT 1 WHERE " + " AND ".join(["1 = 1"] * 300)).refusal is None


@given(st.text(alphabet="SELECTFROMWHEREflights ()*,'\"=:;.-+0123456789[]`\n", max_size=60))
def test_no_text_raises(text: str) -> None:
    for dialect in ("sqlite", "postgresql", "oracle"):
        analyse(text, Tables(dialect))
        analyse(f"SELECT {text} FROM flights WHERE {text}", Tables(dialect))
