"""Get or compute: who answers, who waits, and what is handed to whom.

No lock is held while a value is computed or while anybody waits. Waiting is done on one
`concurrent.futures.Future` per fill, by threads directly and by tasks through `wrap_future`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import Context
from dataclasses import dataclass, replace
from random import random
from sys import getsizeof
from threading import Thread
from typing import Any, Self, cast

from everfresh.engine.board import Board
from everfresh.engine.cutoff import UNCHANGED, parts_of
from everfresh.engine.durable import RECALLED, Durable
from everfresh.engine.lineage import Collector, active, enter, leave
from everfresh.engine.proof import Proof
from everfresh.engine.raising import again, bare
from everfresh.engine.receipts import Receipt, Status
from everfresh.engine.request import Request
from everfresh.engine.rows import Rows
from everfresh.errors import ClosedError, RecursiveFillError
from everfresh.kernel.entry import DROPPED, Entry
from everfresh.kernel.keys import PLAIN
from everfresh.kernel.ledger import Fill
from everfresh.leases.local import LocalLease
from everfresh.leases.loops import Stopped
from everfresh.stores.sizing import size_of

__all__ = ["HIT", "Answer", "Fills", "Request"]

HIT = "kept, and nothing it depends on has changed"
_ENTRY = 2500  # bytes of an entry besides its value: keys, sources, shortcuts (as tracemalloc saw)
_PLACE = 400  # bytes of one value in the change index and in its condition
_UNTRACED: AbstractContextManager[None] = nullcontext()
_NONE_HELD: frozenset[LocalLease] = frozenset()


def _weight(request: Request, value: object) -> int:
    """Return about how many bytes an entry takes: value, parameters, places in the index."""
    anchors = [source.anchor for source in request.sources]
    places = sum(len(anchor.values) for anchor in anchors if anchor is not None)
    own = value.nbytes if isinstance(value, Rows) else size_of(value)
    return own + _size_of_detail(request.detail) + places * _PLACE + _ENTRY


def _size_of_detail(detail: object) -> int:
    """Return the bytes of what was asked with, without looking into flat values: it is often so."""
    if type(detail) is not dict:
        return size_of(detail)
    cells = detail.values()
    return 232 + sum(getsizeof(v) if type(v) in PLAIN else size_of(v) for v in cells)


@dataclass(slots=True, frozen=True)
class Answer:
    """Hold an answer and how it was come by."""

    entry: Entry
    status: Status
    reason: str
    error: Exception | None = None

    def value(self) -> Any:
        """Return the value, or raise the error that the computation raised."""
        if self.error is not None:
            raise self.error  # to the one who computed, as it came
        if self.entry.error:
            raise again(cast("Exception", self.entry.value))
        return self.entry.value


class _Computation:
    """Run one computation in a `with` block and keep what it raises.

    A class, not a generator under `contextmanager`: every miss goes through it.
    """

    __slots__ = ("_collector", "_started", "_token", "cost", "raised", "value")

    def __init__(self, collector: Collector) -> None:
        self.value: object = None
        self.raised: Exception | None = None
        self.cost = 0.0
        self._collector = collector

    def __enter__(self) -> Self:
        self._token = enter(self._collector)
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.cost = time.perf_counter() - self._started
        leave(self._token)
        if isinstance(error, Exception):
            # what is kept and shared is a copy without the frames, which hold all their variables
            self.raised, self.value = error, bare(error)
        return error is None or self.raised is not None


class Fills:
    """Answer requests from what is kept, or by computing, once at a time for each key."""

    def __init__(self, board: Board, proof: Proof | None = None) -> None:
        self.board = board
        self.proof = proof
        self.durable: Durable | None = None
        self.tracing: Callable[[Request], AbstractContextManager[Any]] | None = None
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._stopped = Stopped()

    def answer(self, request: Request, compute: Callable[[], object]) -> Answer:
        """Return a kept answer, or compute one, or wait for whoever is computing it."""
        try:
            return self._answer(request, compute)
        except BaseException:
            self._give_up(request)
            raise

    async def answer_async(
        self, request: Request, compute: Callable[[], Awaitable[object]]
    ) -> Answer:
        """Do the same for a coroutine; waiting never blocks the event loop."""
        try:
            return await self._answer_async(request, compute)
        except BaseException:
            self._give_up(request)
            raise

    def _give_up(self, request: Request) -> None:
        """Let one of those who wait take over: this caller was cancelled or interrupted.

        An interrupt may come between any two steps, so the request knows its fill, not the caller.
        """
        fill = request.fill
        if fill is not None:
            self.board.abandon(fill)  # again, if that was where it was interrupted
            if self.durable is not None:
                self.durable.give_back(fill)
            cast("LocalLease", fill.lease).release()
            enter(active())  # if it was interrupted before it could leave

    def _answer(self, request: Request, compute: Callable[[], object]) -> Answer:
        while True:
            mine, outer = self._held(request)
            mine |= self._stopped.here()
            claim = self.board.claim(request, mine, outer)
            if isinstance(claim, Entry):
                if self._ages(request, claim):
                    self._renew(request, compute)
                return self.hit(claim)
            if isinstance(claim, Fill):
                with self._traced(request), self._computing(claim) as done:
                    done.value = compute()
                return self._settle(request, claim, done)
            try:
                entry = claim.join().result()
            finally:
                self.board.waited(mine, claim)
            if entry is not None:
                return self._joined(entry)

    async def _answer_async(
        self, request: Request, compute: Callable[[], Awaitable[object]]
    ) -> Answer:
        while True:
            mine, outer = self._held(request)
            claim = self.board.claim(request, mine, outer)
            if isinstance(claim, Entry):
                if self._ages(request, claim):
                    self._renew_async(request, compute)
                return self.hit(claim)
            if isinstance(claim, Fill):
                with (
                    self._stopped.holding(claim.lease),
                    self._traced(request),
                    self._computing(claim) as done,
                ):
                    done.value = await compute()
                return self._settle(request, claim, done)
            try:
                # shield: a waiter that is cancelled must not cancel what the others wait for
                entry = await asyncio.shield(asyncio.wrap_future(claim.join()))
            finally:
                self.board.waited(mine, claim)
            if entry is not None:
                return self._joined(entry)

    def _ages(self, request: Request, entry: Entry) -> bool:
        aging = entry.deadline is not None and request.ages(entry, self.board.clock(), random())  # noqa: S311 - a dice for load, not for secrets
        return aging and not self.board.filling(request.key)

    def _renew(self, request: Request, compute: Callable[[], object]) -> None:
        """Make an aging answer anew in a thread; if that fails, the next reader tries again."""

        def renew() -> None:
            with suppress(ClosedError):
                self.answer(replace(request, anew=True, fill=None), compute)

        with suppress(RuntimeError):  # no thread to be had
            Thread(target=renew, name="everfresh-renew", daemon=True).start()

    def _renew_async(self, request: Request, compute: Callable[[], Awaitable[object]]) -> None:
        fresh = replace(request, anew=True, fill=None)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self.answer_async(fresh, compute), context=Context())
        self._tasks.add(task)  # the loop itself holds no task
        task.add_done_callback(self._tasks.discard)

    def bypass(self, request: Request, reason: str, compute: Callable[[], object]) -> Answer:
        """Compute an answer that is neither kept nor shared, and say why."""
        self.board.check_open()
        self._taint(reason)  # before it reads: nobody may join the caller's computation from now on
        started = time.perf_counter()
        value = compute()
        cost = time.perf_counter() - started
        return self._bypassed(self._entry(request, None, value, cost), reason)

    async def bypass_async(
        self, request: Request, reason: str, compute: Callable[[], Awaitable[object]]
    ) -> Any:
        """Do the same for a coroutine; return its value."""
        self.board.check_open()
        self._taint(reason)
        self.board.counters.bypass(reason)
        return await compute()

    def hit(self, entry: Entry) -> Answer:
        """Count a hit and let the computation around it, if any, depend on the entry."""
        entry.hits += 1
        self.board.store.touched(entry.standing)
        collector = active()
        if collector is not None:
            collector.observe(entry, self)
        return Answer(entry, "hit", HIT)

    def receipt(self, answer: Answer) -> Receipt:
        """Return the receipt of an answer, with its age now."""
        now = self.board.clock()
        proof = None if self.proof is None else self.proof.means(answer.entry)
        return Receipt.of(answer.entry, answer.status, answer.reason, now, self, proof)

    # one fill -----------------------------------------------------------------

    def _held(self, request: Request) -> tuple[frozenset[LocalLease], Fill | None]:
        """Return the leases that the caller holds, and the computation that asks.

        Refuses one that asks for itself.
        """
        collector = active()
        if collector is None:
            return _NONE_HELD, None
        chain = list(collector.chain())
        if any(c.owner is self and c.fill.key == request.key for c in chain):
            raise RecursiveFillError(
                f"{request.label} asked the cache for its own result while computing it"
            )
        if collector.owner is not self:
            collector.observe_stranger()  # before it reads: nobody may join it from now on
            return frozenset(c.lease for c in chain), None
        return frozenset(c.lease for c in chain), collector.fill

    def _traced(self, request: Request) -> AbstractContextManager[Any]:
        return _UNTRACED if self.tracing is None else self.tracing(request)

    def _computing(self, fill: Fill) -> _Computation:
        lease = cast("LocalLease", fill.lease)
        return _Computation(Collector(self, fill, lease, self.board.observe))

    def _settle(self, request: Request, fill: Fill, done: _Computation) -> Answer:
        lease = cast("LocalLease", fill.lease)
        entry = self._entry(request, fill, done.value, done.cost, error=done.raised is not None)
        if fill.parents and not entry.error:
            entry.own, entry.upstream = request.sources, parts_of(fill)
        refused = self.board.publish(fill, entry, request)
        lease.complete(entry)
        shared = fill.held is not None
        if shared and self.durable is not None:
            self.durable.deliver(fill, entry if refused is None else None)
        request.fill = None  # the entry keeps the request, and must not keep the computation
        if refused is not None:
            return replace(self._bypassed(entry, refused), error=done.raised)
        self._observed(entry)
        if fill.recalled is not None:
            kept = fill.recalled.known  # in memory, unproven until now
            return Answer(entry, "refresh", UNCHANGED) if kept else Answer(entry, "hit", RECALLED)
        if self.durable is not None and not shared:
            self.durable.keep(entry)
        return Answer(entry, cast("Status", entry.origin), entry.reason, done.raised)

    def finish(self, request: Request, fill: Fill, value: object, cost: float) -> Entry | None:
        """End a fill that somebody else has computed; return its entry if it is kept."""
        entry = self._entry(request, fill, value, cost)
        refused = self.board.publish(fill, entry, request)
        cast("LocalLease", fill.lease).complete(entry)
        request.fill = None
        return entry if refused is None else None

    def _joined(self, entry: Entry) -> Answer:
        self.board.counters.joined += 1
        reason = "shared the computation of another caller"
        if entry.state == DROPPED:
            return self._bypassed(entry, f"{reason}, which was not kept")
        self._observed(entry)
        return Answer(entry, "fill", reason)

    def _entry(
        self,
        request: Request,
        fill: Fill | None,
        value: object,
        cost: float,
        *,
        error: bool = False,
    ) -> Entry:
        now = self.board.clock()
        recalled = None if fill is None else fill.recalled
        keep = request.keep_errors if error else request.ttl
        parents = () if fill is None else fill.parents
        # an answer made of others lives no longer than they do
        limits = [parent.deadline for parent in parents if parent.deadline is not None]
        if keep is not None:
            limits.append((now if recalled is None else recalled.filled_at) + keep)
        if recalled is not None and recalled.deadline is not None:
            limits.append(recalled.deadline)
        entry = Entry(
            key=request.key,
            value=value,
            kind=request.kind,
            label=request.label,
            sources=request.sources if fill is None else tuple(fill.sources),
            mark=None if fill is None else fill.mark,
            seen=None if fill is None else fill.seen,
            filled_at=now if recalled is None else recalled.filled_at,
            cost=cost if recalled is None else recalled.cost,
            bytes=_weight(request, value),
            deadline=min(limits, default=None),
            parents=tuple(parent.key for parent in parents),
            error=error,
            request=request,
        )
        if request.seal is not None:
            request.seal(entry)
        return entry

    def _bypassed(self, entry: Entry, reason: str) -> Answer:
        entry.state = DROPPED
        self.board.counters.bypass(reason)
        self._taint(reason)
        return Answer(entry, "bypass", reason)

    def _taint(self, reason: str) -> None:
        collector = active()
        if collector is not None:
            collector.taint(f"it used an answer that was not kept: {reason}")

    def _observed(self, entry: Entry) -> None:
        collector = active()
        if collector is not None:
            collector.observe(entry, self)
