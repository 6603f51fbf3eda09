"""One change of a storage at a time; regular writes wait while one is prepared."""

from __future__ import annotations

import asyncio

__all__ = ["Turns"]


class Turns:
    """Let one task change a storage, and others wait; who ends it need not be who began it."""

    def __init__(self) -> None:
        self._free = asyncio.Event()
        self._free.set()

    @property
    def taken(self) -> bool:
        """Whether a change is being prepared."""
        return not self._free.is_set()

    async def until_free(self) -> None:
        """Wait until no change is being prepared."""
        while self.taken:
            await self._free.wait()

    def take(self) -> None:
        """Begin a change, when nobody else does."""
        self._free.clear()

    def give(self) -> None:
        """End it."""
        self._free.set()
