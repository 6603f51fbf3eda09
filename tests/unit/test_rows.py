"""Rows: named, immutable, shared safely."""

import json
import pickle

import pytest

from everfresh.engine.rows import make_rows
from everfresh.errors import StatementError


def test_cells_by_name_by_text_and_by_place():
    row = make_rows(("carrier", "count(*)"), [("UA", 3)])[0]
    assert (row.carrier, row["carrier"], row[0], row["count(*)"], row[-1]) == (
        "UA",
        "UA",
        "UA",
        3,
        3,
    )
    assert row == ("UA", 3)
    assert row._asdict() == {"carrier": "UA", "count(*)": 3}
    carrier, number = row
    assert (carrier, number) == ("UA", 3)


def test_columns_named_like_methods_of_a_tuple_are_cells():
    row = make_rows(("count", "index"), [(7, 8)])[0]
    assert (row.count, row.index) == (7, 8)


def test_unknown_and_ambiguous_names_say_so():
    row = make_rows(("id", "id", "name"), [(1, 2, "x")])[0]
    with pytest.raises(StatementError, match="two columns are named 'id'"):
        _ = row.id
    with pytest.raises(AttributeError, match="no column 'nme' among id, id, name"):
        _ = row.nme
    with pytest.raises(KeyError):
        row["nme"]
    assert row[1] == 2


def test_rows_and_cells_cannot_be_changed():
    rows = make_rows(("data", "tags", "raw"), [({"a": [1, {"b": 2}]}, [1], bytearray(b"x"))])
    row = rows[0]
    for change in (
        lambda: row.data.update(a=1),
        lambda: row.data.__setitem__("a", 1),
        lambda: row.data["a"].append(1),
        lambda: row.data["a"][1].pop("b"),
        lambda: row.tags.sort(),
        lambda: row.__setattr__("data", 1),
        lambda: rows.__setitem__(0, 1),
    ):
        with pytest.raises((TypeError, AttributeError)):
            change()
    assert row.data == {"a": [1, {"b": 2}]}
    assert json.dumps(row.data) == '{"a": [1, {"b": 2}]}'
    assert row.raw == b"x"


def test_rows_pickle_as_plain_data():
    row = make_rows(("a", "b"), [(1, [2])])[0]
    back = pickle.loads(pickle.dumps(row))
    assert (back.a, back.b, back) == (1, [2], row)


def test_ways_of_taking_rows():
    rows = make_rows(("n", "m"), [(1, 2), (3, 4)])
    assert rows.scalars() == [1, 3]
    assert rows.scalar() == 1
    assert rows.first() == (1, 2)
    assert rows[0:1] == ((1, 2),)
    assert rows == [(1, 2), (3, 4)]
    assert list(rows.to_pandas()["m"]) == [2, 4]
    assert rows.to_dicts() == [{"n": 1, "m": 2}, {"n": 3, "m": 4}]
    with pytest.raises(StatementError, match="exactly one row, the query returned 2"):
        rows.one()
    empty = make_rows(("n",), [])
    assert (empty.first(), empty.scalar(), empty.scalars(), len(empty), bool(empty)) == (
        None,
        None,
        [],
        0,
        False,
    )
    with pytest.raises(StatementError, match="no receipt"):
        _ = rows.receipt
