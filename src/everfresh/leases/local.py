"""Leases within one process: the one place where callers wait for each other."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from itertools import count

from everfresh.kernel.entry import Entry

__all__ = ["LocalLease", "LocalLeases"]


class LocalLease:
    """Hold the right to fill one key; others wait on its future, threads and tasks alike.

    The future is made when the first of them joins, which must not happen once the fill has ended.
    Its result is the filled entry, or None when the owner gave up without an answer (it was
    cancelled or interrupted): then one of those who waited takes over. ``waits_for`` are the
    leases whose ends the owner of this one waits for, so that owners that would wait for each
    other are found before they do.
    """

    __slots__ = ("future", "key", "token", "waits_for")

    def __init__(self, key: str, token: int) -> None:
        self.key = key
        self.token = token
        self.future: Future[Entry | None] | None = None
        self.waits_for: list[LocalLease] = []

    def join(self) -> Future[Entry | None]:
        """Return what the others wait on."""
        if self.future is None:
            self.future = Future()
        return self.future

    def complete(self, entry: Entry) -> None:
        """Hand the answer to everybody who waits."""
        if self.future is not None:
            self.future.set_result(entry)

    def release(self) -> None:
        """Give the right back without an answer."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def leads_to(self, others: Collection[LocalLease]) -> bool:
        """Whether its owner waits, over however many steps, for one of these."""
        seen: set[LocalLease] = set()
        open_ends = [self]
        while open_ends:
            lease = open_ends.pop()
            if lease in others:
                return True
            if lease not in seen:
                seen.add(lease)
                open_ends.extend(lease.waits_for)
        return False


class LocalLeases:
    """Issue leases with growing fencing tokens."""

    def __init__(self) -> None:
        self._tokens = count(1)

    def issue(self, key: str) -> LocalLease:
        """Return a new lease of this key."""
        return LocalLease(key, next(self._tokens))
