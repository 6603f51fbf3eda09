"""A listener that writes down what a feed tells, and a watched engine around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from everfresh.changes.session import SessionFeed
from everfresh.kernel.change import Change


@dataclass
class Recorder:
    """Hold what was begun and is not ended, and what was committed."""

    on_begin: Callable[[], None] = lambda: None
    flux: dict[object, Sequence[Change]] = field(default_factory=dict)
    committed: list[Change] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    settled: threading.Event = field(default_factory=threading.Event)

    def begin(self, changes: Sequence[Change]) -> object:
        token = object()
        self.flux[token] = tuple(changes)
        self.on_begin()
        return token

    def end(
        self, token: object, *, committed: bool, changes: Sequence[Change] | None = None
    ) -> None:
        begun = self.flux.pop(token)
        self.ends.append(committed)
        if committed:
            self.committed.extend(begun if changes is None else changes)
        self.settled.set()

    def lost(self, reason: str) -> None:
        self.losses.append(reason)

    @property
    def tables(self) -> set[str | None]:
        """Tables of what was committed."""
        return {change.table for change in self.committed}

    @property
    def in_flux(self) -> set[str | None]:
        """Tables in flux now."""
        return {change.table for changes in self.flux.values() for change in changes}

    @property
    def rows(self) -> list[tuple[str | None, Any, Any]]:
        """(table, old values, new values) of the rows committed; None, None for a whole table."""
        return [
            (
                change.table,
                None if change.old is None else tuple(change.old.values()),
                None if change.new is None else tuple(change.new.values()),
            )
            for change in self.committed
        ]

    def clear(self) -> None:
        self.committed.clear()
        self.ends.clear()
        self.settled.clear()


@contextmanager
def watched(engine: Engine, **options: Any) -> Iterator[tuple[Recorder, SessionFeed]]:
    """Yield a recorder of what an engine commits."""
    recorder = Recorder()
    feed = SessionFeed(engine, **options)
    feed.subscribe(recorder)
    try:
        yield recorder, feed
    finally:
        feed.close()
