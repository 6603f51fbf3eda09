"""Comparisons are PostgreSQL's: every verdict is checked against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.engine import make_url

from everfresh.kernel.affinity import ANY
from everfresh.kernel.affinity_postgres import column_domain, pair_domain
from everfresh.kernel.predicate import FALSE, NULL, TRUE, Parameter
from everfresh.kernel.predicate_columns import Compared, Operator
from everfresh.kernel.schema import Column

NUMBERS: tuple[object, ...] = (
    None, 0, 1, -1, 6, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**70, 6.0, 6.5, 0.1, -0.0, 1e30,
    float(2**53), float(2**60), float("inf"), float("-inf"), float("nan"), Decimal(6),
    Decimal("6.50"), Decimal("0.1"), Decimal("0.10000000000000001"), Decimal("NaN"),
    Decimal("Infinity"), Decimal(2**53 + 1), Decimal("1e-20"), "6", " 6", "6.5", "0.1",
)  # fmt: skip
TEXTS: tuple[object, ...] = (None, "", "a", "A", "a ", "a  ", "ab", "b", "é", "t", "6", "Z")
TIMES: tuple[object, ...] = (
    None, date(2013, 6, 1), date(1, 1, 1), datetime(2013, 6, 1), datetime(2013, 6, 1, 12, 30, 0, 5),
    datetime(2013, 6, 1, tzinfo=UTC), datetime(2013, 6, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    "2013-06-01", "2013-06-01 12:30", "2013-06-01 12:30:00.000005", "2013-6-1", "infinity",
)  # fmt: skip
OTHERS: tuple[object, ...] = (
    None, True, False, "t", "true", UUID(int=5), UUID(int=6), str(UUID(int=5)), b"", b"a", b"\xff",
)  # fmt: skip
CASES = {
    "smallint": NUMBERS, "integer": NUMBERS, "bigint": NUMBERS, "numeric": NUMBERS,
    "numeric(10,2)": NUMBERS, "double precision": NUMBERS, "real": NUMBERS,
    "text": TEXTS, "character varying(9)": TEXTS, "character(3)": TEXTS,
    'text COLLATE "C"': TEXTS, "boolean": OTHERS, "uuid": OTHERS, "bytea": OTHERS,
    "date": TIMES, "timestamp without time zone": TIMES, "timestamp with time zone": TIMES,
}  # fmt: skip
OPERATORS: tuple[Operator, ...] = ("=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT")
WORDS = {"IS": "IS NOT DISTINCT FROM", "IS NOT": "IS DISTINCT FROM"}
MASKS = {None: NULL, False: FALSE, True: TRUE}


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    url = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as one:
        one.execute("SET TimeZone = 'Asia/Tokyo'")
        yield one


def stored_values(connection: psycopg.Connection, type_: str) -> list[object]:
    """Fill the table t with all values that the type takes; return what the driver reads."""
    connection.execute("DROP TABLE IF EXISTS t")
    connection.execute(f"CREATE TABLE t (v {type_})")
    for value in CASES[type_]:
        if value == "infinity":
            continue  # the driver has no date for it
        try:
            connection.execute("INSERT INTO t VALUES (%s)", (value,))
        except psycopg.Error:
            continue
    return [value for (value,) in connection.execute("SELECT v FROM t")]


def column(type_: str) -> Column:
    bare, _, collation = type_.partition(" COLLATE ")
    return Column("v", bare, collation.strip('"') or None)


@pytest.mark.parametrize("type_", CASES)
def test_every_verdict_is_postgresqls(connection: psycopg.Connection, type_: str) -> None:
    assert stored_values(connection, type_)
    domain = column_domain(column(type_))
    assert domain is not None
    compared = ", ".join(f"v {WORDS.get(one, one)} %(p)s" for one in OPERATORS)
    judged = asked = 0
    for operand in CASES[type_]:
        tests = [
            Compared(one, "v", domain, Parameter("p")).bind({"p": operand}) for one in OPERATORS
        ]
        try:
            rows = connection.execute(f"SELECT v, {compared} FROM t", {"p": operand}).fetchall()
        except psycopg.Error:
            continue  # the two types do not compare
        for stored, *truths in rows:
            for operator, test, truth in zip(OPERATORS, tests, truths, strict=True):
                verdict = test.test({"v": stored})
                assert verdict & MASKS[truth], (stored, operator, operand)
                judged += verdict in (TRUE, FALSE, NULL)
                asked += 1
    assert judged > 0.2 * asked


@pytest.mark.parametrize("type_", CASES)
def test_normal_forms_are_equal_exactly_where_postgresql_says_so(
    connection: psycopg.Connection, type_: str
) -> None:
    stored_values(connection, type_)
    domain = column_domain(column(type_))
    assert domain is not None
    pairs = connection.execute(
        "SELECT a.v, b.v, a.v IS NOT DISTINCT FROM b.v FROM t a, t b"
    ).fetchall()
    for left, right, same in pairs:
        one, other = domain.normal(left), domain.normal(right)
        if ANY not in (one, other):
            assert (one == other) is same, (left, right)
            assert one != other or hash(one) == hash(other)


def test_types_without_a_known_equality_have_no_domain() -> None:
    for type_ in ("json", "integer[]", '"char"', "citext", "interval", "name", "money", "my.date"):
        assert column_domain(Column("v", type_)) is None, type_
    assert column_domain(Column("v", "text", "my_collation")) is None


def test_columns_of_two_kinds_are_not_compared() -> None:
    integer, text = Column("a", "integer"), Column("b", "text")
    assert pair_domain(integer, text) is None
    assert pair_domain(integer, Column("c", "numeric")) is not None
    assert pair_domain(Column("a", "date"), Column("b", "timestamp")) is None


def test_float4_is_compared_as_the_float4_that_it_is() -> None:
    domain = column_domain(Column("v", "real"))
    assert domain is not None
    assert domain.normal(0.1) == domain.normal(0.10000000149011612)
    assert domain.operand(0.1) is ANY
    assert domain.operand(0.5) == domain.normal(0.5)
