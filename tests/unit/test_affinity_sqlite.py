"""Comparisons are SQLite's: every verdict is checked against SQLite itself."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator

import pytest

from everfresh.kernel.affinity import ANY
from everfresh.kernel.affinity_sqlite import affinity, column_domain, literal_number
from everfresh.kernel.predicate import FALSE, NULL, TRUE, Parameter
from everfresh.kernel.predicate_columns import Compared, Operator
from everfresh.kernel.schema import Column

TYPES = ("INTEGER", "REAL", "TEXT", "VARCHAR(3)", "", "BLOB", "NUMERIC", "BOOLEAN", "DATE")
COLLATIONS = (None, "NOCASE", "RTRIM")
VALUES: tuple[object, ...] = (
    None, 0, 1, 6, -6, 6.0, 6.5, -0.0, 0.0, 1e300, float("inf"), float("-inf"), 2**53, 2**53 + 1,
    float(2**53), 2**63 - 1, -(2**63), "", "6", " 6", "6 ", "\t6\n", "+6", "-6", "6.0", "6.", ".5",
    "0.5", "6e0", "60e-1", "0x6", "6x", "1e999", "1e-999", "123456789012345678901",
    "9007199254740993", "9007199254740993.0", "0.1", "inf", "nan", "a", "A", "a ", "A  ", "ab", "B",
    "_", "[", "é", "É", "z", "\ud7ff", "\ue000", "\U00010000", "a\0b", "a\0c", b"", b"6", b"a",
)  # fmt: skip
OPERATORS: tuple[Operator, ...] = ("=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT")
MASKS = {None: NULL, 0: FALSE, 1: TRUE}


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as one:
        yield one
    one.close()


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("type_", TYPES)
def test_every_verdict_is_sqlites(
    connection: sqlite3.Connection, type_: str, collation: str | None
) -> None:
    suffix = f"COLLATE {collation}" if collation else ""
    connection.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {type_} {suffix})")
    connection.executemany("INSERT INTO t (v) VALUES (?)", [(value,) for value in VALUES])
    domain = column_domain(Column("v", type_, collation))
    assert domain is not None
    compared = ", ".join(f"v {operator} :p" for operator in OPERATORS)
    judged = 0
    for operand in VALUES:
        tests = [
            Compared(operator, "v", domain, Parameter("p")).bind({"p": operand})
            for operator in OPERATORS
        ]
        for stored, *truths in connection.execute(f"SELECT v, {compared} FROM t", {"p": operand}):
            for operator, test, truth in zip(OPERATORS, tests, truths, strict=True):
                verdict = test.test({"v": stored})
                assert verdict & MASKS[truth], (stored, operator, operand)
                judged += verdict in (TRUE, FALSE, NULL)
    # most comparisons are told exactly, even of values chosen to be hard
    assert judged > 0.7 * len(VALUES) ** 2 * len(OPERATORS)


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("type_", TYPES)
def test_normal_forms_are_equal_exactly_where_sqlite_says_so(
    connection: sqlite3.Connection, type_: str, collation: str | None
) -> None:
    suffix = f"COLLATE {collation}" if collation else ""
    connection.execute(f"CREATE TABLE t (v {type_} {suffix})")
    connection.executemany("INSERT INTO t (v) VALUES (?)", [(value,) for value in VALUES])
    domain = column_domain(Column("v", type_, collation))
    assert domain is not None
    pairs = connection.execute("SELECT a.v, b.v, a.v IS b.v FROM t a, t b").fetchall()
    for left, right, same in pairs:
        one, other = domain.normal(left), domain.normal(right)
        if ANY not in (one, other):
            assert (one == other) is bool(same), (left, right)
            assert one != other or hash(one) == hash(other)


def test_affinity_follows_the_declared_type() -> None:
    declared = {"POINT": "NUMERIC", "FLOATING POINT": "NUMERIC", "CHARINT": "NUMERIC"}
    declared |= {"NCHAR(5)": "TEXT", "CLOB": "TEXT", "BLOB": "NONE", "DECIMAL(5)": "NUMERIC"}
    assert {name: affinity(name) for name in declared} == declared
    assert affinity("ANY") is None
    assert column_domain(Column("v", "ANY")) is None
    assert column_domain(Column("v", "TEXT", "MY_OWN")) is None


@pytest.mark.parametrize(
    "text", [*map("".join, itertools.product(("", "-"), ("5", "5.5", ".5", "5.e3", "1e22", "x")))]
)
def test_texts_become_the_numbers_that_sqlite_makes_of_them(
    connection: sqlite3.Connection, text: str
) -> None:
    connection.execute("CREATE TABLE n (v NUMERIC)")
    connection.execute("INSERT INTO n VALUES (?)", (text,))
    (stored,) = connection.execute("SELECT v FROM n").fetchone()
    number = literal_number(text)
    assert stored == (text if number is None else number)
    assert number is not ANY


def test_parameters_of_other_types_are_not_judged() -> None:
    domain = column_domain(Column("v", "TEXT"))
    assert domain is not None
    for value in (object(), 2**64, 6.5, [1], {"a": 1}):
        assert domain.operand(value) is ANY
