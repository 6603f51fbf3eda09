"""The audit: ask a sample of what is kept again, and compare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from everfresh.engine.recorded import Recorded
from everfresh.engine.request import Request
from everfresh.engine.rows import Rows, frozen
from everfresh.kernel.entry import Entry

if TYPE_CHECKING:
    from everfresh.engine.cache import Cache

__all__ = ["Audit", "audit", "nines", "same_rows"]


@dataclass(frozen=True, slots=True)
class Audit:
    """Hold the outcome: ``checked`` answers were asked again, ``stale`` of them were wrong.

    ``changed`` were overtaken by a change while they were asked again, so nothing can be said of
    them; ``skipped`` are results of functions, which are not called again.
    """

    checked: int
    stale: int
    changed: int = 0
    skipped: int = 0
    stale_keys: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"audit: {self.checked} checked, {self.stale} stale"


def audit(cache: Cache, sample: int | None = None, seed: int | None = None) -> Audit:
    """Ask kept queries again on the database, around the cache, and compare the rows.

    An entry counts only if no change touched it from before the question to after it: then the
    answer kept and the answer given are of the same data, and must be equal.
    """
    _heard(cache)
    entries = cache.entries()
    queries = [entry for entry in entries if entry.kind in ("sql", "rows")]
    if sample is not None and sample < len(queries):
        queries = Random(seed).sample(queries, sample)  # noqa: S311 - a sample, not a secret
    stale: list[str] = []
    checked = changed = 0
    for entry in queries:
        verdict = _check(cache, entry)
        checked += verdict is not None
        changed += verdict is None
        if verdict is False:
            stale.append(entry.key)
    return Audit(checked, len(stale), changed, len(entries) - len(queries), tuple(stale))


def _check(cache: Cache, entry: Entry) -> bool | None:
    """Whether the kept rows are right; None if a change came between."""
    request, kept = entry.request, entry.value
    if not isinstance(request, Request) or not isinstance(kept, (Rows, Recorded)):
        return None
    parameters: Any = request.detail
    if not entry.usable(cache.board.clock()):
        return None
    fresh = cache.reader.bypass(cache.reader.prepare(entry.label), parameters)
    if not _heard(cache) or not entry.usable(cache.board.clock()):
        return None
    return kept.columns == fresh.columns and same_rows(_shared(kept), fresh)


def _shared(kept: Rows | Recorded) -> Iterable[Sequence[Any]]:
    """Return rows as those of `Cache.sql` are: with cells that refuse to be changed."""
    if isinstance(kept, Rows):
        return kept
    return [tuple(map(frozen, row)) for row in kept.rows]


def _heard(cache: Cache) -> bool:
    """Hear what others have committed, as a reader would; return whether that was possible."""
    return cache.freshness.mode == "ttl" or cache.proof.confirm()


_Z = 1.645  # of the normal distribution, 95 % below it


def nines(checked: int, stale: int) -> float:
    """Return how many nines of the answers were right, at least, with 95 % confidence.

    From the upper end of the one-sided score interval of E. B. Wilson, "Probable inference, the law
    of succession, and statistical inference", JASA 22, 1927; 0.0 if nothing was checked.

    >>> round(nines(2700, 0), 2), round(nines(1000, 10), 2), nines(0, 0)
    (3.0, 1.78, 0.0)
    """
    if checked == 0:
        return 0.0
    square, share = _Z * _Z / checked, stale / checked
    spread = _Z * math.sqrt(share * (1 - share) / checked + square / (4 * checked))
    worst = (share + square / 2 + spread) / (1 + square)
    return max(-math.log10(worst), 0.0)


def same_rows(left: Iterable[Sequence[Any]], right: Iterable[Sequence[Any]]) -> bool:
    """Whether two answers are equal as SQL promises: any order, floats to 9 digits.

    Sums of floats depend on the order in which the database adds them, and rows that compare equal
    under ORDER BY may come in any order.

    >>> same_rows([(1, 0.1 + 0.2), (2, None)], [(2, None), (1, 0.3)])
    True
    >>> same_rows([(1,)], [(True,), (2,)])
    False
    """
    first, second = sorted(left, key=_order), sorted(right, key=_order)
    return len(first) == len(second) and all(map(_same_row, first, second))


def _order(row: Sequence[Any]) -> tuple[list[str], list[tuple[bool, float]]]:
    # floats last and by value: two sums that differ in the last digit keep their places
    exact = [f"{type(cell).__name__}:{cell!r}" for cell in row if not isinstance(cell, float)]
    floats = [(cell != cell, 0.0 if cell != cell else cell) for cell in row if type(cell) is float]
    return exact, floats


def _same_row(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(map(_same_cell, left, right))


def _same_cell(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9) or (left != left and right != right)
    return type(left) is type(right) and bool(left == right)
