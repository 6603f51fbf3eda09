"""Conformance suites: what every implementation of a Protocol must do.

Subclass a suite, say how to make one, and let pytest collect it::

    class TestMine(StoreConformance):
        def make(self, max_bytes: int) -> Store:
            return MyStore(max_bytes)
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from everfresh.errors import CodecError, ValueTooLargeError
from everfresh.kernel.entry import Entry
from everfresh.kernel.ports import Codec, Store

__all__ = ["CodecConformance", "SharedStoreConformance", "StoreConformance"]


def _entry(key: str, size: int = 10, cost: float = 1.0, value: object = None) -> Entry:
    return Entry(key, value if value is not None else f"value of {key}", bytes=size, cost=cost)


class StoreConformance:
    """What a store must do, whatever it is made of."""

    def make(self, max_bytes: int) -> Store:
        """Return a new, empty store with this limit."""
        raise NotImplementedError

    def test_is_a_store(self) -> None:
        assert isinstance(self.make(1000), Store)

    def test_an_absent_key_is_none(self) -> None:
        assert self.make(1000).get("absent") is None

    def test_what_is_put_is_got(self) -> None:
        store = self.make(1000)
        assert list(store.put(_entry("a"))) == []
        found = store.get("a")
        assert found is not None
        assert (found.key, found.value) == ("a", "value of a")

    def test_none_is_a_value(self) -> None:
        store = self.make(1000)
        entry = Entry("a", None, bytes=10)
        store.put(entry)
        found = store.get("a")
        assert found is not None
        assert found.value is None

    def test_a_second_put_replaces_the_first(self) -> None:
        store = self.make(1000)
        store.put(_entry("a", 10))
        store.put(_entry("a", 30, value="newer"))
        found = store.get("a")
        assert found is not None
        assert found.value == "newer"
        assert (len(store), store.bytes) == (1, 30)

    def test_discard_says_what_went(self) -> None:
        store = self.make(1000)
        store.put(_entry("a"))
        gone = store.discard("a")
        assert gone is not None
        assert gone.key == "a"
        assert store.discard("a") is None
        assert (len(store), store.bytes) == (0, 0)

    def test_the_limit_holds_after_every_put(self) -> None:
        store = self.make(100)
        for number in range(50):
            store.put(_entry(f"k{number}", size=7 + number % 40))
            assert store.bytes <= 100
            assert store.bytes == sum(entry.bytes for entry in store.entries())

    def test_what_went_is_reported_once_and_is_gone(self) -> None:
        store = self.make(30)
        gone: list[str] = []
        for number in range(10):
            gone += [entry.key for entry in store.put(_entry(f"k{number}"))]
        kept = {entry.key for entry in store.entries()}
        assert sorted([*gone, *kept]) == sorted(f"k{number}" for number in range(10))
        assert all(store.get(key) is None for key in gone)

    def test_a_value_over_the_limit_is_refused_and_nothing_is_lost(self) -> None:
        store = self.make(100)
        store.put(_entry("a", 90))
        with pytest.raises(ValueTooLargeError, match="max_bytes"):
            store.put(_entry("b", 101))
        assert store.get("a") is not None

    def test_clear_forgets_all(self) -> None:
        store = self.make(100)
        store.put(_entry("a"))
        store.clear()
        assert (len(store), store.bytes, store.get("a")) == (0, 0, None)

    def test_entries_may_be_changed_while_they_are_listed(self) -> None:
        store = self.make(1000)
        for number in range(5):
            store.put(_entry(f"k{number}"))
        for entry in store.entries():
            store.discard(entry.key)
        assert len(store) == 0


class SharedStoreConformance:
    """What a store must do besides, whose entries lie outside the process."""

    def make(self, max_bytes: int) -> Store:
        """Return a new, empty store with this limit."""
        raise NotImplementedError

    def reopen(self, store: Store) -> Store:
        """Return another store on the same entries, with the same limit."""
        raise NotImplementedError

    def test_what_was_put_is_found_after_reopening(self) -> None:
        store = self.make(1000)
        store.put(_entry("a", 30, value=[1, (2, None)]))
        store.close()
        again = self.reopen(store)
        found = again.get("a")
        assert found is not None
        assert (found.value, found.bytes, len(again), again.bytes) == ([1, (2, None)], 30, 1, 30)

    def test_a_value_that_is_no_plain_data_is_refused_and_nothing_is_lost(self) -> None:
        store = self.make(1000)
        store.put(_entry("a"))
        with pytest.raises(CodecError):
            store.put(_entry("a", value=object()))
        assert store.get("a") is not None

    def test_each_sees_what_the_other_does(self) -> None:
        one = self.make(1000)
        other = self.reopen(one)
        one.put(_entry("a"))
        assert other.get("a") is not None
        other.put(_entry("a", value="newer"))
        found = one.get("a")
        assert found is not None
        assert found.value == "newer"
        one.discard("a")
        assert other.get("a") is None

    def test_the_limit_holds_for_both_together(self) -> None:
        one = self.make(100)
        other = self.reopen(one)
        for number in range(40):
            (one, other)[number % 2].put(_entry(f"k{number}", size=7 + number % 40))
            assert one.bytes == other.bytes == sum(entry.bytes for entry in other.entries()) <= 100

    def test_an_entry_in_use_by_another_outlives_its_discarding(self) -> None:
        one = self.make(1000)
        one.put(_entry("a"))
        found = one.get("a")
        self.reopen(one).clear()
        assert found is not None
        assert found.value == "value of a"
        assert one.get("a") is None


class CodecConformance:
    """What a codec must do; `values` lists what it can carry."""

    values: tuple[Any, ...] = (
        None,
        [1, "two", 3.0],
        {"rows": [(1, Decimal("2.5"))]},
    )

    def make(self) -> Codec:
        """Return a codec."""
        raise NotImplementedError

    def same(self, left: Any, right: Any) -> bool:
        """Whether two values are equal, types included."""
        return type(left) is type(right) and bool(left == right)

    def test_round_trip(self) -> None:
        codec = self.make()
        for value in self.values:
            assert self.same(codec.decode(codec.encode(value)), value), value

    def test_damaged_bytes_are_refused(self) -> None:
        codec = self.make()
        data = codec.encode(self.values[-1])
        newer = b"EF\x02" + data[3:]
        for damaged in (b"", b"EF", b"EF\x01", b"garbage", data[:4], data[1:], newer):
            with pytest.raises(CodecError):
                codec.decode(damaged)

    def test_bytes_of_another_codec_are_refused(self) -> None:
        data = bytearray(self.make().encode(self.values[-1]))
        data[3] ^= 0x20
        with pytest.raises(CodecError):
            self.make().decode(bytes(data))
