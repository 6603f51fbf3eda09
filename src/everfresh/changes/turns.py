"""Let many ask at once for what one answer would tell all of them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

__all__ = ["Turns"]


class Turns:
    """Run one call at a time; who comes meanwhile shares the next one, which begins after it came.

    An answer that began before somebody asked would not do: what was committed in between may not
    be in it. So it is with the commits of databases that write their logs in groups.

    >>> Turns().take(lambda: True)
    True
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._begun = self._ended = 0
        self._running = False
        self._good = False

    def take(self, call: Callable[[], bool]) -> bool:
        """Return what a call that begins from now on returns."""
        with self._changed:
            wanted = self._begun + 1
            while self._running and self._ended < wanted:
                self._changed.wait()
            if self._ended >= wanted:
                return self._good
            self._begun += 1
            mine, self._running = self._begun, True
        good = False
        try:
            good = call()
        finally:
            with self._changed:
                self._good, self._ended, self._running = good, mine, False
                self._changed.notify_all()
        return good
