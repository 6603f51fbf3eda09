"""What both micro-caches share: the kept results, found without a lock and bounded."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import count
from math import inf
from typing import Any, cast
from weakref import ref

from everfresh.engine.board import Board
from everfresh.engine.fills import HIT, Answer
from everfresh.engine.lineage import current
from everfresh.engine.raising import again
from everfresh.engine.receipts import Receipt, Status
from everfresh.engine.request import Request
from everfresh.engine.stats import Stats
from everfresh.engine.timed import timed
from everfresh.errors import ClosedError, NotKeptError
from everfresh.kernel.entry import DROPPED, FRESH, TIMED
from everfresh.kernel.entry import Entry as Kept
from everfresh.micro.entry import Entry
from everfresh.micro.followed import Listening
from everfresh.micro.options import Options, check_threshold
from everfresh.micro.pruning import Pruner
from everfresh.micro.question import Form, Question
from everfresh.settings import check_seconds

__all__ = ["NOTHING", "Shelf"]

NOTHING = Kept("", None, state=DROPPED)  # what the hit path goes on with when it found nothing
_numbers = count(1)


class Shelf:
    """Keep results for `threshold` seconds; `QueryCache` and `AsyncQueryCache` add the asking.

    ``threshold`` and ``threshold_prune`` are in seconds and may be changed at any time.
    """

    def __init__(self, threshold: float, threshold_prune: float | None, options: Options) -> None:
        check_seconds("threshold_prune", threshold_prune)
        self.threshold = check_threshold(threshold)
        self.options = options
        cache = options.cache
        self._fills = timed(options.settings) if cache is None else cache.fills
        self._board = self._fills.board
        self._clock = self._board.clock
        self._touched = self._board.store.touched
        self._index: dict[object, Kept] = {}
        self._refreshing: set[str] = set()
        self._number = next(_numbers)
        self._closed = False
        self._pruner = Pruner(self, threshold_prune, _farewell(ref(self._board), self._number))

    @property
    def threshold_prune(self) -> float | None:
        """Seconds between two rounds of the pruning thread; None is for never."""
        return self._pruner.seconds

    @threshold_prune.setter
    def threshold_prune(self, seconds: float | None) -> None:
        check_seconds("threshold_prune", seconds)
        self._pruner.seconds = seconds

    def prune(self) -> int:
        """Remove any stale queries from the cache now; return how many went.

        The pruning thread calls it every `threshold_prune` seconds.
        """
        limit = self.threshold + (self.options.stale_while_revalidate or 0)
        now = self._clock()
        aged = [entry for entry in self._kept() if now - entry.filled_at >= limit]
        return self._board.drop(aged, "it ran out")

    def entries(self) -> list[Entry]:
        """Return what is kept now, oldest first; the results themselves, not copies."""
        return [Entry(entry.filled_at, None, entry.value) for entry in self._kept()]

    def stats(self) -> Stats:
        """Return the figures since the start; with ``cache=`` they are those of that cache."""
        return self._board.stats()

    def receipt(self, form: Form, *asked: Any) -> Receipt:
        """Return the receipt of a kept result.

        ``asked`` are the arguments that it was asked with: ``receipt("one", query, params)``,
        ``receipt("all", query, params)``, ``receipt("call", callback, *queries)``. Raises
        `NotKeptError` if it is not kept.
        """
        if form == "call":
            question = self._question(form, asked[1:], None, asked[0])
        else:
            query, params, process = (*asked, None, None)[:3]
            question = self._question(form, (query,), params, process)
        entry = self._index.get(self._probe(question), NOTHING)
        if not self._young(entry, self.threshold):
            raise NotKeptError(f"nothing is kept for {question.label}: ask for it first")
        if entry.hits:
            return self._fills.receipt(Answer(entry, "hit", HIT))
        return self._fills.receipt(Answer(entry, cast("Status", entry.origin), entry.reason))

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._kept())} entries"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state}>"

    # one question ---------------------------------------------------------------

    def _question(
        self, form: Form, queries: tuple[str, ...], params: object, callback: Any
    ) -> Question:
        return Question(self._number, form, queries, params, callback)

    def _probe(self, question: Question) -> object:
        by_callback = self.options.by_callback
        probe = question.probe(by_callback=by_callback)
        if probe is None:
            # bytes: no query and no other probe can equal them
            return question.key(by_callback=by_callback).encode()
        return probe

    def _request(self, question: Question, probe: object, listening: Listening) -> Request:
        threshold, by_callback = self.threshold, self.options.by_callback
        return Request(
            key=question.key(by_callback=by_callback),
            kind="micro",
            label=question.label,
            sources=listening.sources,
            current=listening.current,
            # where not every change is heard, what others make of it must not outlive it
            ttl=None if listening.exact else threshold,
            keep_errors=inf,
            max_age=threshold,
            shortcuts=self._index,
            probe=probe,
            # the key names a callback by its place in memory, which stays its own while it lives;
            # otherwise what a callback holds is not kept alive
            detail=question if by_callback else replace(question, callback=None),
        )

    def _fresh(self, probe: object) -> Kept | None:
        """Return the entry that may be served, counted as a hit."""
        entry = self._index.get(probe, NOTHING)
        return self._fills.hit(entry).entry if self._young(entry, self.threshold) else None

    def _aged(self, probe: object) -> Kept | None:
        """Return the entry that may be served while another is made, counted as a hit.

        Only its age may speak against it: what a change touched, or an error, is not served. And
        nothing that is being made now is made of what has aged.
        """
        grace = self.options.stale_while_revalidate
        if grace is None or current() is not None:
            return None
        entry = self._index.get(probe, NOTHING)
        if entry.error or entry.state not in (FRESH, TIMED):
            return None
        if self._clock() - entry.filled_at >= self.threshold + grace:
            return None
        return self._fills.hit(entry).entry

    def _young(self, entry: Kept, limit: float) -> bool:
        now = self._clock()
        return entry.usable(now) and now - entry.filled_at < limit

    def _hand_out(self, entry: Kept) -> Any:
        if entry.error:
            raise again(cast("Exception", entry.value))
        return deepcopy(entry.value) if self.options.copy else entry.value

    def _settle(self, answer: Answer) -> None:
        """Keep within the limits after a fill."""
        if self._closed:
            self._board.drop([answer.entry], "the micro-cache was closed")
            return
        self._make_room()
        self._pruner.ensure()

    # what is kept -----------------------------------------------------------------

    def _kept(self) -> list[Kept]:
        # one entry may have several probes: parameters in another order
        return list(dict.fromkeys(self._index.copy().values()))

    def _make_room(self) -> None:
        limit = self.options.max_entries
        while limit is not None and len(self._index) > limit:
            oldest = self._oldest()
            if oldest is None or not self._board.drop([oldest], "it was evicted for room"):
                return  # other threads are at it

    def _oldest(self) -> Kept | None:
        try:
            # a refill leaves the index and enters it anew: the order is that of the fills
            return next(iter(self._index.values()), None)
        except RuntimeError:  # another thread changed the index just then
            return None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this micro-cache was closed: make another")

    def _close(self) -> None:
        self._closed = True
        self._pruner.stop()
        self._board.drop(self._kept(), "the micro-cache was closed")
        if self.options.cache is None:
            self._board.close()


def _farewell(board: ref[Board], number: int) -> Callable[[], object]:
    """Return what lets go of the entries of a cache that was dropped.

    It holds nothing: a kept error or callback may hold the cache.
    """

    def drop() -> None:
        alive = board()
        if alive is not None:
            left = [entry for entry in alive.entries() if _is_of(entry, number)]
            alive.drop(left, "the micro-cache was dropped")

    return drop


def _is_of(entry: Kept, number: int) -> bool:
    detail = getattr(entry.request, "detail", None)
    return isinstance(detail, Question) and detail.owner == number
