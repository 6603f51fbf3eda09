"""Lineage: what a computation reads is found out while it reads it.

A computation that runs under the cache has a collector in a context variable; every answer given
inside it is observed there, so that it depends on what its parts depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar, Token

from everfresh.engine.receipts import Receipt
from everfresh.kernel.entry import Entry
from everfresh.kernel.ledger import Fill
from everfresh.leases.local import LocalLease

__all__ = ["Collector", "active", "current", "enter", "leave", "observe"]


class Collector:
    """Gather what one computation reads; `outer` is that of the computation that called it.

    ``owner`` is the engine whose ledger hears changes for the fill: what another engine answered
    cannot be listened for there.
    """

    __slots__ = ("_add", "fill", "lease", "outer", "owner")

    def __init__(
        self,
        owner: object,
        fill: Fill,
        lease: LocalLease,
        add: Callable[[Fill, Entry | None, str], None],
    ) -> None:
        self.owner = owner
        self.fill = fill
        self.lease = lease
        self.outer = current()
        self._add = add

    def observe(self, entry: Entry, owner: object) -> None:
        """Depend on an entry that was just read."""
        if owner is self.owner:
            self._add(self.fill, entry, "")
        else:
            self.observe_stranger()

    def observe_stranger(self) -> None:
        """Depend on the answer of another cache, whose changes are not heard here."""
        self.taint("it used the answer of another cache, whose changes are not heard here")

    def taint(self, reason: str) -> None:
        """Forbid keeping the value: it depends on something that nothing listens for."""
        self._add(self.fill, None, reason)

    def chain(self) -> Iterator[Collector]:
        """Yield this collector and those around it that still compute, the innermost first."""
        collector: Collector | None = self
        while collector is not None:
            if not collector.fill.done:
                yield collector
            collector = collector.outer


_current: ContextVar[Collector | None] = ContextVar("everfresh_collector", default=None)
current = _current.get
enter: Callable[[Collector | None], Token[Collector | None]] = _current.set


def active() -> Collector | None:
    """Return the collector of the innermost computation that still computes.

    A background task outlives the computation that started it, and keeps its context.
    """
    collector = current()
    while collector is not None and collector.fill.done:
        collector = collector.outer
    return collector


def leave(token: Token[Collector | None]) -> None:
    """Undo `enter`; a coroutine that is closed with its loop ends in another context."""
    with suppress(ValueError):
        _current.reset(token)


def observe(receipt: Receipt) -> None:
    """Report an answer to the computation that asked for it, if there is one.

    Surfaces call this for what they answer, so that no surface needs to know another.
    """
    collector = active()
    if collector is None:
        return
    if receipt.entry is None or receipt.status == "bypass":
        collector.taint(f"it used an answer that was not kept: {receipt.reason}")
    else:
        collector.observe(receipt.entry, receipt.owner)
