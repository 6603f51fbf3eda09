"""Which leases a caller stops who blocks the thread of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from everfresh.leases.local import LocalLease

__all__ = ["Stopped"]

_NONE: frozenset[LocalLease] = frozenset()


class Stopped:
    """Know the leases that tasks hold, by their event loops.

    A blocking caller in the thread of a running loop keeps every task of it from going on: if it
    waited for one of them, it would wait for ever. So it counts as the holder of their leases.

    >>> Stopped().here()
    frozenset()
    """

    def __init__(self) -> None:
        self._held: dict[asyncio.AbstractEventLoop, set[LocalLease]] = {}

    def here(self) -> frozenset[LocalLease]:
        """Return the leases of the event loop that runs in this thread, none without one."""
        if not self._held:
            return _NONE
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return _NONE
        return frozenset(self._held.get(loop, _NONE))

    @contextmanager
    def holding(self, lease: object) -> Iterator[None]:
        """Count a lease as held by a task of the event loop that runs now, until the end."""
        assert isinstance(lease, LocalLease)  # noqa: S101 - the board issues no other
        loop = asyncio.get_running_loop()
        held = self._held.setdefault(loop, set())
        held.add(lease)
        try:
            yield
        finally:
            held.discard(lease)
            if not held:
                self._held.pop(loop, None)
