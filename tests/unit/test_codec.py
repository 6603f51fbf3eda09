"""Codecs: exact types back, nothing run, damage refused."""

import contextlib
import dataclasses
import enum
import pickle
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everfresh.engine.rows import make_rows
from everfresh.errors import CodecError, ConfigurationError, SignatureError
from everfresh.stores import classes
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.classes import register_class
from everfresh.stores.codec import ArrowCodec, MessagePackCodec, SignedPickleCodec, register
from everfresh.testing.conformance import CodecConformance

PLAIN = (
    None, True, 0, -1, 2**63, 2**64, -(2**63), -(2**63) - 1, 2**200, 1.5, -0.0, float("inf"), "", "é\x00", b"\x00",
    bytearray(b"x"), [], (), set(), frozenset(), {}, [(1, [2, {3}])], {"a": {"b": (1,)}}, {(1, 2): 3, None: 4},
    {1, "a", (2,)}, Decimal("1.50"), Decimal("-Infinity"), Fraction(1, 3), 1 + 2j, date(1, 1, 1),
    datetime(2013, 6, 1, 12, 30, 1, 5), datetime(2013, 6, 1, tzinfo=UTC), time(1, 2, 3, 4),
    datetime(2013, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
    datetime(2013, 6, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    time(1, tzinfo=UTC), timedelta(-1, 2, 3), UUID(int=5), {"rows": [(1, Decimal("2.5"))]},
)  # fmt: skip


def same(left, right):
    if isinstance(left, list | tuple) and type(left) is type(right):
        return len(left) == len(right) and all(map(same, left, right))
    return (type(left) is type(right) and repr(left) == repr(right)) or left == right


class TestMessagePack(CodecConformance):
    values = PLAIN

    def make(self):
        return MessagePackCodec()

    def test_types_come_back_exactly(self):
        codec = self.make()
        for value in PLAIN:
            assert same(codec.decode(codec.encode(value)), value)


class TestSignedPickle(CodecConformance):
    values = PLAIN

    def make(self):
        return SignedPickleCodec(b"a key of sixteen bytes or more")


class TestArrow(CodecConformance):
    values = (pa.table({"a": [1, None], "b": ["x", "y"]}),)

    def make(self):
        return ArrowCodec()

    def test_data_frames_come_back_as_data_frames(self):
        frame = pd.DataFrame({"month": [5, 6], "delay": [1.5, None]}, index=["a", "b"])
        pd.testing.assert_frame_equal(self.make().decode(self.make().encode(frame)), frame)

    def test_other_values_are_refused(self):
        with pytest.raises(CodecError, match="takes tables"):
            self.make().encode([1])


@pytest.mark.parametrize(
    "value",
    [np.float32(1.5), np.datetime64("2013-06-01"), np.arange(6).reshape(2, 3), np.array(["a"])],
)
def test_numpy_comes_back(value):
    back = MessagePackCodec().decode(MessagePackCodec().encode([value]))[0]
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert np.array_equal(back, value)


def recursive():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [object(), lambda: 1, np.array([object()]), recursive(), type])
def test_unknown_types_are_refused_not_guessed(value):
    with pytest.raises(CodecError):
        MessagePackCodec().encode([value])


class Bomb:
    ran = False

    def __reduce__(self):
        return (setattr, (Bomb, "ran", True))


def test_the_default_codec_never_runs_a_pickle():
    for data in (
        pickle.dumps(Bomb()),
        b"EF\x01M" + pickle.dumps(Bomb()),
        b"EF\x01P" + pickle.dumps(Bomb()),
    ):
        with pytest.raises(CodecError):
            MessagePackCodec().decode(data)
    assert not Bomb.ran


def test_a_pickle_signed_with_another_key_is_not_run():
    ours, theirs = (
        SignedPickleCodec(b"our key, 16 bytes."),
        SignedPickleCodec(b"their key, 16 bytes"),
    )
    with pytest.raises(SignatureError):
        ours.decode(theirs.encode(Bomb()))
    data = ours.encode([1])
    with pytest.raises(SignatureError):
        ours.decode(data[:-1] + bytes([data[-1] ^ 1]))
    assert not Bomb.ran


def test_short_keys_are_refused():
    with pytest.raises(ConfigurationError, match="16 bytes"):
        SignedPickleCodec(b"short")


def test_extension_numbers_cannot_be_taken_twice():
    with pytest.raises(ConfigurationError, match="taken"):
        register(1, list, list, list)


@given(st.binary(max_size=60))
def test_hostile_bytes_are_one_kind_of_error(data):
    codec = MessagePackCodec()
    try:
        codec.decode(b"EF\x01M" + data)
    except CodecError:
        return
    # what decodes must be plain data that encodes again
    codec.encode(codec.decode(b"EF\x01M" + data))


# --- classes of the user's own, and the codec that chooses -----------------------


@register_class
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    tags: frozenset = frozenset()


@register_class
class Colour(enum.Enum):
    RED = "r"


def test_registered_dataclasses_and_enums_come_back():
    codec = MessagePackCodec()
    value = [Point(1, frozenset({"a"})), Colour.RED, {"p": Point(2)}]
    assert codec.decode(codec.encode(value)) == value


def test_classes_that_are_not_registered_are_refused_both_ways(monkeypatch):
    @dataclasses.dataclass
    class Stranger:
        x: int

    codec = MessagePackCodec()
    with pytest.raises(CodecError, match="Stranger"):
        codec.encode(Stranger(1))
    data = codec.encode(Point(1))
    monkeypatch.setattr(classes, "_known", {})
    with pytest.raises(CodecError, match="not registered"):
        codec.decode(data)
    with pytest.raises(ConfigurationError, match="neither a dataclass nor an enum"):
        register_class(int)


ROWS = [
    (("n", "t", "f", "b", "y"), [(1, "x", 1.5, True, b"z"), (None, None, None, None, None)]),
    (("n",), [(2**63,), (1,)]),  # beyond Arrow's integers
    (("n",), [(1,), ("a",)]),  # two types in one column, as SQLite allows
    (("n", "n"), [(1, 2)]),
    (("d",), [(Decimal("1.50"),)]),
    (("n",), []),
]


@pytest.mark.parametrize("large", [1, 10])
@pytest.mark.parametrize(("columns", "rows"), ROWS)
def test_results_come_back_exactly_whichever_codec_takes_them(columns, rows, large):
    codec = ChoosingCodec(large, make=make_rows)
    result = make_rows(columns, rows)
    back = codec.decode(codec.encode(result))
    assert (back.columns, list(back)) == (result.columns, list(result))
    assert [list(map(type, row)) for row in back] == [list(map(type, row)) for row in result]


def test_what_cannot_be_changed_in_place_is_made_without_being_looked_at():
    codec = ChoosingCodec(make=make_rows, make_shared=lambda columns, rows: (columns, rows))
    plain = make_rows(("n", "d"), [(1, Decimal(2))])
    assert codec.decode(codec.encode(plain)) == (["n", "d"], [(1, Decimal(2))])
    nested = make_rows(("n",), [([1],)])
    assert codec.decode(codec.encode(nested)) == nested


@given(st.binary(max_size=60))
def test_hostile_results_are_one_kind_of_error(data):
    with contextlib.suppress(CodecError):
        ChoosingCodec(make=make_rows).decode(b"EF\x01R" + data)


def test_large_results_go_as_arrow_and_small_ones_do_not():
    result = make_rows(("n",), [(n,) for n in range(100)])
    assert ChoosingCodec(100).encode(result)[3:4] == b"A"
    assert ChoosingCodec(101).encode(result)[3:4] == b"R"
    frame = pd.DataFrame({"a": [1]})
    pd.testing.assert_frame_equal(ChoosingCodec().decode(ChoosingCodec().encode(frame)), frame)
    assert ChoosingCodec().decode(ChoosingCodec().encode({"columns": [], "rows": []})) == {
        "columns": [],
        "rows": [],
    }
    assert ChoosingCodec().decode(ChoosingCodec().encode(pa.scalar(5))).as_py() == 5


class TestChoosing(CodecConformance):
    values = PLAIN

    def make(self):
        return ChoosingCodec()
