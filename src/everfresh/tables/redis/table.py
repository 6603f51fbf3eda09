"""The storage in Redis or Valkey: a hash of records, and a sorted set for each index."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from math import copysign, inf
from typing import Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from everfresh.errors import ConfigurationError, StoreError, StoreUnavailableError, TableError
from everfresh.tables.indexes import RecordScorer
from everfresh.tables.intervals import Interval, KeysRecordsSpec, StorageRecordsSpec, held_by
from everfresh.tables.ordering import After, Limit
from everfresh.tables.redis import scripts
from everfresh.tables.redis.codecs import Codec
from everfresh.tables.redis.rows import AttributeCodecs, RedisCodingError, RowCodec
from everfresh.tables.redis.staging import RedisStaging, Staged
from everfresh.tables.storage import StorageLost, StorageTable
from everfresh.tables.turns import Turns

__all__ = ["RedisTable"]

_EXACT = 2**53  # whole numbers below are floats
_BATCH = 1000  # records sent at a time


def _as_it_is(values: dict[str, Any]) -> Any:
    return values


class RedisTable(StorageTable):
    """Keep records in Redis or Valkey, encoded attribute by attribute.

    ``conn`` is a ``redis.asyncio.Redis`` without ``decode_responses``. ``attribute_codecs`` name
    the attributes that are kept; others are silently dropped. ``attribute_extractor`` gets an
    attribute of a record by its name, by default an item of a dictionary; ``record_factory`` makes
    a record of a dictionary of attributes. Scores must be numbers that a float can hold, or whole
    numbers. Raises `RedisCodingError` for what a codec refuses, ValueError for a record without an
    attribute.

    A read is one round trip and one step inside Redis: it never sees half a change. A table has one
    writer: if Redis loses the table, or another process writes a table of the same name, reads
    raise `everfresh.errors.StoreError`, and a `CachedTable` loads it again.
    """

    keyed = True

    def __init__(
        self,
        conn: redis.asyncio.Redis,
        *,
        table_name: str,
        record_scorer: RecordScorer,
        primary_key_codec: Codec,
        attribute_codecs: AttributeCodecs,
        attribute_extractor: Callable[[Any, str], Any] = operator.getitem,
        record_factory: Callable[[dict[str, Any]], Any] = _as_it_is,
    ) -> None:
        if conn.connection_pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError("RedisTable needs a connection without decode_responses")
        self.scorer = record_scorer
        self.rows = RowCodec(
            primary_key_codec, attribute_codecs, attribute_extractor, record_factory
        )
        self._conn = conn
        self._name = table_name
        self._names = sorted(record_scorer.index_names)
        self._records = f"{table_name}:r"
        self._indexes = {name: f"{table_name}:i:{name}" for name in self._names}
        self._mark: str | None = None
        self._mark_bytes = b""
        self._scripts = {
            text: conn.register_script(text)
            for text in (getattr(scripts, name) for name in scripts.__all__ if name != "MARK")
        }
        self._turns = Turns()
        self._scratch: RedisStaging | None = None
        self._merging: asyncio.Task[None] | None = None
        self._unmerged: RedisStaging | None = None

    def __repr__(self) -> str:
        return f"<RedisTable {self._name!r}>"

    @property
    def name(self) -> str:
        """Name of the table, with which all its keys in Redis begin."""
        return self._name

    # reading --------------------------------------------------------------------

    async def get_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Iterate over the records meant, as they are when iteration starts."""
        for record in await self.get_records_list(records_spec):
            yield record

    async def get_records_list(self, records_spec: StorageRecordsSpec) -> list[Any]:
        """Return all records meant, in one round trip."""
        await self._merged()
        if isinstance(records_spec, KeysRecordsSpec):
            return await self._by_key(records_spec)
        bounds, exact = _bounds(records_spec.score_intervals)
        if not bounds:
            return []
        keys = [self._records, self._index(records_spec.index_name)]
        found = await self._read(scripts.FIND, keys, bounds)
        records = [self.rows.decode(data) for data in found if data is not None]
        return self._rechecked(records_spec, records, exact)

    async def count(self, records_spec: StorageRecordsSpec) -> int:
        """Return how many records are meant."""
        bounds, exact = _bounds(records_spec.score_intervals)
        if records_spec.rechecks or not exact:
            return len(await self.get_records_list(records_spec))
        await self._merged()
        keys = [self._records, self._index(records_spec.index_name)]
        return int(await self._read(scripts.COUNT, keys, bounds))

    async def _by_key(self, spec: KeysRecordsSpec) -> list[Any]:
        encode, decode = self.rows.encode_key, self.rows.decode
        wanted = [encode(key) for key in spec.primary_keys]
        records: list[Any] = []
        for start in range(0, len(wanted), _BATCH):
            some = wanted[start : start + _BATCH]
            mark, *found = await self._calling(
                self._conn.hmget(self._records, [scripts.MARK, *some])
            )
            if mark != self._mark_bytes:
                await self._check_mark(mark)
            records += [decode(data) for data in found if data is not None]
        return records

    async def _check_mark(self, mark: bytes | None) -> None:
        """Raise if the mark in Redis is not that of this table; take it over at first."""
        if self._mark is None:
            await self._begin()
        if mark != self._mark_bytes:
            raise self._lost()

    def _rechecked(self, spec: StorageRecordsSpec, records: list[Any], exact: bool) -> list[Any]:
        if not exact:
            score, intervals, name = self.scorer.score, spec.score_intervals, spec.index_name
            records = [one for one in records if held_by(intervals, score(name, one))]
        if spec.rechecks:
            predicate = spec.recheck_predicate
            records = [record for record in records if predicate(record)]
        return records

    def _index(self, name: str) -> str:
        if name not in self._indexes:
            raise TableError(f"the storage has no index {name!r}")
        return self._indexes[name]

    # regular writes ---------------------------------------------------------------

    async def clear(self) -> None:
        """Delete all records."""
        await self._until_free()
        await self._replace(None)

    async def put_record(self, record: Any) -> None:
        """Add a record, in place of the one with its primary key."""
        staged = self.encode(record)
        await self._until_free()
        await self._write([staged.key, staged.data, *staged.scores])

    async def delete_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Delete the records meant, all before the first is yielded."""
        await self._until_free()
        found = await self.get_records_list(records_spec)
        nothing: list[Any] = [b"", *[0.0] * len(self._names)]
        arguments = [
            part
            for record in found
            for part in (self.rows.encode_key(self.scorer.primary_key(record)), *nothing)
        ]
        width = len(nothing) + 1
        for start in range(0, len(arguments), width * _BATCH):
            await self._write(arguments[start : start + width * _BATCH])
        for record in found:
            yield record

    async def _write(self, arguments: list[Any]) -> None:
        keys = [self._records, *self._indexes.values()]
        await self._read(scripts.WRITE, keys, arguments)

    # scratch space ------------------------------------------------------------------

    async def scratch_put_record(self, record: Any) -> None:
        """Add a record in scratch space."""
        await (await self._scratching()).put([record])

    async def scratch_discard_records(self, records_spec: StorageRecordsSpec) -> AsyncIterator[Any]:
        """Delete the records meant in scratch space, all before the first is yielded."""
        for record in await (await self._scratching()).discard(records_spec):
            yield record

    def scratch_merge(self) -> None:
        """Make what was done in scratch space the table.

        Redis is told in the background; whatever is asked of the table from here on waits for that.
        """
        if self._scratch is not None:
            staging, self._scratch = self._scratch, None
            staging.commit()

    async def _scratching(self) -> RedisStaging:
        while self._scratch is None:
            if self._turns.taken:
                await self._turns.until_free()
            else:
                self._turns.take()
                self._scratch = RedisStaging(self, empty=False)
        return self._scratch

    # staging ------------------------------------------------------------------------

    async def staging(self, *, empty: bool = False) -> RedisStaging:
        """Begin a change; waits while scratch space or another change is under way."""
        await self._until_free(force=empty)
        self._turns.take()
        return RedisStaging(self, empty=empty)

    def end(self, staging: RedisStaging, *, merge: bool) -> None:
        """End a change; what it staged becomes the table before anything else is done."""
        if merge:
            self._unmerged = staging
            self._begin_merge(staging)
        self._turns.give()

    def _begin_merge(self, staging: RedisStaging) -> asyncio.Task[None]:
        self._merging = asyncio.get_running_loop().create_task(self._merge(staging))
        self._merging.add_done_callback(_look_at)  # who asks next tries again
        return self._merging

    async def _merge(self, staging: RedisStaging) -> None:
        await staging.prepare()
        if staging.empty:
            await self._replace(staging)
        else:
            await self._read(scripts.MERGE, self._staged_keys(), ())
        self._unmerged = None

    async def _merged(self) -> None:
        """Wait until what was merged is in Redis; if that failed, try again."""
        while self._unmerged is not None:
            merging = self._merging
            if merging is None or merging.done():
                merging = self._begin_merge(self._unmerged)
            await asyncio.shield(merging)

    async def stage(self, puts: Sequence[Staged], deletes: Iterable[bytes]) -> None:
        """Send a change to keys of its own, where no read looks."""
        await self.unstage()
        records, gone = f"{self._name}:s", f"{self._name}:d"
        for start in range(0, len(puts), _BATCH):
            some = puts[start : start + _BATCH]
            pipeline = self._conn.pipeline(transaction=False)
            pipeline.hset(records, mapping={one.key: one.data for one in some})
            for number, name in enumerate(self._names):
                scores = {one.key: one.scores[number] for one in some}
                pipeline.zadd(f"{self._name}:s:{name}", scores)
            await self._calling(pipeline.execute())
        deleted = list(deletes)
        for start in range(0, len(deleted), _BATCH):
            await self._calling(self._conn.rpush(gone, *deleted[start : start + _BATCH]))

    async def unstage(self) -> None:
        """Forget what was staged."""
        await self._calling(self._conn.unlink(*self._staged_keys()[1:3], *self._staged_indexes()))

    async def _replace(self, staging: RedisStaging | None) -> None:
        """Put what is staged, or nothing, in place of the whole table, under a new mark."""
        if staging is None:
            await self.unstage()
        mark = uuid.uuid4().hex
        await self._calling(self._scripts[scripts.REPLACE](keys=self._staged_keys(), args=[mark]))
        self._take_mark(mark)
        self._unmerged = None

    def _staged_keys(self) -> list[str]:
        own = [self._records, f"{self._name}:s", f"{self._name}:d"]
        return [*own, *self._indexes.values(), *self._staged_indexes()]

    def _staged_indexes(self) -> list[str]:
        return [f"{self._name}:s:{name}" for name in self._names]

    async def _until_free(self, *, force: bool = False) -> None:
        await self._turns.until_free()
        if force:  # the table is about to be made anew: what did not reach it does not matter
            self._unmerged = None
        await self._merged()
        await self._turns.until_free()

    # Redis --------------------------------------------------------------------------

    def encode(self, record: Any) -> Staged:
        """Return a record as Redis keeps it; raises ValueError if it cannot be kept."""
        key = self.scorer.primary_key(record)
        scores = [_float(name, self.scorer.score(name, record)) for name in self._names]
        return Staged(self.rows.encode_key(key), self.rows.encode(record), scores, record)

    async def _read(self, script: str, keys: list[str], arguments: Sequence[Any]) -> Any:
        if self._mark is None:
            await self._begin()
        call = self._scripts[script](keys=keys, args=[self._mark_bytes, *arguments])
        found = await self._calling(call)
        if found is None:
            raise self._lost()
        return found

    async def _begin(self) -> None:
        """Take over the mark that is in Redis, or put one there."""
        begin = self._scripts[scripts.BEGIN]
        mark = await self._calling(begin(keys=[self._records], args=[uuid.uuid4().hex]))
        self._take_mark(mark.decode())

    def _take_mark(self, mark: str) -> None:
        self._mark, self._mark_bytes = mark, mark.encode()

    def _lost(self) -> StorageLost:
        return StorageLost(
            f"the table {self._name!r} in Redis is not the one that was put there: the server lost "
            "it, or another process writes a table of this name; load it again"
        )

    async def _calling(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise StoreUnavailableError(f"Redis cannot be used now: {error}") from error
        except RedisError as error:
            raise StoreError(f"Redis refused: {error}") from error


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def _float(index: str, score: Any) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError) as error:
        raise RedisCodingError(f"the score {score!r} of {index!r} does not fit a float") from error
    if number != number:
        raise RedisCodingError(f"the score of {index!r} is not a number")
    if number != score and not (isinstance(score, int) and abs(score) >= _EXACT):
        raise RedisCodingError(f"the score {score!r} of {index!r} does not fit a float")
    return number


def _bounds(intervals: Iterable[Interval]) -> tuple[list[str], bool]:
    """Return the lowest and highest scores for Redis, and whether these are exact.

    Large whole numbers are rounded to floats in Redis: there a bound takes its neighbours too.
    """
    bounds: list[str] = []
    exact = True
    for one in intervals:
        if one.ge == one.lt:
            continue
        low, low_in, low_exact = _edge(one.ge, inside=True)
        high, high_in, high_exact = _edge(one.lt, inside=False)
        bounds += (low if low_in or not low_exact else f"({low}", high)
        if not high_in and high_exact and high != "+inf":
            bounds[-1] = f"({high}"
        exact = exact and low_exact and high_exact
    return bounds, exact


def _edge(bound: Any, *, inside: bool) -> tuple[str, bool, bool]:
    """Return a bound for Redis, whether the interval holds it, and whether it is exact."""
    if isinstance(bound, After):
        bound, inside = bound.value, not inside
    if isinstance(bound, Limit):
        bound = copysign(inf, bound.rank)
    try:
        number = float(bound)
    except (TypeError, ValueError, OverflowError) as error:
        raise TableError(f"an index in Redis has numbers for scores, not {bound!r}") from error
    if number in (inf, -inf):
        return ("+inf" if number > 0 else "-inf"), inside, number == bound
    return repr(number), inside, number == bound and abs(number) < _EXACT
