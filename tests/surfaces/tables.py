"""A source of records that counts what it is asked, fails on demand and waits at gates."""

import asyncio
import functools
import uuid

import redis.asyncio

from everfresh.tables import CachedTable, DbAccess, Interval, StorageTable
from everfresh.tables.local import LocalStorageTable
from everfresh.tables.redis import IntAsStringCodec, JsonCodec, Nullable, RedisTable

CLIENTS = []  # of Redis, in the loop of the test that runs


def client(url):
    CLIENTS.append(redis.asyncio.Redis.from_url(url))
    return CLIENTS[-1]


def in_loop(test):
    """Run a coroutine function as a test; nothing may hang."""

    async def body(*args, **kwargs):
        try:
            await asyncio.wait_for(test(*args, **kwargs), 60)
        finally:
            while CLIENTS:
                await CLIENTS.pop().aclose()

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(body(*args, **kwargs))

    return run


class Gate:
    """Holds whoever comes until it is opened, and tells that somebody came."""

    def __init__(self):
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def wait(self):
        self.reached.set()
        await self.opened.wait()


class Source(DbAccess):
    """A database of records by id: `rows` are what is committed.

    Understands "all", "some" with a tuple of ids, and "range" with two ids. Each query sees the
    rows as they are when it starts, as from a snapshot; then it passes the gate, if there is one.
    """

    def __init__(self, rows=()):
        self.rows = {row["id"]: dict(row) for row in rows}
        self.asked = []
        self.error = None
        self.gate = None
        self.fail_after = None

    def put(self, **row):
        self.rows[row["id"]] = row

    def _meant(self, spec):
        rows = list(self.rows.values())
        if spec.query == "some":
            return [row for row in rows if row["id"] in spec.args[0]]
        if spec.query == "range":
            return [row for row in rows if spec.args[0] <= row["id"] < spec.args[1]]
        return rows

    async def get_records(self, records_spec):
        self.asked.append((records_spec.query, records_spec.args))
        rows = self._meant(records_spec)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        for count, row in enumerate(rows):
            if count == self.fail_after:
                raise ConnectionError("the connection was lost")
            yield records_spec.record_parser(dict(row))


class Plain(StorageTable):
    """A storage with what the document asks for and nothing else: everything in one dictionary."""

    def __init__(self, scorer):
        self.scorer = scorer
        self.rows = {}
        self.scratch = None

    @property
    def name(self):
        return "plain"

    def _found(self, rows, spec):
        return [
            row
            for row in rows.values()
            if any(self.scorer.score(spec.index_name, row) in one for one in spec.score_intervals)
            and spec.recheck_predicate(row)
        ]

    async def clear(self):
        self.rows = {}

    async def put_record(self, record):
        self.rows[self.scorer.primary_key(record)] = record

    async def get_records(self, records_spec):
        for row in self._found(self.rows, records_spec):
            await asyncio.sleep(0)
            yield row

    async def delete_records(self, records_spec):
        for row in self._found(self.rows, records_spec):
            del self.rows[self.scorer.primary_key(row)]
            yield row

    async def scratch_put_record(self, record):
        self.scratch = dict(self.rows) if self.scratch is None else self.scratch
        self.scratch[self.scorer.primary_key(record)] = record

    async def scratch_discard_records(self, records_spec):
        self.scratch = dict(self.rows) if self.scratch is None else self.scratch
        for row in self._found(self.scratch, records_spec):
            del self.scratch[self.scorer.primary_key(row)]
            yield row

    def scratch_merge(self):
        if self.scratch is not None:
            self.rows, self.scratch = self.scratch, None


def make(indexes, source, storage=LocalStorageTable, **options):
    return CachedTable(indexes, source, storage(indexes), **options)


async def ids(records):
    return sorted([record["id"] async for record in records])


def everything(index_name="primary_key"):
    return (index_name, [Interval.everything()])


def loose(record, name):
    """Take an attribute of a dictionary, None if it has none."""
    return record.get(name)


def redis_storage(url, names, key_codec=None):
    """Return a function that makes a table in Redis for these attributes, in the loop it runs in."""

    def make_one(scorer):
        return RedisTable(
            client(url),
            table_name=uuid.uuid4().hex,
            record_scorer=scorer,
            primary_key_codec=key_codec or IntAsStringCodec(),
            attribute_codecs={name: Nullable(JsonCodec()) for name in names},
            attribute_extractor=loose,
            record_factory=lambda row: {k: v for k, v in row.items() if v is not None},
        )

    return make_one
