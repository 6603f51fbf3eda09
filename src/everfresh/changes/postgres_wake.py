"""Wait for the notifications that writers of a tracked PostgreSQL database send."""

from __future__ import annotations

import time
from threading import Event

from everfresh.connect.wire import Wire

__all__ = ["Listener"]

_SLICE = 0.2  # seconds after which it is looked whether it is over


class Listener:
    """Hold a connection that listens; what it hears only wakes, the outbox is the truth."""

    def __init__(self, parameters: str) -> None:
        self._wire = Wire(parameters, settings="LISTEN everfresh")

    def wait(self, stop: Event, seconds: float) -> bool:
        """Wait until somebody notified, at most this long; return whether somebody did.

        Raises `ConnectionFailedError` when the connection is gone.
        """
        deadline = time.monotonic() + seconds
        while not stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._wire.wait(min(left, _SLICE)):
                return True
        return False

    def close(self) -> None:
        """End the connection."""
        self._wire.close()
