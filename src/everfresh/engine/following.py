"""Follow what changes in the data of one statement, for surfaces that keep rows of their own."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from everfresh.engine.aio import AsyncCache
from everfresh.engine.cache import Cache
from everfresh.engine.running import objection
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from everfresh.kernel.freshness import Freshness
from everfresh.kernel.mark import HistoryMark, SnapshotMark
from everfresh.kernel.plan import Source
from everfresh.kernel.ports import Listener
from everfresh.kernel.sqltext.tracing import Trace, trace

__all__ = [
    "Subject",
    "alone",
    "blocking",
    "examine",
    "follow",
    "objects",
    "proven",
    "run",
    "seen",
    "since",
    "version",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """Hold what a statement reads: its sources by table, and where its columns come from.

    ``ordered`` is set where row images arrive in the order of their commits, so that the last one
    of a row is its newest state; elsewhere the row has to be read again.
    """

    sources: Mapping[str | None, Sequence[Source]]
    trace: Trace | None
    keys: Mapping[str, tuple[str, ...]]  # primary key columns by table
    version: int
    ordered: bool

    def touched(self, change: Change) -> bool:
        """Whether a change may alter what the statement reads."""
        if change.table is None or None in self.sources:
            return True
        return any(one.touched_by(change) for one in self.sources.get(change.table, ()))


def blocking(cache: Cache | AsyncCache) -> Cache:
    """Return the cache that an AsyncCache holds, any other as it is."""
    return cache.blocking if isinstance(cache, AsyncCache) else cache


def version(cache: Cache) -> int:
    """Return a number that grows when the schema changes: a `Subject` made before is void."""
    return cache.feed.schema_version


def examine(cache: Cache, statement: str) -> Subject:
    """Return what a statement without parameters reads; may ask the database for its schema.

    Raises `ConfigurationError` if its changes cannot be followed.
    """
    now = version(cache)
    prepared = cache.reader.prepare(statement)
    if prepared.names:
        raise ConfigurationError("the statement of a table that is followed has no parameters")
    if prepared.plan.refusal is not None:
        raise ConfigurationError(f"this statement cannot be followed: {prepared.plan.refusal}")
    sources: dict[str | None, list[Source]] = {}
    for source in prepared.plan.bind({}):
        sources.setdefault(source.table, []).append(source)
    schema = cache.reader.schema()
    keys = {
        name: table.primary_key
        for name in sources
        if name is not None and (table := schema.tables.get(name)) is not None
    }
    ordered = cache.engine.dialect.name == "sqlite"
    return Subject(sources, trace(statement, schema), keys, now, ordered)


def proven(cache: Cache) -> bool:
    """Whether other writers were heard recently enough for the cache's own rule of freshness."""
    until = cache.proof.until
    return until is None or cache.proof.clock() < until


async def objects(cache: Cache, freshness: Freshness | None, subject: Subject) -> str | None:
    """Hear other writers where the rule asks for it; return why nothing kept may be served."""
    cache.board.check_open()
    every = tuple(source for some in subject.sources.values() for source in some)
    return await objection(cache.proof, freshness or cache.freshness, every)


async def run(cache: Cache | AsyncCache, function: Callable[..., T], *args: Any) -> T:
    """Return what a function that asks the database returns, without blocking the event loop."""
    if isinstance(cache, AsyncCache):
        return await cache.runner.run(function, *args)
    return await asyncio.to_thread(function, *args)


def alone(cache: Cache) -> bool:
    """Whether nobody else can write to the database, or nobody else is listened to."""
    return cache.feed.watch is None


def hear(cache: Cache) -> bool:
    """Hear all that others have committed before now; return whether that is certain."""
    return cache.proof.confirm()


PackedMark = tuple[str, str, int | str, float | None]
"""A mark of the database's own history as plain values."""


def seen(cache: Cache) -> PackedMark | None:
    """Return a mark of the database's history, up to which all has been heard now.

    None where the database keeps no history, or others cannot be heard. It asks the database.
    """
    cache.board.check_open()
    with cache.engine.connect() as connection:
        mark = cache.feed.history_mark(connection.connection)
    if mark is None or not cache.proof.confirm():
        return None
    if isinstance(mark, SnapshotMark):
        return mark.feed, mark.history, str(mark), None
    return mark.feed, mark.history, mark.position, mark.stamp


def since(cache: Cache, packed: PackedMark) -> Sequence[Change] | None:
    """Return all changes after a mark, None if that cannot be told. It asks the database."""
    feed, history, position, stamp = packed
    if isinstance(position, int):
        return cache.feed.since(HistoryMark(feed, history, position, stamp))
    try:
        return cache.feed.since(SnapshotMark.parse(feed, history, position))
    except ValueError:
        return None


def follow(cache: Cache, listener: Listener) -> Callable[[], None]:
    """Report every change that the cache hears to this listener; return what ends that."""
    with _lock:
        relay = _relays.get(cache)
        if relay is None:
            relay = _relays[cache] = _Relay()
            cache.feed.subscribe(relay)
    relay.add(listener)
    return lambda: relay.remove(listener)


class _Relay:
    """Hand on what a feed says, to listeners that come and go."""

    def __init__(self) -> None:
        self._references: tuple[weakref.ref[Listener], ...] = ()

    def add(self, listener: Listener) -> None:
        """Report every change from now on to this listener, as long as somebody holds it."""
        with _lock:
            self._references = (*self._references, weakref.ref(listener))

    def remove(self, listener: Listener) -> None:
        """Report nothing more to it."""
        with _lock:
            kept = [one for one in self._references if one() not in (None, listener)]
            self._references = tuple(kept)

    @property
    def _listeners(self) -> list[Listener]:
        return [one for reference in self._references if (one := reference()) is not None]

    def begin(self, changes: Sequence[Change]) -> object:
        """Put the touched sources in flux."""
        return {one: one.begin(changes) for one in self._listeners}

    def end(
        self, token: object, *, committed: bool, changes: Sequence[Change] | None = None
    ) -> None:
        """Lift the flux; who came while it lasted hears of it too."""
        assert isinstance(token, dict)  # noqa: S101 - only `begin` makes tokens
        for one in self._listeners:
            begun = token[one] if one in token else one.begin(changes or ())
            one.end(begun, committed=committed, changes=changes)

    def lost(self, reason: str) -> None:
        """Make everything unproven."""
        for one in self._listeners:
            one.lost(reason)


_lock = Lock()
_relays: weakref.WeakKeyDictionary[Cache, _Relay] = weakref.WeakKeyDictionary()
