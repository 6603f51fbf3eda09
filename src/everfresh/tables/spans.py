"""Sets of scores as ordered intervals that neither overlap nor touch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from everfresh.tables.intervals import Interval
from everfresh.tables.types import Score

__all__ = ["Spans"]


class Spans:
    """Hold a set of scores; all questions take logarithmic time.

    >>> Spans.of([Interval(1, 3), Interval(3, 5), Interval(8, 9)])
    Spans([1, 5) [8, 9))
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, starts: list[Score], ends: list[Score]) -> None:
        self._starts = starts
        self._ends = ends

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> Spans:
        """Return the union of intervals."""
        starts: list[Score] = []
        ends: list[Score] = []
        for one in sorted((one for one in intervals if one.ge != one.lt), key=lambda one: one.ge):
            if ends and one.ge <= ends[-1]:
                ends[-1] = max(ends[-1], one.lt)
            else:
                starts.append(one.ge)
                ends.append(one.lt)
        return cls(starts, ends)

    def __or__(self, other: Iterable[Interval]) -> Spans:
        return Spans.of([*self, *other])

    def __sub__(self, other: Iterable[Interval]) -> Spans:
        taken = Spans.of(other)
        return Spans.of(part for one in self for part in taken.split(one)[1])

    def add(self, interval: Interval) -> None:
        """Put all of the interval into the set.

        >>> spans = Spans.of([Interval(1, 3), Interval(8, 9)])
        >>> spans.add(Interval(2, 8))
        >>> spans
        Spans([1, 9))
        """
        if interval.ge == interval.lt:
            return
        first = bisect_left(self._ends, interval.ge)
        last = bisect_right(self._starts, interval.lt)
        start, end = interval.ge, interval.lt
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def holds(self, score: Score) -> bool:
        """Whether the score is in the set."""
        place = bisect_right(self._starts, score) - 1
        return place >= 0 and bool(score < self._ends[place])

    def covers(self, interval: Interval) -> bool:
        """Whether all of the interval is in the set."""
        if interval.ge == interval.lt:
            return True
        place = bisect_right(self._starts, interval.ge) - 1
        return place >= 0 and bool(interval.lt <= self._ends[place])

    def meets(self, interval: Interval) -> bool:
        """Whether some of the interval is in the set."""
        if interval.ge == interval.lt:
            return False
        place = bisect_right(self._ends, interval.ge)
        return place < len(self._starts) and bool(self._starts[place] < interval.lt)

    def split(self, interval: Interval) -> tuple[list[Interval], list[Interval]]:
        """Return the parts of the interval that are in the set, and those that are not.

        >>> Spans.of([Interval(1, 3)]).split(Interval(0, 4))[1]
        [Interval(ge=0, lt=1), Interval(ge=3, lt=4)]
        """
        inside: list[Interval] = []
        outside: list[Interval] = []
        at = interval.ge
        first = bisect_right(self._ends, interval.ge)
        last = bisect_left(self._starts, interval.lt)
        for place in range(first, last):
            start, end = max(self._starts[place], at), min(self._ends[place], interval.lt)
            if at < start:
                outside.append(Interval(at, start))
            if start < end:
                inside.append(Interval(start, end))
            at = end
        if at < interval.lt:
            outside.append(Interval(at, interval.lt))
        return inside, outside

    def __getitem__(self, place: int) -> Interval:
        return Interval(self._starts[place], self._ends[place])

    def __iter__(self) -> Iterator[Interval]:
        return map(Interval, self._starts, self._ends)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Spans({' '.join(f'[{one.ge}, {one.lt})' for one in self)})"
