"""What a cache keeps beyond its process: a store of answers, and the database of record."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from everfresh.catalogue import Catalogue, Recorder
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.redis_log import RedisLog
from everfresh.changes.session import SessionFeed
from everfresh.engine.board import Board
from everfresh.engine.durable import Durable
from everfresh.engine.rows import make_rows, make_shared_rows
from everfresh.errors import CatalogueError
from everfresh.kernel.keys import digest
from everfresh.kernel.ports import Store
from everfresh.kernel.score import make_policy
from everfresh.leases.postgres import PostgresLeases
from everfresh.leases.redis import RedisLeases
from everfresh.leases.shared import SharedLeases
from everfresh.settings import Settings
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.postgres import PostgresStore
from everfresh.stores.redis import RedisStore
from everfresh.stores.urls import StoreOptions, make_store

__all__ = ["Backing"]


@dataclass(slots=True)
class Backing:
    """Hold the store and the catalogue that the settings name, either of which may be None."""

    settings: Settings
    store: Store | None
    catalogue: Catalogue | None
    durable: Durable | None = None
    recorder: Recorder | None = None

    @classmethod
    def open(cls, settings: Settings) -> Backing:
        """Open both; raises the errors of their URLs and leaves nothing open then.

        A catalogue that cannot be used now is no reason to answer nobody: it is written as soon as
        it can be.
        """
        store = None if settings.store is None else _store(settings.store, settings)
        try:
            url = settings.catalogue
            return cls(settings, store, None if url is None else _catalogue(url))
        except BaseException:
            if store is not None:
                store.close()
            raise

    def attach(self, engine: Engine, feed: SessionFeed, board: Board) -> Durable | None:
        """Begin to record what the board does; return where its answers are kept, if anywhere."""
        clock = self.settings.clock
        if self.catalogue is not None:
            database = digest("database", url=engine.url.render_as_string())
            self.recorder = Recorder(self.catalogue, board.touches, database=database, clock=clock)
            board.recorder = self.recorder
        if self.store is not None:
            self.durable = Durable(self.store, feed, clock, _leases(self.store))
            _join(self.store, feed, self.settings.store_key)
        return self.durable

    @property
    def troubles(self) -> tuple[str, ...]:
        """Say what cannot be used now, and why."""
        reasons = {
            "store": (self.durable and self.durable.failure)
            or getattr(self.store, "trouble", None),
            "catalogue": self.recorder and self.recorder.failure,
        }
        return tuple(f"{part}: {reason}" for part, reason in reasons.items() if reason)

    def flush(self) -> None:
        """Write what waits to be written, and the hits of what is kept."""
        if self.durable is not None:
            self.durable.flush()
        if self.recorder is not None:
            self.recorder.flush()

    def close(self) -> None:
        """Write what waits to be written and let go of both."""
        if self.recorder is not None:
            self.recorder.close()
        if self.catalogue is not None:
            self.catalogue.close()
        if self.durable is not None:
            self.durable.close()
        elif self.store is not None:
            self.store.close()


def _catalogue(url: str) -> Catalogue:
    catalogue = Catalogue(url)
    with suppress(CatalogueError):  # the recorder, which asks again and again, says so
        catalogue.check()
    return catalogue


def _store(url: str, settings: Settings) -> Store:
    policy = make_policy(settings.policy, settings.half_life)
    codec = ChoosingCodec(make=make_rows, make_shared=make_shared_rows)
    key = settings.store_key
    options = StoreOptions(settings.store_bytes, policy, codec, settings.clock, key)
    return make_store(url, options)


def _join(store: Store, feed: SessionFeed, key: bytes | None) -> None:
    """Let the processes that share a Redis tell each other of their commits to a PostgreSQL."""
    if isinstance(store, RedisStore) and isinstance(feed.watch, PostgresWatch):
        feed.watch.log = RedisLog(store.client, store.name, store.breaker, key)
        feed.watch.log.begin()


def _leases(store: Store) -> SharedLeases | None:
    """Return what says who may compute, over all processes that use a store, if its server does."""
    if isinstance(store, RedisStore):
        return RedisLeases(store.client, store.name, store.breaker, store.lease)
    if isinstance(store, PostgresStore):
        return PostgresLeases(store.parameters, store.name, store.lease)
    return None
