"""Reading a catalogue, its settings and audits, and letting old history go."""

import math

import pytest
import sqlalchemy as sa

from everfresh.catalogue import (
    Impact,
    Listing,
    audits,
    entry,
    forget,
    impact,
    listed,
    record_audit,
    set_setting,
    setting,
    settings,
    totals,
)
from everfresh.catalogue.models import DependencyRow, EntryRow
from everfresh.catalogue.records import upsert
from everfresh.errors import ConfigurationError


def row(key, **values):
    return {
        "key": key, "kind": "sql", "label": f"SELECT {key}", "detail": None, "database": "x",
        "filled_at": 1.0, "cost": 1.0, "bytes": 10, "digest": None, "hits": 2, "fills": 1,
        "state": "fresh", "reason": "", "change": None, "score": 1.0, "deadline": None,
        "origin": "fill", "updated_at": 1.0,
        **values,
    }  # fmt: skip


def fill(catalogue, rows, *dependencies):
    edges = [{"condition": "", "table_name": None, "parent": None, **d} for d in dependencies]
    with catalogue.writing() as connection:
        upsert(connection, EntryRow, rows)
        if edges:
            connection.execute(sa.insert(DependencyRow), edges)


def keys(rows):
    return [found.key for found in rows]


def test_listing_filters_orders_and_limits(catalogue):
    fill(
        catalogue,
        [
            row("a", kind="sql", cost=1.0, bytes=30, score=None, filled_at=3.0, hits=1),
            row("b", kind="cached", cost=3.0, bytes=20, score=2.0, filled_at=1.0, hits=9),
            row("c", kind="sql", cost=2.0, bytes=10, score=-1.0, filled_at=2.0, state="stale"),
        ],
        {"entry": "a", "table_name": "main.flights", "condition": "month = 6"},
        {"entry": "b", "table_name": "main.old_flights"},
    )
    assert keys(listed(catalogue)) == ["b", "c", "a"]  # what has no score comes last
    assert keys(listed(catalogue, Listing(order="cost"))) == ["b", "c", "a"]
    assert keys(listed(catalogue, Listing(order="bytes"))) == ["a", "b", "c"]
    assert keys(listed(catalogue, Listing(order="age"))) == ["b", "c", "a"]
    assert keys(listed(catalogue, Listing(order="hits", limit=1))) == ["b"]
    assert keys(listed(catalogue, Listing(kind="sql", state="fresh"))) == ["a"]
    assert keys(listed(catalogue, Listing(table="main.flights"))) == ["a"]
    assert keys(listed(catalogue, Listing(table="flights"))) == ["a"]
    assert keys(listed(catalogue, Listing(table="other.flights"))) == []
    for wrong in ({"order": "colour"}, {"state": "gone"}):
        with pytest.raises(ConfigurationError, match="unknown"):
            Listing(**wrong)


def test_one_entry_with_what_it_depends_on(catalogue):
    fill(
        catalogue,
        [row("a", label="SELECT 'é'")],
        {"entry": "a", "table_name": "main.flights", "condition": "month = 6"},
        {"entry": "a", "parent": "p"},
    )
    found = entry(catalogue, "a")
    assert found.label == "SELECT 'é'"
    assert [(d.table_name, d.condition, d.parent) for d in found.dependencies] == [
        ("main.flights", "month = 6", None),
        (None, "", "p"),
    ]
    assert entry(catalogue, "absent") is None


def test_impact_goes_through_parents(catalogue):
    fill(
        catalogue,
        [row(key) for key in ("base", "mid", "top", "all", "other")]
        + [row("gone", state="stale"), row("after gone", cost=9.0)],
        {"entry": "base", "table_name": "main.flights"},
        {"entry": "mid", "parent": "base"},
        {"entry": "top", "parent": "mid"},
        {"entry": "top", "table_name": "main.planes"},
        {"entry": "all"},  # the whole database
        {"entry": "other", "table_name": "main.planes"},
        {"entry": "gone", "table_name": "main.flights"},
        {"entry": "after gone", "parent": "gone"},
    )
    found = impact(catalogue, "flights")
    assert [(i.entry.key, i.depth, i.through) for i in found] == [
        ("all", 0, None),
        ("base", 0, None),
        ("after gone", 1, "gone"),
        ("mid", 1, "base"),
        ("top", 2, "mid"),
    ]
    assert all(isinstance(i, Impact) for i in found)
    assert keys(i.entry for i in impact(catalogue, "main.planes")) == ["all", "other", "top"]


def test_impact_ends_where_entries_depend_in_a_circle_and_takes_many(catalogue):
    names = [f"k{n:04}" for n in range(1200)]
    fill(
        catalogue,
        [row(name) for name in names],
        *({"entry": name, "table_name": "main.t"} for name in names),
        {"entry": "k0000", "parent": "k0001"},
        {"entry": "k0001", "parent": "k0000"},
    )
    assert len(impact(catalogue, "t")) == 1200


def test_totals_are_one_statement(catalogue):
    fill(catalogue, [row("a"), row("b", state="stale", cost=3.0, bytes=99), row("c", hits=0)])
    seen = []
    sa.event.listen(catalogue.engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    found = totals(catalogue)
    assert len([text for text in seen if not text.startswith("BEGIN")]) == 1
    assert (found.fresh, found.stale, found.dropped) == (2, 1, 0)
    assert (found.bytes, found.seconds, found.hits, found.fills) == (20, 2.0, 4, 3)
    assert found.seconds_saved == pytest.approx(8.0)


def test_totals_of_nothing(catalogue):
    found = totals(catalogue)
    assert (found.fresh, found.bytes, found.seconds, found.hits, found.seconds_saved) == (
        0,
        0,
        0,
        0,
        0,
    )


def test_history_goes_by_age_and_by_number_and_fresh_entries_stay(catalogue):
    fill(
        catalogue,
        [row("fresh", updated_at=0.0)]
        + [row(f"s{n}", state="stale", updated_at=float(n)) for n in range(10)]
        + [row(f"d{n}", state="dropped", updated_at=float(n)) for n in range(10)],
        *({"entry": f"s{n}", "table_name": "main.t"} for n in range(10)),
    )
    record_audit(catalogue, 5, 0, at=1.0)
    record_audit(catalogue, 5, 0, at=9.0)
    assert forget(catalogue) == 0
    assert forget(catalogue, older_than=5.0, wall=lambda: 10.0) == 10
    assert [a.at for a in audits(catalogue)] == [9.0]
    assert forget(catalogue, keep=4) == 6
    left = keys(listed(catalogue))
    assert sorted(left) == ["d8", "d9", "fresh", "s8", "s9"]
    with catalogue.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM dependency")).scalar() == 2


def test_settings(catalogue):
    assert setting(catalogue, "a", 5) == 5
    set_setting(catalogue, "a", {"n": [1, None, "é"]})
    set_setting(catalogue, "a", {"n": 2})
    set_setting(catalogue, "b", False)
    assert settings(catalogue) == {"a": {"n": 2}, "b": False}
    set_setting(catalogue, "a", None)
    assert settings(catalogue) == {"b": False}
    for wrong in (object(), math.nan):
        with pytest.raises(ConfigurationError, match="plain data"):
            set_setting(catalogue, "a", wrong)


def test_audits_over_time(catalogue):
    for n in range(5):
        record_audit(catalogue, checked=10 + n, stale=n, at=float(n))
    assert [(a.at, a.checked, a.stale) for a in audits(catalogue, since=1.0, limit=2)] == [
        (3.0, 13, 3),
        (4.0, 14, 4),
    ]
