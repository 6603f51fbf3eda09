"""Which rows a condition may judge: one test for each sentence of the protocol's section 5."""

from __future__ import annotations

import pytest

from everfresh.kernel.change import Change
from everfresh.kernel.schema import Column, Table
from everfresh.kernel.sqltext import analyse


class FewTables:
    """A schema of two tables and a view; `a` and `b` have x, y and k."""

    def __init__(self, dialect: str = "sqlite") -> None:
        self.dialect = dialect
        home = "main" if dialect == "sqlite" else "public"
        columns = tuple(Column(name, "INTEGER") for name in ("id", "k", "x", "y"))
        self.tables = {
            "a": Table(f"{home}.a", columns=columns, primary_key=("id",)),
            "b": Table(f"{home}.b", columns=columns, primary_key=("id",)),
            "june": Table(
                f"{home}.june", "view", columns[:2], "SELECT id, k FROM b WHERE x = 6"
            ),
            "latest": Table(
                f"{home}.latest", "view", columns[:2], "SELECT id, k FROM b ORDER BY id LIMIT 3"
            ),
        }  # fmt: skip

    def table(self, schema: str | None, name: str) -> Table | None:
        return self.tables.get(name)

    def volatile_function(self, name: str) -> bool | None:
        return None


def row(**columns: object) -> dict[str, object]:
    return {"id": 1, "k": 1, "x": 0, "y": 0, **columns}


def touched(statement: str, change: Change, **parameters: object) -> bool:
    plan = analyse(statement, FewTables())
    assert plan.refusal is None, plan.refusal
    return any(source.touched_by(change) for source in plan.bind(parameters))


def inserted(table: str, **columns: object) -> Change:
    return Change(f"main.{table}", new=row(**columns))


def updated(table: str, old: dict[str, object], new: dict[str, object]) -> Change:
    return Change(f"main.{table}", old=old, new=new)


# the places that judge, with a row of b that fails the condition (x is 0) and one that passes


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM b WHERE x = 5",
        "SELECT count(*) FROM b WHERE x = 5 HAVING count(*) > 3",
        "SELECT * FROM b WHERE x = 5 ORDER BY y LIMIT 3",
        "SELECT DISTINCT y FROM b WHERE x = 5",
        "SELECT rank() OVER (ORDER BY y) FROM b WHERE x = 5",
        "SELECT * FROM a JOIN b ON a.k = b.k AND b.x = 5",
        "SELECT * FROM a JOIN b USING (k) WHERE b.x = 5",
        "SELECT * FROM a, b WHERE b.x = 5 AND a.k = b.k",
        "SELECT * FROM a LEFT JOIN b ON a.k = b.k AND b.x = 5",
        "SELECT * FROM b RIGHT JOIN a ON a.k = b.k AND b.x = 5",
        "SELECT * FROM a LEFT JOIN b ON a.k = b.k WHERE b.x = 5",
        "SELECT * FROM a FULL JOIN b ON a.k = b.k WHERE b.x = 5",
        "SELECT * FROM b LEFT JOIN a ON a.k = b.k WHERE b.x = 5",
        "SELECT * FROM a LEFT JOIN (a AS c JOIN b ON b.x = 5) ON a.k = c.k",
        "SELECT * FROM a WHERE k IN (SELECT k FROM b WHERE x = 5)",
        "SELECT * FROM a WHERE k NOT IN (SELECT k FROM b WHERE x = 5)",
        "SELECT * FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.x = 5)",
        "SELECT k, (SELECT max(y) FROM b WHERE x = 5) FROM a",
        "SELECT * FROM (SELECT k FROM b WHERE x = 5) AS s",
        "SELECT * FROM (SELECT k, x AS z FROM b) AS s WHERE z = 5",
        "WITH s AS (SELECT k, x FROM b WHERE y = 0) SELECT * FROM s WHERE x = 5",
        "SELECT k FROM a UNION SELECT k FROM b WHERE x = 5",
        "SELECT * FROM june WHERE 5 = 5",
        "WITH RECURSIVE s(n) AS (SELECT k FROM b WHERE x = 5 UNION SELECT 1 FROM s) SELECT * FROM s",
    ],
)  # fmt: skip
def test_a_row_that_fails_the_condition_leaves_the_answer_alone(statement: str) -> None:
    assert not touched(statement, inserted("b", x=0))
    passing = 6 if "june" in statement else 5
    assert touched(statement, inserted("b", x=passing))


# the places that do not judge: the row fails every condition that is written, and matters


@pytest.mark.parametrize(
    "statement",
    [
        # ✔ the row of b takes a NULL row out of the answer
        "SELECT * FROM a LEFT JOIN b ON a.k = b.k WHERE b.x IS NULL",
        "SELECT * FROM a LEFT JOIN b ON a.k = b.k WHERE coalesce(b.x, 5) = 5",
        "SELECT * FROM b RIGHT JOIN a ON a.k = b.k WHERE b.x IS NULL",
        "SELECT * FROM b FULL JOIN a ON a.k = b.k WHERE b.x IS NULL",
        "SELECT * FROM a LEFT JOIN b ON a.k = b.k WHERE b.x = 5 OR b.x IS NULL",
        "SELECT * FROM a LEFT JOIN b ON a.k = b.k WHERE NOT (b.x IS NOT NULL AND b.x <> 5)",
        # ON says nothing of the preserved side
        "SELECT * FROM b LEFT JOIN a ON a.k = b.k AND b.x = 5",
        "SELECT * FROM a RIGHT JOIN b ON a.k = b.k AND b.x = 5",
        "SELECT * FROM a FULL JOIN b ON a.k = b.k AND b.x = 5",
        # HAVING and the outside of a block that is not row by row
        "SELECT max(x) FROM b HAVING max(x) = 5",
        "SELECT y, count(*) FROM b GROUP BY y HAVING x = 5",
        "SELECT * FROM (SELECT x FROM b GROUP BY y) AS s WHERE x = 5",
        "SELECT * FROM (SELECT x FROM b HAVING count(*) > 1) AS s WHERE x = 5",
        "SELECT * FROM (SELECT * FROM b ORDER BY y LIMIT 1) AS s WHERE x = 5",
        "SELECT * FROM (SELECT x, rank() OVER (ORDER BY y) AS place FROM b) AS s WHERE x = 5",
        "SELECT * FROM (SELECT max(x) AS x FROM b) AS s WHERE x = 5",
        "SELECT * FROM (SELECT DISTINCT x FROM b) AS s WHERE x = 5",
        "SELECT * FROM (SELECT x FROM b UNION SELECT x FROM a) AS s WHERE x = 5",
        "SELECT * FROM latest WHERE k = 5",
        "WITH RECURSIVE s(n) AS (SELECT x FROM b UNION SELECT n FROM s) SELECT * FROM s WHERE n = 5",
        # ✔ nothing follows from a condition of the outer block for the inner one
        "SELECT * FROM a WHERE x = 5 AND x NOT IN (SELECT x FROM b)",
        "SELECT * FROM a WHERE x = 5 AND NOT EXISTS (SELECT 1 FROM b WHERE b.x = a.x)",
        # correlated conditions count as true, other tables' and unclear names as unknown
        "SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.x = a.y)",
        "SELECT * FROM a JOIN b ON a.k = b.k WHERE a.x = 5",
        "SELECT * FROM a NATURAL JOIN b WHERE x = 5",
        "SELECT * FROM b WHERE x = 5 OR abs(y) = 0",
        "SELECT * FROM b WHERE NOT (x = 5 AND abs(y) = 0)",
    ],
)  # fmt: skip
def test_a_condition_in_another_place_judges_nothing(statement: str) -> None:
    assert touched(statement, inserted("b", x=0))


def test_each_occurrence_has_its_own_condition_and_any_may_be_touched() -> None:
    statement = "SELECT 1 FROM b AS p JOIN b AS q ON p.k = q.k WHERE p.x = 5 AND q.x = 6"
    assert touched(statement, inserted("b", x=5))
    assert touched(statement, inserted("b", x=6))
    assert not touched(statement, inserted("b", x=7))


def test_the_old_row_counts_as_the_new_one_does() -> None:
    statement = "SELECT y FROM b WHERE x = 5"
    assert touched(statement, updated("b", row(x=5), row(x=6)))
    assert touched(statement, updated("b", row(x=6), row(x=5)))
    assert not touched(statement, updated("b", row(x=6), row(x=7)))
    assert touched(statement, Change("main.b", old=row(x=5)))
    assert not touched(statement, Change("main.b", old=row(x=6)))


def test_an_update_of_columns_that_are_not_named_is_passed_over() -> None:
    change = updated("b", row(x=5, y=1), row(x=5, y=2))
    assert not touched("SELECT k FROM b WHERE x = 5", change)
    assert not touched("SELECT count(*) FROM b WHERE x = 5", change)
    assert touched("SELECT y FROM b WHERE x = 5", change)
    assert touched("SELECT k FROM b WHERE x = 5 ORDER BY y", change)
    assert touched("SELECT * FROM b WHERE x = 5", change)
    assert touched("SELECT b.* FROM b WHERE x = 5", change)
    assert touched("SELECT 1 FROM a NATURAL JOIN b", change)
    assert touched("SELECT 1 FROM a JOIN b USING (y)", change)
    assert touched("SELECT a.k FROM a JOIN b ON a.k = b.k GROUP BY b.y", change)
    # an INSERT is passed over by nothing but the condition
    assert touched("SELECT count(*) FROM b WHERE x = 5", inserted("b", x=5))


@pytest.mark.parametrize("name", ["rowid", "oid", "_rowid_", "b.rowid"])
def test_the_place_of_a_row_names_every_column(name: str) -> None:
    change = updated("b", row(y=1), row(y=2))
    assert touched(f"SELECT {name} FROM b", change)


@pytest.mark.parametrize("reference", ["b", "(b).x", "to_json(b)", "ctid", "xmin", "p.b", "p.*"])
def test_a_whole_row_names_every_column(reference: str) -> None:
    table = "b" if "p." not in reference else "b AS p"
    plan = analyse(f"SELECT {reference} FROM {table}", FewTables("postgresql"))
    change = Change("public.b", old=row(y=1), new=row(y=2))
    assert plan.refusal is None
    assert any(source.touched_by(change) for source in plan.bind({}))


@pytest.mark.parametrize(
    ("old", "new"), [(1, 1.0), (1, True), (0.0, -0.0), ("a", "A"), (None, 0), (b"1", "1")]
)
def test_a_value_is_the_same_only_if_it_reads_the_same(old: object, new: object) -> None:
    assert touched("SELECT y FROM b", updated("b", row(y=old), row(y=new)))
    assert not touched("SELECT y FROM b", updated("b", row(y=old), row(y=old)))


def test_a_column_absent_from_an_image_is_unknown_not_null() -> None:
    assert touched("SELECT k FROM b WHERE x = 5", Change("main.b", new={"id": 1, "k": 1}))
    assert not touched("SELECT k FROM b WHERE x = 5", inserted("b", x=None))
    old, new = row(), row()
    del old["y"], new["y"]
    assert touched("SELECT y FROM b", updated("b", old, new))


def test_whole_tables_and_the_whole_database_touch_whatever_the_condition() -> None:
    statement = "SELECT k FROM b WHERE x = 5"
    assert touched(statement, Change("main.b"))
    assert touched(statement, Change(None))
    assert not touched(statement, Change("main.a"))
    assert not touched(statement, Change("main.a", new=row(x=5)))


def test_not_of_unknown_is_unknown() -> None:
    for condition in ("NOT (abs(x) = 5)", "NOT (NOT (x = abs(y)))", "(abs(x) = 5) IS NOT TRUE"):
        assert touched(f"SELECT k FROM b WHERE {condition}", inserted("b")), condition


@pytest.mark.parametrize(
    ("condition", "passing", "failing"),
    [
        ("x = 6.0", [6, 6.0, "6"], [5, "x", None]),
        ("x <> 5", [6, "x"], [5, 5.0, None]),
        ("x IN (1, NULL)", [1], [2, None]),
        ("x NOT IN (1, NULL)", [], [1, 2, None]),
        ("x BETWEEN 2 AND :five", [2, 5, 3.5], [1, 6, "a", None]),
        ("x NOT BETWEEN 2 AND :five", [1, 6, "a"], [2, 5, None]),
        ("x IS NULL", [None], [0, ""]),
        ("x IS NOT NULL", [0], [None]),
        ("x IS NOT DISTINCT FROM :nothing", [None], [0]),
        ("x IS DISTINCT FROM 5", [None, 4], [5]),
        ("x LIKE '5%'", [5, 50, "5x"], [4, "x", None]),
        ("x > y", [1], [0, -1, None]),
        ("x", [1, 2.5], [0, None]),
        ("NOT x", [0], [1, None]),
        ("(x = 5) IS NOT TRUE", [4, None], [5]),
        ("(:nothing IS NULL OR x = :nothing)", [1, 2], []),
        ("(:five IS NULL OR x = :five)", [5], [6, None]),
        ("(x = 1 OR x = 2) AND NOT x = 2", [1], [2, 3]),
        ("(x, y) = (5, 0)", [5], [6]),
        ("5 <= x AND 8 > x", [5, 7], [4, 8]),
        ("x = CAST(:five AS INTEGER)", [5], [6]),
        ("x = -:five", [-5], [5]),
        ("FALSE OR x = 5", [5], [6]),
    ],
)
def test_conditions_are_judged_exactly(
    condition: str, passing: list[object], failing: list[object]
) -> None:
    statement = f"SELECT k FROM b WHERE {condition}"
    for value in passing:
        assert touched(statement, inserted("b", x=value), five=5, nothing=None), value
    for value in failing:
        assert not touched(statement, inserted("b", x=value), five=5, nothing=None), value


@pytest.mark.parametrize("condition", ["+x = '5'", "x = :given", "abs(x) = 5", "x = (SELECT 5)"])
def test_what_is_not_understood_is_unknown(condition: str) -> None:
    statement = f"SELECT k FROM b WHERE {condition}"
    assert touched(statement, inserted("b", x=0), given=object())


def test_a_view_or_cte_of_the_same_name_is_resolved_in_its_scope() -> None:
    shadowing = "WITH b AS (SELECT * FROM a WHERE x = 5) SELECT k FROM b WHERE y = 0"
    assert not touched(shadowing, inserted("b", x=5))
    assert touched(shadowing, inserted("a", x=5))
    assert not touched(shadowing, inserted("a", x=4))
    inner = "SELECT (WITH b AS (SELECT 1 AS k) SELECT k FROM b), y FROM b WHERE x = 5"
    assert touched(inner, inserted("b", x=5))
