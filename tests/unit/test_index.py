"""The index finds what testing every source one by one would find, at a cost of its own."""

from __future__ import annotations

import time
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everfresh.kernel.change import Change
from everfresh.kernel.index import ChangeIndex
from everfresh.kernel.interval import Interval, IntervalTree
from everfresh.kernel.plan import Anchor, Source, TableSource
from everfresh.kernel.schema import Column, Table
from everfresh.kernel.sqltext import analyse

COLUMNS = (Column("id", "INTEGER"), Column("x", "INTEGER"), Column("t", "TEXT", "NOCASE"))
TABLES = {name: Table(f"main.{name}", columns=COLUMNS) for name in ("a", "b")}


class Schema:
    dialect = "sqlite"

    def table(self, schema: str | None, name: str) -> Table | None:
        return TABLES.get(name)

    def volatile_function(self, name: str) -> bool | None:
        return None


def sources(condition: str, table: str = "a", **parameters: object) -> tuple[Source, ...]:
    plan = analyse(f"SELECT * FROM {table} WHERE {condition}", Schema())
    assert plan.refusal is None
    return plan.bind(parameters)


CONDITIONS = (
    "x = 1", "x = 2", "x IN (2, 3)", "x IS NULL", "x > 1", "x BETWEEN 1 AND 2", "x <= 2 AND t = 'a'",
    "t = 'A'", "t > 'b'", "t > 'é'", "x <> 1", "x = 1 OR t = 'b'", "x = 1 COLLATE NOCASE",
    "abs(x) = 1", "x = 1 AND x = 2", "t BETWEEN 'a' AND 'b' AND x > 2", "x < 'a'", "t >= 2",
)  # fmt: skip
VALUES = st.sampled_from([None, 0, 1, 2, 2.0, 3, "1", "x", "a", "A", "b", "é", "a\0", b"a", 2**70])
IMAGES = st.none() | st.fixed_dictionaries({}, optional={"id": VALUES, "x": VALUES, "t": VALUES})
CHANGES = st.builds(
    Change, st.sampled_from(["main.a", "main.a", "main.b", "main.c", None]), old=IMAGES, new=IMAGES
)


@settings(derandomize=True, max_examples=300)
@given(
    kept=st.lists(st.tuples(st.sampled_from(CONDITIONS), st.sampled_from("ab")), max_size=12),
    discarded=st.sets(st.integers(0, 11)),
    changes=st.lists(CHANGES, max_size=6),
)
def test_the_index_agrees_with_testing_every_source(
    kept: list[tuple[str, str]], discarded: set[int], changes: list[Change]
) -> None:
    index, model = ChangeIndex(), {}
    for number, (condition, table) in enumerate(kept):
        model[number] = sources(condition, table)
        index.add(number, model[number])
    for number in discarded:
        index.discard(number)
        model.pop(number, None)
    assert len(index) == len(model)
    for change in changes:
        wanted = {
            number
            for number, found in model.items()
            if change.table is None or any(source.touched_by(change) for source in found)
        }
        assert index.touched(change) == wanted


def test_an_absent_column_reaches_every_item_anchored_on_it() -> None:
    index = ChangeIndex()
    index.add("one", sources("x = 1"))
    index.add("two", sources("x > 1"))
    assert index.touched(Change("main.a", new={"t": "a"})) == {"one", "two"}


def test_what_has_no_normal_form_reaches_every_item_anchored_on_the_column() -> None:
    index = ChangeIndex()
    index.add("text", sources("t = 'a'"))
    assert index.touched(Change("main.a", new={"id": 1, "x": 1, "t": "a\0"})) == {"text"}
    assert index.touched(Change("main.a", new={"id": 1, "x": 1, "t": "b"})) == set()


def test_the_whole_database_touches_every_item_and_is_touched_by_every_change() -> None:
    index = ChangeIndex()
    index.add("all", [TableSource(None)])
    index.add("nothing", [])
    assert index.touched(Change("main.a", new={"x": 1})) == {"all"}
    assert index.touched(Change(None)) == {"all", "nothing"}
    index.discard("all")
    assert index.touched(Change("main.a")) == set()


def test_one_source_may_belong_to_several_items() -> None:
    index, shared = ChangeIndex(), sources("x = 1")
    index.add("one", shared)
    index.add("two", shared)
    index.discard("one")
    assert index.touched(Change("main.a", new={"x": 1})) == {"two"}
    index.discard("two")
    index.discard("two")
    assert index.touched(Change("main.a")) == set()


def test_an_item_may_be_added_again_with_more_sources() -> None:
    index = ChangeIndex()
    index.add("one", sources("x = 1"))
    index.add("one", sources("x = 2", "b"))
    assert index.touched(Change("main.b", new={"x": 2})) == {"one"}
    assert index.touched(Change("main.a", new={"x": 1})) == {"one"}
    assert len(index) == 1


class Asked:
    """A source that counts how often it is tested."""

    tests = 0
    table = "main.a"

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.band = getattr(inner, "band", None)

    @property
    def anchor(self) -> Anchor | None:
        return self.inner.anchor

    def touched_by(self, change: Change) -> bool:
        Asked.tests += 1
        return self.inner.touched_by(change)

    def normal(self, column: str, value: object) -> object:
        return self.inner.normal(column, value)


@pytest.mark.parametrize("condition", ["x = :n", "x IN (:n, -1)", "x BETWEEN :n AND :n"])
def test_only_what_a_change_may_concern_is_tested(condition: str) -> None:
    index = ChangeIndex()
    for number in range(500):
        index.add(number, [Asked(one) for one in sources(condition, n=number)])
    Asked.tests = 0
    row = {"id": 1, "x": 7, "t": "a"}
    assert index.touched(Change("main.a", old=row, new={**row, "x": 9})) == {7, 9}
    assert Asked.tests <= 4


@pytest.mark.parametrize("condition", ["x = :n", "x BETWEEN :n AND :n"])
def test_a_change_costs_the_same_whatever_it_does_not_touch(condition: str) -> None:
    plan = analyse(f"SELECT * FROM a WHERE {condition}", Schema())
    change = Change("main.a", new={"id": 1, "x": 7, "t": "a"})

    def cost(kept: int) -> float:
        index = ChangeIndex()
        for number in range(kept):
            index.add(number, plan.bind({"n": number}))
        times = []
        for _ in range(50):
            start = time.perf_counter()
            assert index.touched(change) == {7}
            times.append(time.perf_counter() - start)
        return median(times)

    # logarithmic at most; one by one it would be a hundred times more
    assert cost(20_000) < 10 * cost(200) + 1e-4


intervals = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
    lambda ends: Interval((0, ends[0]), (0, ends[1]))
)


@settings(derandomize=True)
@given(st.lists(intervals, max_size=40), st.sets(st.integers(0, 39)), st.integers(-1, 21))
def test_the_tree_finds_the_intervals_that_hold_a_value(
    kept: list[Interval], discarded: set[int], value: int
) -> None:
    tree = IntervalTree()
    for number, interval in enumerate(kept):
        tree.add(number, interval)
    for number in discarded:
        tree.discard(number)
    model = {number: one for number, one in enumerate(kept) if number not in discarded}
    found = list(tree.at((0, value)))
    assert sorted(map(str, found)) == sorted(
        str(n) for n, i in model.items() if i.holds((0, value))
    )
    assert len(tree) == len(model)
    assert set(tree) == set(model)
