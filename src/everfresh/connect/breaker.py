"""Leave a part that fails alone for a while, so that nobody waits for it again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Say whether a part is to be tried; ``first`` and ``last`` are the pauses, in seconds.

    After a failure it is left alone for the first pause, after each further one for twice as long,
    up to the last; what comes in a pause does without. The pauses are spread at random, so that
    many processes do not come back at once (exponential backoff with jitter).

    >>> now = [0.0]
    >>> breaker = Breaker(first=1.0, clock=lambda: now[0])
    >>> breaker.failed("refused")
    >>> breaker.closed, breaker.reason
    (False, 'refused')
    >>> now[0] = 1.0
    >>> breaker.closed
    True
    """

    def __init__(
        self,
        first: float = 0.1,
        last: float = 5.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.reason: str | None = None
        self._first, self._last = first, last
        self._clock, self._chance = clock, chance
        self._failures = 0
        self._until = 0.0

    @property
    def closed(self) -> bool:
        """Whether the part is to be tried now."""
        return self._failures == 0 or self._clock() >= self._until

    def failed(self, reason: str) -> None:
        """Note that it failed."""
        pause = min(self._first * 2**self._failures, self._last)
        self._failures += 1
        self._until = self._clock() + pause * (0.5 + self._chance() / 2)
        self.reason = reason

    def worked(self) -> None:
        """Note that it worked."""
        if self._failures:
            self._failures, self.reason = 0, None
