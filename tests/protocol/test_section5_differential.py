"""Random statements against random changes on a real SQLite: a changed answer must be touched.

The direct answer before and after a change is the oracle. A change that alters an answer but
touches none of its sources would be served stale for ever: there may be none, in thousands.
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from everfresh.connect.describe import describe_with
from everfresh.kernel.change import Change
from everfresh.kernel.index import ChangeIndex
from everfresh.kernel.sqltext import analyse

SCHEMA = """
CREATE TABLE a (id INTEGER PRIMARY KEY, n INTEGER, t TEXT, r REAL, c TEXT COLLATE NOCASE, x,
                q NUMERIC);
CREATE TABLE b (id INTEGER PRIMARY KEY, k INTEGER, n NUMERIC, t VARCHAR(9) COLLATE RTRIM,
                f BOOLEAN);
CREATE TABLE d (k, t TEXT);
CREATE VIEW va AS SELECT id, n AS m, t, c AS cc FROM a WHERE n > 0;
CREATE VIEW vb (id, m, tt, cc) AS SELECT b.id, b.n, b.t, a.c FROM b LEFT JOIN a ON a.id = b.k;
CREATE VIEW vg AS SELECT n AS id, count(*) AS m, max(t) AS t, 0 AS cc FROM a GROUP BY n;
CREATE VIEW vu AS SELECT id, n AS m FROM a WHERE n = 1 UNION SELECT id, n FROM b WHERE k = 2;
"""
COLUMNS = {
    "a": ("id", "n", "t", "r", "c", "x", "q"),
    "b": ("id", "k", "n", "t", "f"),
    "d": ("k", "t"),
    "va": ("id", "m", "t", "cc"),
    "vb": ("id", "m", "tt", "cc"),
    "vg": ("id", "m", "t", "cc"),
    "vu": ("id", "m"),
}
VALUES: tuple[object, ...] = (
    None, None, 0, 1, 1, 2, 2, 3, -1, 1.0, 2.5, 0.0, -0.0, "1", "2", "2.0", " 2", "2 ", "1e0", "0x1",
    "a", "A", "a ", "ab", "AB", "Ab ", "b", "", "é", "É", b"a", b"1", 2**53 + 1, float(2**53),
    "9007199254740993", 1e300, "x%",
)  # fmt: skip
LITERALS = (
    "NULL", "0", "1", "2", "3", "-1", "1.0", "2.5", "'1'", "'2'", "'2.0'", "' 2'", "'a'", "'A'",
    "'a '", "'ab'", "'b'", "''", "'é'", "x'61'", "TRUE", "FALSE", "9007199254740993", "0x1", "1e0",
)  # fmt: skip


@dataclass
class Writer:
    """Write random statements of a grammar; `parameters` collects what they bind."""

    random: random.Random
    parameters: dict[str, object] = field(default_factory=dict)
    aliases: int = 0

    def one(self, *choices: str) -> str:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def value(self) -> str:
        if self.chance(0.5):
            return self.random.choice(LITERALS)
        name = f"p{len(self.parameters)}"
        self.parameters[name] = self.random.choice(VALUES)
        return f":{name}"

    def alias(self) -> str:
        self.aliases += 1
        return f"z{self.aliases}"

    def column(self, scope: list[tuple[str, str]]) -> str:
        alias, table = self.random.choice(scope)
        name = self.random.choice(COLUMNS[table])
        shared = sum(name in COLUMNS[other] for _, other in scope)
        if shared == 1 and self.chance(0.3):
            return name
        return f"{alias}.{name}"

    def side(self, scope: list[tuple[str, str]]) -> str:
        column = self.column(scope)
        kind = self.random.random()
        if kind < 0.04:
            return f"+{column}"
        if kind < 0.08:
            return f"{column} COLLATE {self.one('NOCASE', 'BINARY', 'RTRIM')}"
        if kind < 0.1:
            return f"lower({column})"
        return f"({column})" if kind < 0.13 else column

    def other(self, scope: list[tuple[str, str]]) -> str:
        kind = self.random.random()
        if kind < 0.25:
            return self.side(scope)
        if kind < 0.29:
            return f"CAST({self.value()} AS {self.one('INTEGER', 'TEXT')})"
        return f"- {self.value()}" if kind < 0.31 else self.value()

    def condition(self, scope: list[tuple[str, str]], depth: int = 2) -> str:
        kind = self.random.random()
        if depth and kind < 0.32:
            word = self.one("AND", "AND", "OR")
            text = f"{self.condition(scope, depth - 1)} {word} {self.condition(scope, depth - 1)}"
            return f"({text})" if self.chance(0.6) else text
        if depth and kind < 0.4:
            return f"NOT ({self.condition(scope, depth - 1)})"
        if depth and kind < 0.5:
            return self.subcondition(scope)
        return self.atom(scope)

    def atom(self, scope: list[tuple[str, str]]) -> str:
        side, negation = self.side(scope), self.one("", "", "NOT ")
        operator = self.one("=", "=", "=", "==", "<>", "!=", "<", "<=", ">", ">=", "IS", "IS NOT")
        return self.one(
            f"{side} {operator} {self.other(scope)}",
            f"{side} {operator} {self.other(scope)}",
            f"{self.other(scope)} {operator} {side}",
            f"{side} {negation}IN ({self.value()}, {self.value()}, {self.other(scope)})",
            f"{side} {negation}IN ({self.value()})",
            f"{side} {negation}BETWEEN {self.value()} AND {self.other(scope)}",
            f"{side} IS {negation}NULL",
            f"{side} {self.one('ISNULL', 'NOTNULL')}",
            f"({side} = {self.value()}) IS {negation}{self.one('TRUE', 'FALSE', 'NULL')}",
            f"{side} IS {negation}DISTINCT FROM {self.other(scope)}",
            f"{side} {negation}LIKE {self.one(*PATTERNS)}",
            f"{side} {negation}LIKE 'a!%%' ESCAPE '!'",
            f"{side} {negation}GLOB {self.one(*GLOBS)}",
            f"{negation}{side}",
            f"({side}, {self.side(scope)}) = ({self.value()}, {self.value()})",
            f"({self.value()} IS NULL OR {side} = {self.value()})",
            f"length({side}) {operator} {self.value()}",
        )

    def subcondition(self, scope: list[tuple[str, str]]) -> str:
        negation = self.one("", "NOT ")
        alias, table = self.alias(), self.random.choice(tuple(COLUMNS))
        inner = [(alias, table)]
        outer = inner + scope if self.chance(0.5) else inner
        where = self.condition(outer, 1)
        column = f"{alias}.{self.random.choice(COLUMNS[table])}"
        query = f"SELECT {column} FROM {table} AS {alias} WHERE {where}"
        return self.one(
            f"{self.side(scope)} {negation}IN ({query})",
            f"{negation}EXISTS ({query})",
            f"{negation}EXISTS (SELECT * FROM {table} {alias} WHERE {where})",
            f"{self.side(scope)} {self.one('=', '<', '<>')} (SELECT max({column}) FROM {table} AS"
            f" {alias} WHERE {where})",
            f"{self.side(scope)} IN (SELECT 1 UNION {query})",
            f"{self.side(scope)} IN ({query} ORDER BY 1 LIMIT 1)",
        )

    def source(self, depth: int) -> tuple[str, list[tuple[str, str]]]:
        """Return an entry of FROM and what it brings into scope."""
        alias, kind = self.alias(), self.random.random()
        table = self.random.choice(("a", "a", "a", "b", "b", "d", "va", "vb", "vg", "vu"))
        if depth and kind < 0.16:
            inner, scope = self.source(0), alias
            names = COLUMNS[inner[1][0][1]]
            where = self.condition(inner[1], 1)
            extra = self.one("", "", "", " LIMIT 2", " GROUP BY 1", "DISTINCT")
            distinct, extra = ("DISTINCT ", "") if extra == "DISTINCT" else ("", extra)
            order = f" ORDER BY {', '.join(str(i + 1) for i in range(len(names)))}"
            if extra == " GROUP BY 1":
                columns = ", ".join([names[0], *(f"max({n}) AS {n}" for n in names[1:])])
                order = ""
            else:
                columns = self.one("*", ", ".join(names))
            query = f"SELECT {distinct}{columns} FROM {inner[0]} WHERE {where}"
            limited = order + extra if extra == " LIMIT 2" else extra
            return f"({query}{limited}) AS {scope}", [(scope, inner[1][0][1])]
        if depth and kind < 0.24:
            left, right = self.source(0), self.source(0)
            both = left[1] + right[1]
            join = self.one("JOIN", "LEFT JOIN")
            return f"({left[0]} {join} {right[0]} ON {self.condition(both, 1)})", both
        return f"{table} AS {alias}", [(alias, table)]

    def relation(self) -> tuple[str, list[tuple[str, str]]]:
        text, scope = self.source(1)
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2))):
            right, more = self.source(1)
            join = self.one(
                "JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", ","
            )
            both = scope + more
            shared = [
                name for name in COLUMNS[more[0][1]]
                if len(scope) == 1 and len(more) == 1 and name in COLUMNS[scope[0][1]]
            ]  # fmt: skip
            if join == ",":
                text = f"{text}, {right}"
            elif shared and self.chance(0.25):
                text = f"{text} {join} {right} USING ({self.random.choice(shared)})"
            elif shared and self.chance(0.1):
                text = f"{text} NATURAL {join} {right}"
            else:
                text = f"{text} {join} {right} ON {self.condition(both, 1)}"
            scope = both
        return text, scope

    def select(self, width: int | None = None) -> str:
        relation, scope = self.relation()
        where = f" WHERE {self.condition(scope)}" if self.chance(0.85) else ""
        columns = [self.column(scope) for _ in range(width or self.random.choice((1, 2, 3)))]
        kind = self.random.random()
        if kind < 0.12 and width is None:
            return f"SELECT * FROM {relation}{where}"
        if kind < 0.3:
            having = self.one("", "", " HAVING count(*) > 1", f" HAVING max({columns[0]}) = 2")
            counted = self.one(
                "count(*)", f"count({self.column(scope)})", f"max({self.column(scope)})"
            )
            rest = [f"min({one})" for one in columns[2:]]
            if width == 1:
                return f"SELECT {counted} FROM {relation}{where}"
            listed = ", ".join([columns[0], counted, *rest][: width or 9])
            return f"SELECT {listed} FROM {relation}{where} GROUP BY {columns[0]}{having}"
        if kind < 0.4:
            columns[-1] = self.one(
                f"count(*) OVER (PARTITION BY {columns[0]})",
                f"rank() OVER (ORDER BY {columns[0]})",
                f"max({columns[0]}) OVER ()",
            )
        if kind < 0.45:
            columns[-1] = (
                f"(SELECT count(*) FROM d WHERE {self.condition([('d', 'd'), *scope], 1)})"
            )
        distinct = "DISTINCT " if self.chance(0.1) else ""
        return f"SELECT {distinct}{', '.join(columns)} FROM {relation}{where}"

    def statement(self) -> str:
        kind = self.random.random()
        if kind < 0.12:
            width = self.random.choice((1, 2))
            word = self.one("UNION", "UNION ALL", "EXCEPT", "INTERSECT")
            return f"{self.select(width)} {word} {self.select(width)}"
        text = self.select()
        if kind < 0.22:
            alias = self.alias()
            body = f"SELECT id, n AS m, t, c AS cc FROM a AS {alias} WHERE "
            body += self.condition([(alias, "a")], 1)
            # mentions of a view become mentions of the CTE, perhaps of the view's own name
            name = self.one("cte", "cte", "va")
            text = re.sub(r"\bva\b", name, text)
            text = f"WITH {name} AS ({body}), vacant AS (SELECT 1) {text}"
        return text


PATTERNS = ("'a%'", "'A%'", "'_b'", "'%b'", "'é%'", "'2%'", "''", "NULL", "'x!%'", "'a'")
GLOBS = ("'a*'", "'[a-b]'", "'?'", "'1*'")


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def fill(connection: sqlite3.Connection, source: random.Random) -> None:
    for table in ("a", "b", "d"):
        connection.execute(f"DELETE FROM {table}")
        for number in range(source.randint(2, 5)):
            row = [source.choice(VALUES) for _ in COLUMNS[table]]
            if table != "d":
                row[0] = number
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)


def change_one(connection: sqlite3.Connection, source: random.Random) -> Change | None:
    """Insert, update or delete one row; return the change with what SQLite stored."""
    table = source.choice(("a", "a", "b", "d"))
    rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
    kind = source.choice(("insert", "update", "update", "delete"))
    if kind == "insert" or not rows:
        row = [source.choice(VALUES) for _ in COLUMNS[table]]
        if table != "d":
            row[0] = source.randint(6, 9)
        marks = ", ".join("?" * len(row))
        rowid = connection.execute(f"INSERT INTO {table} VALUES ({marks})", row).lastrowid
        return Change(f"main.{table}", new=image(connection, table, rowid))
    rowid = source.choice(rows)
    old = image(connection, table, rowid)
    if kind == "delete":
        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        return Change(f"main.{table}", old=old)
    changed = source.sample(COLUMNS[table], source.choice((1, 1, 2)))
    for column in changed:
        new = source.randint(0, 9) if column == "id" else source.choice(VALUES)
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, rowid))
        except sqlite3.IntegrityError:
            return None
        rowid = new if column == "id" else rowid
    return Change(f"main.{table}", old=old, new=image(connection, table, rowid))


def image(connection: sqlite3.Connection, table: str, rowid: object) -> dict[str, object]:
    cursor = connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (rowid,))
    return dict(zip(COLUMNS[table], cursor.fetchone(), strict=True))


def answer(connection: sqlite3.Connection, text: str, parameters: dict[str, object]) -> list[str]:
    """Return the rows as a multiset; which of equal values DISTINCT shows is SQLite's choice."""
    rows = connection.execute(text, parameters).fetchall()
    return sorted(repr(tuple(map(comparable, row))) for row in rows)


def limited(database: sqlite3.Connection, text: str, writer: Writer) -> str:
    """Cut some statements short, in an order that leaves the database no choice."""
    if writer.chance(0.85):
        return text
    width = len(database.execute(text, writer.parameters).description)
    order = ", ".join(str(place + 1) for place in range(width))
    return f"{text} ORDER BY {order} LIMIT {writer.one('1', '2')}"


def comparable(value: object) -> object:
    if isinstance(value, str):
        return value.lower().rstrip(" ")
    if isinstance(value, (int, float)):
        return value + 0.0 if abs(value) < 2**53 else value + 0
    return value


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5000 if os.environ.get("EVERFRESH_SOAK") else 8))
def test_a_changed_answer_is_always_touched(database: sqlite3.Connection, seed: int) -> None:
    source = random.Random(seed)
    schema = describe_with("sqlite", lambda text: database.execute(text).fetchall())
    changed_cases = kept = analysed = 0
    for _ in range(130):
        fill(database, source)
        writer = Writer(source)
        text = writer.statement()
        try:
            text = limited(database, text, writer)
            before = answer(database, text, writer.parameters)
        except sqlite3.Error:
            continue  # ambiguous names, mostly
        plan = analyse(text, schema)
        assert plan.refusal is None, (text, plan.refusal)
        sources = plan.bind(writer.parameters)
        index = ChangeIndex()
        index.add("it", sources)
        analysed += 1
        for _ in range(8):
            database.execute("BEGIN")
            change = change_one(database, source)
            after = answer(database, text, writer.parameters)
            database.execute("ROLLBACK")
            if change is None:
                continue
            touched = any(one.touched_by(change) for one in sources)
            assert bool(index.touched(change)) is touched, (text, writer.parameters, change)
            changed_cases += after != before
            kept += not touched
            if after != before:
                shown = [str(one) for one in sources]
                assert touched, (text, writer.parameters, change, shown, before, after)
    # the test would prove nothing if statements failed, nothing changed or all was touched
    assert analysed > 60
    assert changed_cases > 30
    assert kept > 60
