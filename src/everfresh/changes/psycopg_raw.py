"""Watch a psycopg connection itself: its cursors and commits, for those who use it directly.

``connection.connection.cursor().copy(…)`` is the usual way to load data, and passes SQLAlchemy by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

__all__ = ["DriverWatcher", "unwatch", "watch"]

_ENDS = ("commit", "rollback")


class DriverWatcher(Protocol):
    """Be called around what somebody does with the driver directly."""

    def passes(self, text: str) -> bool:
        """Whether to run this text without further ado: it is harmless, or SQLAlchemy's own."""

    def driver_execute(
        self, run: Callable[[], None], cursor: Any, text: str, raw: Any, *, many: bool
    ) -> None:
        """Run a statement."""

    def driver_copy(self, cursor: Any, text: str, raw: Any) -> AbstractContextManager[None]:
        """Return a context to run a COPY in."""

    def driver_end(self, run: Callable[[], None], raw: Any, how: str) -> None:
        """Run the driver's commit or rollback."""


def watch(raw: Any, watcher: DriverWatcher) -> None:
    """Watch this connection if it is psycopg's synchronous one; do nothing otherwise."""
    if type(raw).__module__.partition(".")[0] != "psycopg" or not hasattr(raw, "cursor_factory"):
        return
    raw.cursor_factory = _watched(raw.cursor_factory, watcher)
    for how in _ENDS:
        setattr(raw, how, _ending(getattr(raw, how), raw, how, watcher))


def unwatch(raw: Any) -> None:
    """Give the connection its own functions back."""
    base = getattr(getattr(raw, "cursor_factory", None), "everfresh_base", None)
    if base is not None:
        raw.cursor_factory = base
        for how in _ENDS:
            raw.__dict__.pop(how, None)


def _ending(original: Any, raw: Any, how: str, watcher: DriverWatcher) -> Any:
    def end() -> None:
        watcher.driver_end(original, raw, how)

    return end


def _watched(base: Any, watcher: DriverWatcher) -> Any:
    class WatchedCursor(base):  # type: ignore[misc]  # psycopg's Cursor, or the user's own
        everfresh_base = base

        def execute(self, query: Any, *rest: Any, **named: Any) -> Any:
            text = query if isinstance(query, str) else _text(query, self)
            if watcher.passes(text):
                return super().execute(query, *rest, **named)

            def run() -> None:
                base.execute(self, query, *rest, **named)

            watcher.driver_execute(run, self, text, self.connection, many=False)
            return self

        def executemany(self, query: Any, *rest: Any, **named: Any) -> None:
            text = _text(query, self)

            def run() -> None:
                base.executemany(self, query, *rest, **named)

            if watcher.passes(text):
                run()
            else:
                watcher.driver_execute(run, self, text, self.connection, many=True)

        @contextmanager
        def copy(self, statement: Any, *rest: Any, **named: Any) -> Iterator[Any]:
            with (
                watcher.driver_copy(self, _text(statement, self), self.connection),
                super().copy(statement, *rest, **named) as copy,
            ):
                yield copy

    return WatchedCursor


def _text(query: Any, cursor: Any) -> str:
    """Return a query as text: it may be bytes, or composed of parts."""
    if isinstance(query, (bytes, bytearray)):
        return query.decode("utf-8", "replace")
    return query if isinstance(query, str) else str(query.as_string(cursor))
