"""Keys: typed, role-tagged, canonical, the same in every process."""

import dataclasses
import enum
import os
import subprocess
import sys
from collections import namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everfresh.errors import UnkeyableError
from everfresh.kernel.keys import canonical, digest, plain_digest


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: object = None


class Struct(msgspec.Struct):
    x: int


Named = namedtuple("Named", "x y")
OtherNamed = namedtuple("OtherNamed", "x y")
PARIS = ZoneInfo("Europe/Paris")

# every two of these must have different keys
DISTINCT = [
    None, ..., True, False, 0, 1, 1.0, -1, 0.0, -0.0, float("inf"), float("-inf"), float("nan"),
    2**53, 2.0**53, 2**64, -(2**64), 1 + 0j, "1", "1.0", "", "a", b"a", b"", bytearray(b"a"), "é", "e\u0301",
    Decimal("1"), Decimal("1.0"), Decimal("NaN"), Fraction(1), Fraction(1, 2),
    date(2013, 6, 1), datetime(2013, 6, 1), time(0), timedelta(1), timedelta(0, 1),
    datetime(2013, 6, 1, 12, tzinfo=UTC),
    datetime(2013, 6, 1, 14, tzinfo=timezone(timedelta(hours=2))),
    datetime(2013, 6, 1, 14, tzinfo=PARIS),
    datetime(2013, 10, 27, 2, 30, tzinfo=PARIS), datetime(2013, 10, 27, 2, 30, fold=1, tzinfo=PARIS),
    UUID(int=1), range(3), range(0, 3, 2), PurePosixPath("a"),
    (), [], {}, set(), frozenset(), (1,), [1], {1}, frozenset({1}), {1: 2}, ((1,),), ([1],), (1, 2), (2, 1),
    (("a", "b"), "c"), ("a", ("b", "c")), ("ab", "c"), ("a", "bc"), {"a": 1, "b": 2}, {"a": 2, "b": 1},
    {"1": 2}, {True: 2}, [None], [[]], [()], {"x": 1, "y": 2},
    Colour.RED, Colour.BLUE, Level.ONE, Point(1), Point(1, 2), Point(True), Struct(1), Named(1, 2), OtherNamed(1, 2),
    np.int32(1), np.int64(1), np.float64(1), np.float32(1), np.bool_(True), np.datetime64("2013-06-01"),
    np.array([1, 2]), np.array([[1, 2]]), np.array([1, 2], dtype="int8"), np.array([1.0, 2.0]),
    pa.scalar(1), pa.scalar(1, pa.int8()), pa.scalar("1"), pa.scalar(None, pa.int64()),
]  # fmt: skip


def test_no_two_different_values_share_a_key():
    keys = [digest("test", value=value) for value in DISTINCT]
    assert len(set(keys)) == len(DISTINCT)


def test_a_key_is_forty_hexadecimal_characters():
    key = digest("sql", statement="SELECT 1")
    assert len(key) == 40
    assert set(key) <= set("0123456789abcdef")


def test_roles_and_kinds_are_part_of_the_key():
    assert digest("flows", origin="A", target="B") != digest("flows", origin="B", target="A")
    assert digest("flows", a=1) != digest("flows", b=1)
    assert digest("sql", a=1) != digest("call", a=1)
    assert digest("flows", a=1, b=2) == digest("flows", b=2, a=1)


def test_equal_values_have_equal_keys():
    assert canonical({"b": 1, "a": [2]}) == canonical({"a": [2], "b": 1})
    assert canonical({3, 1, 2}) == canonical({2, 3, 1})
    assert canonical(Point(1, [2])) == canonical(Point(1, [2]))
    assert canonical(float("nan")) == canonical(-float("nan"))
    assert canonical(np.array([1, 2])) == canonical(np.array([1, 2]))


SCRIPT = """
from everfresh.kernel.keys import digest
import enum, dataclasses
class C(enum.Enum):
    A = "a"
@dataclasses.dataclass
class P:
    tags: frozenset
print(digest("sql", s={"b", "a", "c", ("x", 1)}, d={"z": {1, 2}, "y": frozenset("héllo")}, c=C.A, p=P(frozenset("abc"))))
"""


def test_the_same_key_in_every_process_whatever_the_hash_seed():
    keys = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(keys) == 1


def recursive_list():
    value = [1]
    value.append({"inner": (value,)})
    return value


class Opaque:
    pass


class TextWithState(str):
    __slots__ = ("state",)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Opaque(), "Opaque"),
        ({"a": [Opaque()]}, r"value\['a'\]\[0\] is of type .*Opaque"),
        (recursive_list(), "contains itself"),
        (TextWithState("x"), "TextWithState"),
        (lambda: 1, "function"),
        (np.array([object()]), "numpy array of objects"),
        (iter([1]), "list_iterator"),
    ],
)
def test_what_has_no_canonical_form_is_refused_by_name(value, named):
    with pytest.raises(UnkeyableError, match=named) as caught:
        canonical(value)
    assert isinstance(caught.value, TypeError)


def test_deep_nesting_is_refused_not_a_crash():
    value = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(UnkeyableError, match="nested more than"):
        canonical(value)


def test_the_same_object_twice_is_no_cycle():
    shared = [1]
    assert canonical([shared, shared]) == canonical([[1], [1]])


def test_a_class_may_bring_its_own_form():
    class Money:
        def __init__(self, cents):
            self.cents = cents

        def __everfresh_key__(self):
            return self.cents

    assert canonical(Money(1)) == canonical(Money(1))
    assert canonical(Money(1)) != canonical(Money(2))
    assert canonical(Money(1)) != canonical(1)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def typed(value):
    """A form in which two values are equal just if their types and contents are."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, [typed(item) for item in value])
    if isinstance(value, dict):
        return ("dict", sorted((k, repr(typed(v))) for k, v in value.items()))
    return (type(value).__name__, repr(value))


@given(plain, plain)
def test_keys_are_equal_just_when_typed_values_are(left, right):
    assert (canonical(left) == canonical(right)) == (typed(left) == typed(right))


@given(
    *[
        st.dictionaries(
            st.text(max_size=2),
            st.integers() | st.text() | st.binary() | st.booleans() | st.none(),
            max_size=3,
        )
    ]
    * 2
)
def test_the_short_cut_for_plain_values_tells_apart_what_the_full_key_does(left, right):
    same = canonical(left) == canonical(right)
    assert (plain_digest("p", left) == plain_digest("p", right)) == same
    assert plain_digest("p", left) != plain_digest("q", left)


def test_the_short_cut_leaves_the_rest_to_the_full_key():
    for value in (1.0, Decimal(1), [1], Level.ONE, 10**5000, TextWithState("a")):
        assert plain_digest("p", {"x": value}) is None
    assert len(digest("sql", x=10**5000)) == 40
