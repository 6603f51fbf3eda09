"""Intervals of ranks, and a tree that finds those that hold a value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from everfresh.kernel.affinity import Rank

__all__ = ["EVERYTHING", "NOWHERE", "Interval", "IntervalTree"]

_LOWEST: Final[tuple[int]] = (-1,)
_HIGHEST: Final[tuple[int]] = (9,)

Bound = Rank | tuple[int]


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold the ranks from ``low`` to ``high``, both included.

    >>> Interval.below((0, 7)).meet(Interval.above((0, 3))).holds((0, 5))
    True
    """

    low: Bound
    high: Bound

    @classmethod
    def above(cls, low: Bound) -> Interval:
        """Return the interval without an upper end."""
        return cls(low, _HIGHEST)

    @classmethod
    def below(cls, high: Bound) -> Interval:
        """Return the interval without a lower end."""
        return cls(_LOWEST, high)

    def meet(self, other: Interval) -> Interval:
        """Return what both hold."""
        return Interval(max(self.low, other.low), min(self.high, other.high))

    def holds(self, rank: Rank) -> bool:
        """Whether a rank lies in the interval."""
        return self.low <= rank <= self.high

    @property
    def ends(self) -> int:
        """How many of the two ends there are."""
        return (self.low != _LOWEST) + (self.high != _HIGHEST)


EVERYTHING: Final = Interval(_LOWEST, _HIGHEST)
NOWHERE: Final[Rank] = (99, None)
"""Rank of what no interval holds."""


@dataclass(slots=True, eq=False)
class _Node:
    low: Bound
    order: int  # makes the place of equal lower ends definite
    high: Bound
    item: object
    priority: int
    top: Bound  # the highest upper end in this part of the tree
    left: _Node | None = None
    right: _Node | None = None

    @property
    def place(self) -> tuple[Bound, int]:
        return (self.low, self.order)

    def refresh(self) -> _Node:
        """Recompute what depends on the children."""
        self.top = self.high
        for child in (self.left, self.right):
            if child is not None and child.top > self.top:
                self.top = child.top
        return self


class IntervalTree:
    """Find the items whose interval holds a rank, in logarithmic time and that of the answer.

    A treap by lower ends, each part of which knows its highest upper end: R. Seidel and
    C. Aragon, "Randomized Search Trees", 1996; T. Cormen et al., "Introduction to Algorithms",
    section "Interval trees".

    >>> tree = IntervalTree()
    >>> tree.add("june", Interval((0, 6), (0, 6)))
    >>> tree.add("summer", Interval((0, 6), (0, 8)))
    >>> list(tree.at((0, 7)))
    ['summer']
    """

    def __init__(self) -> None:
        self._root: _Node | None = None
        self._nodes: dict[object, _Node] = {}
        self._count = itertools.count(1)

    def add(self, item: object, interval: Interval) -> None:
        """Put an item in; it must not be there yet."""
        order = next(self._count)
        # a fixed scramble of the count stands for chance: nobody chooses it
        priority = order * 0x9E3779B97F4A7C15 % 2**64
        node = _Node(interval.low, order, interval.high, item, priority, interval.high)
        self._nodes[item] = node
        left, right = _split(self._root, node.place)
        self._root = _merge(_merge(left, node), right)

    def discard(self, item: object) -> None:
        """Take an item out; nothing happens if it is not there."""
        node = self._nodes.pop(item, None)
        if node is not None:
            left, rest = _split(self._root, node.place)
            _, right = _split(rest, (node.low, node.order + 1))
            self._root = _merge(left, right)

    def at(self, rank: Rank) -> Iterator[object]:
        """Yield the items whose interval holds the rank."""
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            if node is None or node.top < rank:
                continue
            waiting.append(node.left)
            if node.low <= rank:
                waiting.append(node.right)
                if node.high >= rank:
                    yield node.item

    def __iter__(self) -> Iterator[object]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


def _split(node: _Node | None, place: tuple[Bound, int]) -> tuple[_Node | None, _Node | None]:
    """Cut a tree in two: places before the given one, and the others."""
    if node is None:
        return None, None
    if node.place < place:
        left, right = _split(node.right, place)
        node.right = left
        return node.refresh(), right
    left, right = _split(node.left, place)
    node.left = right
    return left, node.refresh()


def _merge(left: _Node | None, right: _Node | None) -> _Node | None:
    """Join two trees, all places of the first before those of the second."""
    if left is None or right is None:
        return left or right
    if left.priority > right.priority:
        left.right = _merge(left.right, right)
        return left.refresh()
    right.left = _merge(left, right.left)
    return right.refresh()
