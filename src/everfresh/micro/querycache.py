"""The micro-cache of the reference document, for threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

from everfresh.engine.lineage import current
from everfresh.engine.request import Request
from everfresh.errors import ClosedError
from everfresh.kernel.closing import Closing
from everfresh.kernel.entry import Entry as Kept
from everfresh.micro.database import Database, adapt, as_dicts
from everfresh.micro.followed import FollowedDatabase, Listening
from everfresh.micro.formatting import formatting, keepable
from everfresh.micro.options import Options
from everfresh.micro.question import ALL, CALL, Question
from everfresh.micro.shelf import NOTHING, Shelf

__all__ = ["QueryCache"]

Params = Mapping[str, Any] | Sequence[Any] | None


class QueryCache(Shelf, Closing):
    """Implement a caching SQL post-processor.

    An instance is called with a callback and one or more SQL texts. The callback gets one result
    set for each text, in their order, as lists of dictionaries; what it returns is kept for
    ``threshold`` seconds under the SQL texts and handed out by reference. What the database or the
    callback raises is kept too: an error of the callback is raised as `FormattingError` from the
    original, an error of the database as itself.

    ``db`` is a SQLAlchemy engine, a function that returns a DBAPI connection, or an object with
    ``one(sql, params)`` and ``all(sql, params)``. ``threshold_prune`` is how often, in seconds, a
    thread removes what is stale. ``options`` are the fields of `Options`. Safe to use from any
    number of threads: however many ask, the database is asked once, and a hit waits for nobody.

    >>> import sqlalchemy
    >>> cache = QueryCache(sqlalchemy.create_engine("sqlite://"), threshold=5)
    >>> cache(lambda ones, twos: (ones, twos), "SELECT 1 AS n", "SELECT 2 AS n")
    ([{'n': 1}], [{'n': 2}])
    >>> cache.one("SELECT :a AS a", {"a": 3}, process=lambda row: row["a"])
    3
    >>> cache.close()
    """

    db: Database

    def __init__(
        self,
        db: Any,
        threshold: float = 5,
        threshold_prune: float | None = 60,
        **options: Any,
    ) -> None:
        chosen = Options(**options)
        super().__init__(threshold, threshold_prune, chosen)
        self.db = adapt(db)
        if chosen.cache is not None:
            self.db = FollowedDatabase(chosen.cache, db)
        # the hit path reads no options: where they ask for more than a look, it finds nothing
        self._hot: dict[object, Kept] = {} if chosen.copy or chosen.by_callback else self._index

    # asking: the three look, each in its own words, for what is kept and young; a call more
    # would double what a hit costs. Errors are not found so: their state is another.

    def __call__(self, callback: Callable[..., Any], query: str, /, *queries: str) -> Any:
        """Return what the callback makes of the result sets of these queries."""
        try:
            entry = self._hot[(CALL, query, *queries)]
        except (KeyError, TypeError):
            entry = NOTHING
        if (
            entry.state == 0
            and self._clock() - entry.filled_at < self.threshold
            and current() is None
        ):
            entry.hits += 1
            self._touched(entry.standing)
            return entry.value
        return self._ask(self._question("call", (query, *queries), None, callback))

    def one(
        self, query: str, params: Params = None, process: Callable[..., Any] | None = None
    ) -> Any:
        """Return what ``process`` makes of the only row, None where there is no row.

        Without ``process`` the row itself, a dictionary. From an engine or a factory, several rows
        are a `StatementError`.
        """
        try:
            if params is None:
                entry = self._hot[query]
            else:
                values = params.values()  # type: ignore[union-attr]  # a sequence has none: below
                entry = self._hot[(query, *params, *values, *map(type, values))]
        except (KeyError, TypeError, AttributeError):
            entry = NOTHING
        if (
            entry.state == 0
            and self._clock() - entry.filled_at < self.threshold
            and current() is None
        ):
            entry.hits += 1
            self._touched(entry.standing)
            return entry.value
        return self._ask(self._question("one", (query,), params, process))

    def all(
        self, query: str, params: Params = None, process: Callable[..., Any] | None = None
    ) -> Any:
        """Return what ``process`` makes of the list of rows; without it the list itself."""
        try:
            if params is None:
                entry = self._hot[(ALL, query)]
            else:
                values = params.values()  # type: ignore[union-attr]  # a sequence has none: below
                entry = self._hot[(ALL, query, *params, *values, *map(type, values))]
        except (KeyError, TypeError, AttributeError):
            entry = NOTHING
        if (
            entry.state == 0
            and self._clock() - entry.filled_at < self.threshold
            and current() is None
        ):
            entry.hits += 1
            self._touched(entry.standing)
            return entry.value
        return self._ask(self._question("all", (query,), params, process))

    def close(self) -> None:
        """End the pruning thread and let go of everything; the database stays as it is."""
        self._close()

    # what no shortcut answered ------------------------------------------------------

    def _ask(self, question: Question) -> Any:
        probe = self._probe(question)
        kept = self._fresh(probe)
        if kept is not None:
            return self._hand_out(kept)
        request = self._request(question, probe, self._listening(question))
        aged = self._aged(probe)
        if aged is not None:
            self._refresh(request, question)
            return self._hand_out(aged)
        answer = self._fills.answer(request, lambda: self._compute(question))
        self._settle(answer)
        return self._hand_out(answer.entry)

    def _listening(self, question: Question) -> Listening:
        self._check_open()
        return self.db.listening(question) if isinstance(self.db, FollowedDatabase) else Listening()

    def _refresh(self, request: Request, question: Question) -> None:
        """Make an aged result anew in a thread, unless that is being done."""
        if request.key in self._refreshing:
            return

        def refresh() -> None:
            try:
                with suppress(ClosedError):
                    self._settle(self._fills.answer(request, lambda: self._compute(question)))
            finally:
                self._refreshing.discard(request.key)

        self._refreshing.add(request.key)
        try:
            Thread(target=refresh, name="everfresh-micro-refresh", daemon=True).start()
        except RuntimeError:  # no thread to be had: the next one who asks tries again
            self._refreshing.discard(request.key)

    def _compute(self, question: Question) -> Any:
        callback = question.callback
        if question.form == "call":
            assert callback is not None  # noqa: S101 - `__call__` gives one
            sets = [as_dicts(self.db.all(query, None)) for query in question.queries]
            with formatting(callback):
                return keepable(callback(*sets))
        fetch = self.db.one if question.form == "one" else self._all
        rows = fetch(question.queries[0], question.parameters)
        if callback is None:
            return rows
        with formatting(callback):
            return keepable(callback(rows))

    def _all(self, query: str, params: Any) -> list[Any]:
        return list(self.db.all(query, params))
