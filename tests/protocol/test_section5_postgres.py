"""Random statements against random changes on a real PostgreSQL: a changed answer must be touched.

The grammar is small and typed, since PostgreSQL refuses what SQLite coerces; what matters here
are the types, whose comparisons follow other rules than Python's.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.engine import make_url

from everfresh.connect.describe import describe_with
from everfresh.kernel.change import Change
from everfresh.kernel.sqltext import analyse

SCHEMA = """
CREATE TABLE a (id int PRIMARY KEY, n bigint, q numeric, f float8, g real, t text, c char(3),
                b boolean, d date, ts timestamp, tz timestamptz, u uuid, k text COLLATE "C");
CREATE TABLE e (id int PRIMARY KEY, n smallint, t varchar(9), d date);
CREATE VIEW v AS SELECT id, n, t, d FROM a WHERE b;
"""
NUMBERS: tuple[object, ...] = (0, 1, 2, 1.0, 1.5, 0.1, Decimal("1.50"), Decimal("0.1"), 2**53)
TEXTS: tuple[object, ...] = ("a", "b", "ab", "a ", "A", "é", "", "ab ")
DATES: tuple[object, ...] = (date(2013, 6, 1), date(2013, 6, 2))
TIMES: tuple[object, ...] = (*DATES, datetime(2013, 6, 1), datetime(2013, 6, 1, 12))
AWARE: tuple[object, ...] = (datetime(2013, 6, 1, tzinfo=UTC), datetime(2013, 6, 1, 12, tzinfo=UTC))
FLOATS = (*NUMBERS, float("nan"), float("inf"), -0.0)
POOLS: dict[str, dict[str, tuple[object, ...]]] = {
    "a": {
        "id": (1, 2, 3), "n": (0, 1, 2, 2**53, 2**53 + 1), "q": (*NUMBERS, Decimal("NaN")),
        "f": FLOATS, "g": FLOATS, "t": TEXTS, "c": ("a", "b", "ab", "A"), "b": (True, False),
        "d": DATES, "ts": TIMES, "tz": AWARE, "u": (UUID(int=1), UUID(int=2)), "k": TEXTS,
    },
    "e": {"id": (1, 2, 3), "n": (0, 1, 2), "t": TEXTS, "d": DATES},
    "v": {"id": (1, 2, 3), "n": (0, 1, 2), "t": TEXTS, "d": DATES},
}  # fmt: skip
OPERANDS = {**POOLS["a"], "n": (*NUMBERS, "1"), "c": TEXTS, "d": TIMES, "ts": TIMES}
OPERANDS |= {"tz": (*AWARE, *TIMES), "u": (UUID(int=1), str(UUID(int=2))), "id": (1, 2.0, "2")}


@dataclass
class Writer:
    """Write random statements; `parameters` collects what they bind."""

    random: random.Random
    parameters: dict[str, object] = field(default_factory=dict)

    def value(self, column: str) -> str:
        value = None if self.random.random() < 0.06 else self.random.choice(OPERANDS[column])
        if type(value) in (int, Decimal, str) and self.random.random() < 0.4:
            return f"'{value}'" if isinstance(value, str) else str(value)
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f":{name}"

    def condition(self, alias: str, table: str, depth: int = 2) -> str:
        kind = self.random.random()
        if depth and kind < 0.4:
            left, right = (self.condition(alias, table, depth - 1) for _ in range(2))
            return f"({left} {self.random.choice(('AND', 'AND', 'OR'))} {right})"
        if depth and kind < 0.5:
            return f"NOT {self.condition(alias, table, depth - 1)}"
        if depth and kind < 0.6:
            inner = self.condition("s", "e", depth - 1)
            word = self.random.choice(("IN", "NOT IN"))
            return f"{alias}.id {word} (SELECT s.n FROM e AS s WHERE {inner})"
        return self.atom(alias, table)

    def atom(self, alias: str, table: str) -> str:
        name = self.random.choice(tuple(POOLS[table]))
        column, values = f"{alias}.{name}", [self.value(name) for _ in range(3)]
        operator = self.random.choice(("=", "=", "<>", "<", "<=", ">", ">="))
        negation = self.random.choice(("", "NOT "))
        choices = [
            f"{column} {operator} {values[0]}",
            f"{values[0]} {operator} {column}",
            f"{column} {negation}IN ({', '.join(values)})",
            f"{column} {negation}BETWEEN {values[0]} AND {values[1]}",
            f"{column} IS {negation}NULL",
            f"{column} IS {negation}DISTINCT FROM {values[0]}",
            f"({column} = {values[0]}) IS {negation}TRUE",
        ]
        if name in ("t", "c", "k"):
            choices += [f"{column} {negation}LIKE 'a%'", f"{column} LIKE '_b'"]
        if name == "b":
            choices += [column, f"NOT {column}", f"{column} IS UNKNOWN"]
        if table == "a":
            choices += [f"{alias}.q {operator} {alias}.n", f"{alias}.ts {operator} {alias}.d"]
            choices += [f"{alias}.t {operator} {alias}.c", f"{alias}.f {operator} {alias}.g"]
        return self.random.choice(choices)

    def statement(self) -> str:
        first, second = self.random.choice(("a", "a", "v", "e")), self.random.choice(("a", "e"))
        where = self.condition("x", first)
        columns = ", ".join(f"x.{name}" for name in self.random.sample(tuple(POOLS[first]), 2))
        join = self.random.choice(("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"))
        on = "x.id = y.id"
        if join != "FULL JOIN":  # which PostgreSQL does for equality alone
            on += f" AND {self.condition('y', second, 1)}"
        inner = f"SELECT x.id, x.n FROM {first} AS x WHERE {where}"
        nested = self.condition("y", second, 1)
        lateral = f"SELECT y.n FROM {second} AS y WHERE y.n = x.n AND {nested}"
        return self.random.choice(
            (
                f"SELECT {columns} FROM {first} AS x WHERE {where}",
                f"SELECT count(*) FROM {first} AS x WHERE {where}",
                f"SELECT x.id, y.n FROM {first} AS x {join} {second} AS y ON {on} WHERE {where}",
                f"SELECT s.id FROM ({inner}) AS s WHERE s.n = {self.value('n')}",
                f"WITH w AS (SELECT x.* FROM {first} AS x WHERE {where}) SELECT count(*) FROM w",
                f"SELECT x.id FROM {first} AS x WHERE {where} UNION SELECT id FROM e WHERE n = 1",
                f"SELECT x.id, l.n FROM {first} AS x, LATERAL ({lateral}) AS l",
            )
        )  # fmt: skip


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    url = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as one:
        one.execute("DROP TABLE IF EXISTS a, e CASCADE")
        one.execute(SCHEMA)
        yield one


def answer(connection: psycopg.Connection, text: str, parameters: dict[str, object]) -> list[str]:
    text = re.sub(r":(p\d+)", r"%(\1)s", text.replace("%", "%%"))
    return sorted(map(repr, connection.execute(text, parameters).fetchall()))


def random_row(source: random.Random, table: str, key: int) -> list[object]:
    values = [
        None if source.random() < 0.1 else source.choice(pool) for pool in POOLS[table].values()
    ]
    return [key, *values[1:]]


def image(connection: psycopg.Connection, table: str, key: int) -> dict[str, object]:
    row = connection.execute(f"SELECT * FROM {table} WHERE id = %s", (key,)).fetchone()
    assert row is not None
    return dict(zip(POOLS[table], row, strict=True))


def insert(connection: psycopg.Connection, table: str, row: list[object]) -> None:
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", row)


def change_one(connection: psycopg.Connection, source: random.Random) -> Change:
    """Insert, update or delete one row; return the change with what PostgreSQL stored."""
    table, key = source.choice(("a", "a", "e")), source.randint(1, 3)
    kind = source.choice(("insert", "update", "update", "delete"))
    if kind == "insert":
        insert(connection, table, random_row(source, table, 4))
        return Change(f"public.{table}", new=image(connection, table, 4))
    old = image(connection, table, key)
    if kind == "delete":
        connection.execute(f"DELETE FROM {table} WHERE id = %s", (key,))
        return Change(f"public.{table}", old=old)
    column = source.choice(tuple(POOLS[table])[1:])
    value = source.choice((None, *POOLS[table][column]))
    connection.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", (value, key))
    return Change(f"public.{table}", old=old, new=image(connection, table, key))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5000 if os.environ.get("EVERFRESH_SOAK") else 4))
def test_a_changed_answer_is_always_touched(connection: psycopg.Connection, seed: int) -> None:
    source = random.Random(seed)
    schema = describe_with("postgresql", lambda text: connection.execute(text).fetchall())
    changed_cases = kept = analysed = 0
    for _ in range(120):
        connection.execute("TRUNCATE a, e")
        for table in ("a", "e"):
            for key in (1, 2, 3):
                insert(connection, table, random_row(source, table, key))
        writer = Writer(source)
        text = writer.statement()
        try:
            before = answer(connection, text, writer.parameters)
        except psycopg.Error:
            continue  # types that do not compare
        plan = analyse(text, schema)
        assert plan.refusal is None, (text, plan.refusal)
        sources = plan.bind(writer.parameters)
        analysed += 1
        for _ in range(6):
            connection.execute("BEGIN")
            change = change_one(connection, source)
            after = answer(connection, text, writer.parameters)
            connection.execute("ROLLBACK")
            touched = any(one.touched_by(change) for one in sources)
            changed_cases += after != before
            kept += not touched
            if after != before:
                shown = [str(one) for one in sources]
                assert touched, (text, writer.parameters, change, shown, before, after)
    # the test would prove nothing if statements failed, nothing changed or all was touched
    assert analysed > 50
    assert changed_cases > 40
    assert kept > 60
