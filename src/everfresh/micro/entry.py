"""The entry of the reference document: what `QueryCache.entries` shows."""

from __future__ import annotations

from threading import Lock
from typing import Any

__all__ = ["Entry"]


class Entry:
    """Hold one result of a `QueryCache` and when it was made.

    ``timestamp`` is in seconds of the cache's clock, 0 for never; ``lock`` is there for code that
    expects one (the cache itself takes no lock of an entry); ``result`` is what the callback
    returned, or the exception that is kept in its place.

    >>> entry = Entry(timestamp=12.5, result=[1, 2])
    >>> entry.timestamp, entry.result
    (12.5, [1, 2])
    """

    __slots__ = ("lock", "result", "timestamp")

    def __init__(self, timestamp: float = 0, lock: Any = None, result: Any = None) -> None:
        self.timestamp = timestamp
        self.lock = Lock() if lock is None else lock
        self.result = result

    def __repr__(self) -> str:
        return f"Entry(timestamp={self.timestamp!r}, result={self.result!r})"
