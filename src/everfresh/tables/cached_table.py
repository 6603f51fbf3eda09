"""The cached table: what users call. How reads are answered is in `reads`, changes in `upkeep`."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from everfresh.engine.aio import AsyncCache
from everfresh.engine.cache import Cache
from everfresh.engine.lineage import current
from everfresh.errors import ClosedError, TableError
from everfresh.kernel.freshness import Freshness
from everfresh.tables.db import DbAccess
from everfresh.tables.following import Follower
from everfresh.tables.indexes import Indexes, UnsupportedIndexOperation
from everfresh.tables.metrics import counters_of
from everfresh.tables.pieces import Pieces
from everfresh.tables.reads import Reads, taint
from everfresh.tables.storage import StorageTable
from everfresh.tables.subscriptions import Delivery, deliveries
from everfresh.tables.types import PrimaryKey
from everfresh.tables.upkeep import Progress, Upkeep
from everfresh.tables.warm import WarmCopy

__all__ = ["CachedTable"]

_owners: weakref.WeakKeyDictionary[Indexes, weakref.ref[CachedTable]] = weakref.WeakKeyDictionary()
_PAUSE = 1.0  # seconds until a refresh that failed is tried again by itself
_LOG = logging.getLogger("everfresh.tables")


class CachedTable:
    """A cached table.

    Keeps a set of records of a database, of a table, a join or any other result, in a fast
    storage. A read of records that ``indexes`` says are covered is answered from there, any other
    from the database. For use in one event loop; `SyncCachedTable` is for threads.

    Most methods take either one ``IndexSpec`` of the indexes or the arguments to make one of.

    Records are handed out as the objects that are kept: do not change them. With ``admit``, records
    that a read finds missing are kept from then on, and so is that there are none; at most about
    ``max_bytes`` of them: what is cheapest to fetch again per byte goes first. ``progress`` is
    called with a `Progress` now and then while records are loaded.

    With ``cache`` the table follows that cache's change feed, and nothing has to be invalidated:
    what a commit touches is served from the database while it is under way, and by what it has
    become after it. ``statement`` is the SELECT of all records, where the indexes do not know it;
    ``through`` says which records a row of another table of a join touches:
    ``{"planes": ("tailnum", "by_plane")}`` names a column there, and the index here whose first
    attribute has its values. ``freshness`` is as in `everfresh.Settings`. ``warm`` names a file for
    `save`, from which the next process loads, if the feed can tell what has changed since.

    >>> import asyncio
    >>> from everfresh.tables import CachedTable, DbAccess, PrimaryKeyIndexes
    >>> from everfresh.tables.local import LocalStorageTable
    >>> class Planes(DbAccess):
    ...     async def get_records(self, records_spec):
    ...         for tailnum in records_spec.args[0]:
    ...             yield {"tailnum": tailnum, "seats": 100}
    >>> async def main():
    ...     indexes = PrimaryKeyIndexes(lambda plane: plane["tailnum"], "all planes", "some planes")
    ...     table = CachedTable(indexes, Planes(), LocalStorageTable(indexes))
    ...     await table.load("primary_key", "N10156", "N102UW")
    ...     return table.get("N10156"), await table.get_first_record("primary_key", "N999")
    >>> asyncio.run(main())
    ({'tailnum': 'N10156', 'seats': 100}, {'tailnum': 'N999', 'seats': 100})
    """

    def __init__(
        self,
        indexes: Indexes,
        db_access: DbAccess,
        storage_table: StorageTable,
        *,
        cache: Cache | AsyncCache | None = None,
        statement: str | None = None,
        through: Mapping[str, tuple[str, str]] | None = None,
        freshness: Freshness | str | None = None,
        admit: bool = False,
        max_bytes: int | None = None,
        warm: str | Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.indexes = indexes
        self.db_access = db_access
        self.storage_table = storage_table
        self.counters = counters_of(storage_table.name)
        self._upkeep = Upkeep(indexes, db_access, storage_table, self.counters, progress)
        self._validity = self._upkeep.validity
        self._loaded = asyncio.Event()
        self._is_loaded = False
        self._closed = False
        self._ended = asyncio.Event()
        self._follower: Follower | None = None
        self._refreshing: asyncio.Task[None] | None = None
        if cache is not None:
            self._follower = Follower(
                cache,
                statement,
                indexes,
                db_access,
                self._validity,
                keyed=storage_table.keyed,
                freshness=freshness,
                through=through,
            )
            self._upkeep.hear = self._follower.hear
            self._follower.woken = self._refresh_soon
            self.__dict__["get"] = self._get_proven
        self._pieces = Pieces(indexes, max_bytes)
        self._warm = None if warm is None else WarmCopy(warm, self._follower, db_access)
        self._reads = Reads(
            indexes,
            db_access,
            storage_table,
            self._upkeep,
            self.counters,
            admit=admit,
            pieces=self._pieces,
            follower=self._follower,
        )

    # loading ----------------------------------------------------------------------------

    async def load(self, *args: Any, **kwargs: Any) -> None:
        """Clear storage and load the records meant; after it, the table can be read.

        Raises ValueError if the table is loaded already, or if the index does not support
        adjusting. What fails may be tried again.
        """
        spec = self._spec(args, kwargs)
        self._check_new()
        async with self._upkeep.lock:
            self._check_new()
            self._claim_indexes()
            if self._follower is not None:
                await self._follower.prepare()
                self._validity.forget()  # of what was committed before the load begins
            with _AS_VALUE_ERROR:
                kept = None if self._warm is None else await self._warm.records(spec)
                await self._upkeep.load(spec, kept)
            self._set_loaded()

    async def save(self) -> bool:
        """Keep what was loaded in the file of ``warm``, for the next process to begin with.

        Return whether that was possible: not while a commit is under way, without a change table,
        or after reads added records. Raises `CodecError` for records that cannot be kept.
        """
        await self.loaded()
        if self._warm is None or len(self._pieces):
            return False
        return await self._warm.save(self._upkeep)

    async def loaded(self) -> None:
        """Wait until the table is loaded; raises `ClosedError` if it is closed before."""
        if not self._is_loaded:
            await self._loaded.wait()
        self._check_open()

    def _check_new(self) -> None:
        self._check_open()
        if self._is_loaded:
            raise TableError("this table is loaded already: use adjust")

    def _claim_indexes(self) -> None:
        """Refuse indexes that know what another table covers."""
        owner = _owners.get(self.indexes)
        other = None if owner is None else owner()
        if other is not None and other is not self and other._is_loaded and not other._closed:  # noqa: SLF001 - another of us
            raise TableError("these indexes are in use by another table: make new ones for this")
        _owners[self.indexes] = weakref.ref(self)

    def _set_loaded(self) -> None:
        self._is_loaded = True
        self._loaded.set()

    # reading ----------------------------------------------------------------------------

    async def get_records(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Asynchronously iterate over the records meant.

        From storage, if the index covers them all; what was marked as invalid is refreshed before.
        Otherwise from the database, whole or, where the index can say so, what is missing. Nothing
        is locked while you iterate, and what changes meanwhile is not seen. Raises ValueError if
        the index cannot say what it covers.
        """
        spec = self._spec(args, kwargs)
        await self.loaded()
        with _AS_VALUE_ERROR:
            records = await self._reads.records(spec)
        for record in records:
            yield record

    async def get_first_record(self, *args: Any, **kwargs: Any) -> Any:
        """Return one of the records meant; raises KeyError if there is none.

        Records have no defined order: this is for specs that mean one record at most.
        """
        spec = self._spec(args, kwargs)
        if not self._is_loaded or self._closed:
            await self.loaded()
        with _AS_VALUE_ERROR:
            return await self._reads.first(spec)

    def get(self, primary_key: PrimaryKey, default: Any = None) -> Any:
        """Return the record with this key if it is kept and valid, else the default.

        It never waits and never asks the database: where it has no record, `get_many` has or tells
        that there is none. Storages without snapshots have none for it.
        """
        if current() is not None:
            taint()
        hot, size = self._validity.hot
        return hot[hash(primary_key) % size].get(primary_key, default)

    def _get_proven(self, primary_key: PrimaryKey, default: Any = None) -> Any:
        if self._follower is not None and not self._follower.proven():
            return default
        return CachedTable.get(self, primary_key, default)

    async def get_many(self, primary_keys: Iterable[PrimaryKey]) -> dict[PrimaryKey, Any]:
        """Return the records with these keys, by key; keys without a record are left out.

        Raises ValueError if none of the indexes is by primary key.
        """
        await self.loaded()
        with _AS_VALUE_ERROR:
            return await self._reads.many(primary_keys)

    async def get_records_list(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Return all records meant, in the order of the index if all are kept."""
        spec = self._spec(args, kwargs)
        await self.loaded()
        with _AS_VALUE_ERROR:
            return await self._reads.records(spec)

    def peek(self, *args: Any, **kwargs: Any) -> list[Any] | None:
        """Return all records meant if they are kept and valid, from any thread; None otherwise.

        It never waits and never asks the database.
        """
        version = self._upkeep.version
        if version % 2 or not self._is_loaded or self._closed:
            return None
        with _AS_VALUE_ERROR:
            found = self._reads.peek(self._spec(args, kwargs))
        # another thread may have switched what is covered and what is kept between the two
        if found is None or version != self._upkeep.version:
            return None
        if current() is not None:
            taint()
        self.counters.hits += 1
        return found

    async def count(self, *args: Any, **kwargs: Any) -> int:
        """Return how many records are meant; if they are covered, without looking at each."""
        spec = self._spec(args, kwargs)
        await self.loaded()
        with _AS_VALUE_ERROR:
            return await self._reads.count(spec)

    async def subscribe(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Delivery, None]:
        """Iterate over what happens to the records meant: first all of them, then each change.

        What is invalidated, or committed where the table follows a cache, is refreshed without
        waiting for a read. Ends when the table is closed. Raises ValueError if the records are not
        covered, or no longer.
        """
        spec = self._spec(args, kwargs)
        await self.loaded()
        steps = deliveries(self.indexes, self._reads, self._upkeep, spec, self._ended)
        with _AS_VALUE_ERROR:
            async for step in steps:
                yield step

    # changing ---------------------------------------------------------------------------

    def invalidate_records(
        self,
        old_index_specs: list[Any],
        new_index_specs: list[Any],
        *,
        force_refresh_on_next_read: bool = True,
    ) -> None:
        """Mark records in storage as invalid.

        Both lists mean the same records by different indexes, the first by the scores they had, the
        second by those they have now. A refresh deletes what the first spec of ``old_index_specs``
        means and loads what the first spec of ``new_index_specs`` means; so new records that are
        covered are loaded too. A read that starts after this refreshes first if it is of such
        records by an index that is in both lists, or of any records by another index; with
        ``force_refresh_on_next_read=False`` reads go on being answered until `refresh_invalid`.
        Adjustments do not observe what a refresh changes.

        Raises ValueError if the table is not loaded, a list is empty or names an index twice, or a
        spec is not certainly covered.
        """
        self._check_open()
        if not self._is_loaded:
            raise TableError("this table is not loaded: there is nothing to invalidate yet")
        old = self._by_index(old_index_specs, "old_index_specs")
        same = old_index_specs == new_index_specs  # usual, and half the work
        new = old if same else self._by_index(new_index_specs, "new_index_specs")
        pair = (old_index_specs[0], new_index_specs[0])
        if self._upkeep.watchers:
            asyncio.get_running_loop().call_soon(self._refresh_soon)
        if not force_refresh_on_next_read:
            self._validity.mark(pair, {}, ())
            return
        storage_spec = self.indexes.storage_records_spec
        before = {name: storage_spec(spec) for name, spec in old.items()}
        after = before if same else {name: storage_spec(spec) for name, spec in new.items()}
        both = {
            name: (before[name],) if same else (before[name], after[name])
            for name in before.keys() & after.keys()
        }
        first, last = before[pair[0].index_name], after[pair[1].index_name]
        self._validity.mark(pair, both, (first,) if same else (first, last))

    def _by_index(self, specs: Sequence[Any], argument: str) -> dict[str, Any]:
        if not specs:
            raise TableError(f"{argument} is empty: give at least one spec")
        named = {spec.index_name: spec for spec in specs}
        if len(named) < len(specs):
            raise TableError(f"{argument} has more than one spec of the same index")
        for spec in specs:
            with _AS_VALUE_ERROR:
                if not self.indexes.covers(spec):
                    raise TableError(f"{argument}: it is not certain that {spec!r} is covered")
        return named

    async def refresh_invalid(self) -> None:
        """Load all records that were marked as invalid from the database again.

        Waits for a change that is under way, and then refreshes what is still invalid.
        """
        self._check_open()
        if self._validity.unsettled:
            async with self._upkeep.lock:
                self._check_open()
                with _AS_VALUE_ERROR:
                    await self._upkeep.refresh()

    async def adjust(self, *args: Any, **kwargs: Any) -> None:
        """Change which records are in storage to those meant.

        Reads go on meanwhile: until this returns they see the state before, and from then on the
        state after it. Adjustments and refreshes are made one after the other. Raises ValueError if
        the index does not support adjusting. If anything fails, and when it is cancelled, the table
        is as it was.
        """
        spec = self._spec(args, kwargs)
        await self.loaded()
        async with self._upkeep.lock:
            self._check_open()
            with _AS_VALUE_ERROR:
                await self._upkeep.adjust(lambda: self.indexes.prepare_adjustment(spec), spec)
                self._pieces.clear()

    def _refresh_soon(self) -> None:
        """Put in place what a commit has changed, if that is known or somebody waits for it."""
        if self._closed or not self._is_loaded or self._refreshing is not None:
            return
        if self._validity.pending and (self._validity.cheap or self._upkeep.watchers):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_quietly())

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh_invalid()
        except Exception as error:
            _LOG.warning("a refresh of %s failed: %s", self.storage_table.name, error)
            self._refreshing = None
            asyncio.get_running_loop().call_later(_PAUSE, self._refresh_soon)
        else:
            self._refreshing = None
            self._refresh_soon()

    # ending -----------------------------------------------------------------------------

    def abort(self) -> bool:
        """Call off a load or adjustment that is under way: it raises `AbortedError`.

        Return whether there was one.
        """
        return self._upkeep.abort()

    async def close(self) -> None:
        """Call off what is under way and serve nothing any more; the storage is left as it is."""
        if self._closed:
            return
        self._closed = True
        self._validity.close()
        if self._follower is not None:
            self._follower.close()
        self._upkeep.abort()
        self._loaded.set()
        self._ended.set()
        for watcher in list(self._upkeep.watchers):
            watcher()
        async with self._upkeep.lock:
            pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this table was closed: make another one")

    def _spec(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Indexes.IndexSpec):
            return args[0]
        return self.indexes.IndexSpec(*args, **kwargs)


class _AsValueError:
    """Turn `UnsupportedIndexOperation` into the ValueError that the document promises."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, UnsupportedIndexOperation):
            raise TableError(str(error) or "the index does not support this") from error


_AS_VALUE_ERROR = _AsValueError()
