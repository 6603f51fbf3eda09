"""One statement at a time: planned, looked up, computed where it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, TypeVar, cast

from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import await_only

from everfresh.changes.session import SessionFeed
from everfresh.engine.fills import HIT, Answer, Fills
from everfresh.engine.lineage import current
from everfresh.engine.reader import Prepared, Reader, probe_of
from everfresh.engine.request import Request
from everfresh.engine.rows import Rows
from everfresh.engine.transactions import Transactions
from everfresh.errors import ConfigurationError, StatementError
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import STRICT, Freshness
from everfresh.settings import Settings

__all__ = ["Statements"]

T = TypeVar("T")


class Statements:
    """Answer statements, each from what is kept or from the database.

    ``shortcuts`` is what the hit path looks into: from what was asked to the entry.
    """

    def __init__(
        self,
        feed: SessionFeed,
        fills: Fills,
        reader: Reader,
        settings: Settings,
        freshness: Freshness,
    ) -> None:
        assert fills.proof is not None  # noqa: S101 - the fills of a Cache have one
        self.shortcuts: dict[object, Entry] = {}
        self.freshness = freshness
        self.feed = feed
        self.fills = fills
        self.board = fills.board
        self.proof = fills.proof
        self.reader = reader
        self.settings = settings
        self.transactions = Transactions(reader.engine, feed, settings.clock)

    def ask(
        self,
        statement: str,
        parameters: dict[str, object],
        ttl: float | None = None,
        freshness: Freshness | None = None,
    ) -> Rows:
        """Return the rows of a SELECT that no shortcut answered."""
        self.board.check_open()
        try:
            return self._ask(statement, parameters, ttl, freshness or self.freshness)
        except MissingGreenlet:
            raise ConfigurationError(
                "cache.sql blocks, and this engine is asyncio's: open the cache with a blocking "
                "engine of the same database"
            ) from None

    def _ask(
        self,
        statement: str,
        parameters: dict[str, object],
        ttl: float | None,
        freshness: Freshness,
    ) -> Rows:
        prepared, request = self.request(statement, parameters, ttl, freshness=freshness)
        refusal = self.reader.refusal(prepared, parameters)
        refusal = refusal or self.proof.objection(freshness, request.sources)
        if refusal is not None:
            answer = self.fills.bypass(
                request, refusal, lambda: self.reader.bypass(prepared, parameters)
            )
        else:
            request.renew = lambda: self.ask(statement, parameters, ttl, freshness)
            answer = self.fills.answer(
                request, lambda: self.compute(prepared, parameters, request, freshness)
            )
        return self.rows(answer)

    def compute(
        self,
        prepared: Prepared,
        parameters: dict[str, object],
        request: Request,
        freshness: Freshness,
    ) -> Rows:
        """Return the rows of a miss: from what outlived another process, or from the database.

        What they have seen of others' commits is heard before they are given, so that no later
        answer of this process goes back behind them.
        """
        durable, collector = self.fills.durable, current()
        found = None
        if durable is not None and collector is not None:
            fill = collector.fill
            found = self._off_loop(lambda: durable.obtain(request, freshness, fill))
        if found is not None and collector is not None:
            collector.fill.recalled, collector.fill.seen = found, found.seen
            return cast("Rows", found.value)  # with what was committed before heard
        rows = self.reader.fill(prepared, parameters)
        if self.feed.watch is not None and freshness.mode != "ttl":
            self._off_loop(lambda: self.feed.poll(inf))
        return rows

    def _off_loop(self, call: Callable[[], T]) -> T:
        """Return what a blocking call returns, in a thread if an event loop would be blocked."""
        if not self.reader.engine.dialect.is_async:
            return call()
        return await_only(asyncio.to_thread(call))  # in a greenlet of the event loop

    def sql_in(
        self,
        connection: Any,
        statement: str,
        parameters: dict[str, object],
        freshness: Freshness | None = None,
    ) -> Rows:
        """Return the rows of a SELECT as the caller's transaction sees them."""
        self.board.check_open()
        inside = self.transactions.connection_of(connection)
        reason = self.transactions.objection(inside)
        unplanned = None if reason is None else self.reader.unplanned(statement, reason)
        prepared, request = self.request(statement, parameters, prepared=unplanned)
        rule = freshness or self.freshness
        if self.transactions.keeps_snapshot(inside):
            rule = STRICT  # what is kept must be proven for the moment of the snapshot
        reason = self.reader.refusal(prepared, parameters)
        reason = reason or self.proof.objection(rule, request.sources)
        if reason is None:
            entry = self.board.peek(request.key)
            if entry is not None and self.transactions.answers(inside, entry):
                return self.rows(self.fills.hit(entry))
            reason = "nothing kept is proven for this transaction, whose own reads are not kept"
        return self.rows(
            self.fills.bypass(
                request, reason, lambda: self.reader.run(inside, prepared, parameters)
            )
        )

    def request(
        self,
        statement: str,
        parameters: dict[str, object],
        ttl: float | None = None,
        prepared: Prepared | None = None,
        freshness: Freshness | None = None,
    ) -> tuple[Prepared, Request]:
        """Return the plan of a statement and what to ask the engine for it."""
        if not isinstance(statement, str):
            raise StatementError(
                f"cache.sql takes SQL text, not {type(statement).__name__}: write it as a str"
            )
        prepared = prepared or self.reader.prepare(statement)
        self.reader.check(prepared, parameters)
        feed, settings = self.feed, self.settings
        ttl = settings.ttl if ttl is None else ttl
        return prepared, Request(
            key=self.reader.key(prepared, parameters),
            kind="sql",
            label=statement,
            sources=prepared.plan.bind(parameters),
            ttl=(freshness or self.freshness).lifetime(ttl),
            grace=settings.stale_while_revalidate,
            beta=settings.early_refresh,
            shortcuts=self.shortcuts,
            probe=probe_of(statement, parameters),
            detail=dict(parameters),
            current=lambda: feed.schema_version == prepared.version,
            seal=self._seal,
        )

    def _seal(self, entry: Entry) -> None:
        """Make the rows that all hits share carry the receipt of a hit."""
        rows, hit = entry.value, Answer(entry, "hit", HIT)
        if isinstance(rows, Rows):
            entry.value = rows.with_receipt(lambda: self.fills.receipt(hit))

    def rows(self, answer: Answer) -> Rows:
        """Return the rows of an answer, with its receipt."""
        rows: Rows = answer.value()
        return (
            rows if answer.reason is HIT else rows.with_receipt(lambda: self.fills.receipt(answer))
        )
