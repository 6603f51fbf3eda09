"""A watch of a PostgreSQL, and what it told since it was asked last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from everfresh.changes.postgres_sources import Source
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.publisher import Publisher
from everfresh.kernel.change import Change
from protocol.recorder import Recorder


class Ear(Recorder):
    """Hold a watch, and what it told since it was asked last."""

    watch: PostgresWatch

    def hear(self) -> list[Change]:
        self.committed.clear()
        self.losses.clear()
        assert self.watch.poll(), self.watch.reason
        return list(self.committed)

    def heard(self) -> list[tuple[str | None, Any, Any]]:
        """Return (table, old row, new row) of what is new."""
        return [(c.table, _plain(c.old), _plain(c.new)) for c in self.hear()]


def _plain(image: Any) -> Any:
    return None if image is None else dict(image)


@contextmanager
def listening(
    engine: Engine, *, install: bool = True, source: Source | None = None
) -> Iterator[Ear]:
    """Yield an ear to the engine's database, after what was written before."""
    publisher = Publisher("session")
    ear = Ear()
    ear.watch = PostgresWatch(engine, publisher, row_limit=50, source=source)
    publisher.subscribe(ear)
    try:
        if install:
            ear.watch.install()
        ear.hear()
        yield ear
    finally:
        ear.watch.close()
