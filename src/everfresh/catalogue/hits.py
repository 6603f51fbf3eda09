"""How many hits of each key the catalogue has not been told of yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["HitCounts", "Told"]

_BOUND = 100_000  # keys that are remembered


@dataclass(frozen=True, slots=True)
class Told:
    """Hold what was counted of one key: by the entries that ended, and in all."""

    ended: int = 0
    total: int = 0


class HitCounts:
    """Turn running counts into what is to be added.

    A kept entry counts from 0; one that ended says what it and those before it had in all.

    >>> counts = HitCounts()
    >>> new, added = counts.take({}, [("k", 5, 1.0)])
    >>> added, counts.told(new)
    ({'k': (5, 1.0)}, None)
    >>> new, added = counts.take({"k": 7}, [("k", 1, 2.0)])  # it ended with 7, and was refilled
    >>> added
    {'k': (3, 2.0)}
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Told] = OrderedDict()

    def take(
        self, ended: dict[str, int], kept: Iterable[tuple[str, int, float]]
    ) -> tuple[dict[str, Told], dict[str, tuple[int, float | None]]]:
        """Return what to remember once it is written, and (hits, score) to write by key.

        ``ended``: hits of all entries of a key that are over; ``kept``: (key, hits, score).
        """
        new = {key: Told(hits, hits) for key, hits in ended.items()}
        scores: dict[str, float] = {}
        for key, hits, score in kept:
            before = new[key].ended if key in new else self._known.get(key, Told()).ended
            new[key] = Told(before, before + hits)
            scores[key] = score
        added: dict[str, tuple[int, float | None]] = {}
        for key, told in new.items():
            more = self._more(key, told)
            if more > 0:
                added[key] = (more, scores.get(key))
        return new, added

    def _more(self, key: str, told: Told) -> int:
        known = self._known.get(key, Told())
        if told.ended < known.ended:  # what ended long ago was forgotten: the count began anew
            return told.total
        return told.total - known.total

    def told(self, new: dict[str, Told]) -> None:
        """Remember what has been written."""
        for key, told in new.items():
            self._known[key] = told
            self._known.move_to_end(key)
        while len(self._known) > _BOUND:
            self._known.popitem(last=False)
