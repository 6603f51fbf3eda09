"""From a change to the items it touches, at a cost that the untouched ones do not add to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from everfresh.kernel.affinity import ANY
from everfresh.kernel.change import Change
from everfresh.kernel.interval import IntervalTree
from everfresh.kernel.plan import Anchor, Source
from everfresh.kernel.predicate import ABSENT
from everfresh.kernel.predicate_source import Band

__all__ = ["ChangeIndex"]


@dataclass(slots=True)
class _Anchored:
    """Hold the sources of one table that ask for values of one column."""

    column: str
    sample: Source  # any of them: all bring the column's values to normal form alike
    by_value: dict[object, dict[Source, None]] = field(default_factory=dict)
    every: dict[Source, None] = field(default_factory=dict)

    def candidates(self, image: Mapping[str, object] | None) -> Iterable[Source]:
        """Return the sources that this row image may concern."""
        if image is None:
            return ()
        value = image.get(self.column, ABSENT)
        normal = ANY if value is ABSENT else self.sample.normal(self.column, value)
        return self.every if normal is ANY else self.by_value.get(normal, ())

    def add(self, source: Source) -> None:
        """File a source under each value it asks for."""
        self.every[source] = None
        for value in _anchor(source).values:
            self.by_value.setdefault(value, {})[source] = None

    def discard(self, source: Source) -> None:
        """Take a source out."""
        self.every.pop(source, None)
        for value in _anchor(source).values:
            bucket = self.by_value.get(value, {})
            bucket.pop(source, None)
            if not bucket:
                self.by_value.pop(value, None)


@dataclass(slots=True)
class _Banded:
    """Hold the sources of one table that ask for an interval of one column."""

    sample: Band
    tree: IntervalTree = field(default_factory=IntervalTree)

    @property
    def every(self) -> Iterable[Source]:
        """Every source."""
        return cast("Iterable[Source]", self.tree)

    def candidates(self, image: Mapping[str, object] | None) -> Iterable[Source]:
        """Return the sources that this row image may concern."""
        if image is None:
            return ()
        rank = self.sample.rank(image)
        return self.every if rank is None else cast("Iterable[Source]", self.tree.at(rank))

    def add(self, source: Source) -> None:
        """File a source under its interval."""
        band = _band(source)
        assert band is not None  # noqa: S101
        self.tree.add(source, band.interval)

    def discard(self, source: Source) -> None:
        """Take a source out."""
        self.tree.discard(source)


@dataclass(slots=True)
class _Table:
    """Hold the sources of one table, in groups that find what a row image may concern."""

    groups: dict[Hashable, _Anchored | _Banded] = field(default_factory=dict)
    unanchored: dict[Source, None] = field(default_factory=dict)

    def add(self, source: Source) -> None:
        """File a source under what it asks for."""
        place = _place(source)
        if place is None:
            self.unanchored[source] = None
            return
        group = self.groups.get(place)
        if group is None:
            band = _band(source)
            column = _anchor(source).column if band is None else ""
            group = _Anchored(column, source) if band is None else _Banded(band)
            self.groups[place] = group
        group.add(source)

    def discard(self, source: Source) -> None:
        """Take a source out."""
        place = _place(source)
        if place is None:
            self.unanchored.pop(source, None)
            return
        group = self.groups.get(place)
        if group is None:
            return
        group.discard(source)
        if not any(True for _ in group.every):
            del self.groups[place]

    def sources(self) -> Iterable[Source]:
        """Yield every source."""
        yield from self.unanchored
        for group in self.groups.values():
            yield from group.every

    def touched(self, change: Change) -> set[Source]:
        """Return the sources that a change of this table touches."""
        if change.whole_table:
            return set(self.sources())
        candidates = set(self.unanchored)
        for group in self.groups.values():
            candidates.update(group.candidates(change.old))
            candidates.update(group.candidates(change.new))
        return {source for source in candidates if source.touched_by(change)}

    def __bool__(self) -> bool:
        return bool(self.unanchored or self.groups)


def _band(source: Source) -> Band | None:
    return None if source.anchor is not None else getattr(source, "band", None)


def _anchor(source: Source) -> Anchor:
    anchor = source.anchor
    assert anchor is not None  # noqa: S101
    return anchor


def _place(source: Source) -> Hashable:
    """Return the group a source belongs to, None if its rows cannot be looked up."""
    if source.anchor is not None:
        return ("value", source.anchor.column, source.anchor.domain)
    band = _band(source)
    return None if band is None else ("band", band.column, band.domain)


class ChangeIndex:
    """Find the items whose sources a change touches.

    An item may be added again, with more sources. The caller holds a lock around every method. An
    `add` that a signal cut short is undone by `discard`, wherever it was cut.

    >>> from everfresh.kernel.plan import TableSource
    >>> index = ChangeIndex()
    >>> index.add("answer", [TableSource("main.flights")])
    >>> index.touched(Change("main.flights")), index.touched(Change("main.planes"))
    ({'answer'}, set())
    """

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        self._everything: dict[Hashable, None] = {}
        self._sources: dict[Hashable, dict[Source, None]] = {}
        self._items: dict[Source, dict[Hashable, None]] = {}

    def add(self, item: Hashable, sources: Iterable[Source]) -> None:
        """File an item under its sources; without any, no change but ``table=None`` finds it."""
        own = self._sources.setdefault(item, {})
        for source in sources:
            if source in own:
                continue
            own[source] = None
            if source.table is None:
                self._everything[item] = None
                continue
            holders = self._items.setdefault(source, {})
            if not holders:
                self._tables.setdefault(source.table, _Table()).add(source)
            holders[item] = None

    def discard(self, item: Hashable) -> None:
        """Take an item out; nothing happens if it is not there."""
        self._everything.pop(item, None)
        for source in self._sources.pop(item, ()):
            holders = self._items.get(source)
            if holders is None or source.table is None:
                continue
            holders.pop(item, None)
            if not holders:
                del self._items[source]
                table = self._tables.get(source.table)
                if table is None:
                    continue
                table.discard(source)
                if not table:
                    del self._tables[source.table]

    def touched(self, change: Change) -> set[Any]:
        """Return the items of which at least one source is touched by the change."""
        if change.table is None:
            return set(self._sources)
        found: set[Any] = set(self._everything)
        table = self._tables.get(change.table)
        if table is not None:
            for source in table.touched(change):
                found.update(self._items.get(source, ()))
        return found

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, item: object) -> bool:
        return item in self._sources
