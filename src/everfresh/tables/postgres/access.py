"""Read records from PostgreSQL by a pool of asyncpg connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeAlias

import asyncpg

from everfresh.errors import ClosedError, ConfigurationError
from everfresh.tables.db import DbAccess, QueryArgsDbRecordsSpec, RecordParser, as_it_is

__all__ = ["DbRecord", "PostgresAccess", "RecordsSpec"]

DbRecord: TypeAlias = asyncpg.Record
"""What a record parser is given."""

RecordsSpec: TypeAlias = QueryArgsDbRecordsSpec
"""What says which records to get."""


class PostgresAccess(DbAccess):
    """Read records from PostgreSQL, by queries with ``$1`` for their arguments.

    An asynchronous context manager. ``pool_kwargs`` are those of ``asyncpg.create_pool``; without
    ``min_size`` and ``max_size`` the pool has one connection, made when it is needed.
    ``cursor_prefetch`` is the number of rows that are fetched at a time. ``record_parser`` is
    deprecated: it takes precedence over that of each records spec, where it belongs.

    `get_records` holds a connection until it is exhausted or closed; `get_records_list`, which a
    `CachedTable` uses, only until all rows are there.
    """

    def __init__(
        self,
        record_parser: RecordParser | None = None,
        cursor_prefetch: int = 1000,
        **pool_kwargs: Any,
    ) -> None:
        if not (type(cursor_prefetch) is int and cursor_prefetch > 0):
            raise ConfigurationError(
                f"cursor_prefetch must be a whole number of rows above 0, not {cursor_prefetch!r}"
            )
        self._parser = record_parser
        self._prefetch = cursor_prefetch
        self._pool_kwargs = {"min_size": 0, "max_size": 1, **pool_kwargs}
        self._open: asyncpg.Pool | None = None

    async def __aenter__(self) -> Self:
        self._open = await asyncpg.create_pool(**self._pool_kwargs)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pool, self._open = self._pool, None
        await pool.close()

    @property
    def _pool(self) -> asyncpg.Pool:
        if self._open is None:
            raise ClosedError("PostgresAccess is not open: use it in  async with access: …")
        return self._open

    async def get_records(self, records_spec: QueryArgsDbRecordsSpec) -> AsyncIterator[Any]:
        """Iterate over the records meant, read by a cursor of the server in one transaction."""
        parse = self._parser or records_spec.record_parser
        async with self._pool.acquire() as connection, connection.transaction():
            cursor = connection.cursor(
                records_spec.query, *records_spec.args, prefetch=self._prefetch
            )
            async for row in cursor:
                yield parse(row)

    async def get_records_list(self, records_spec: QueryArgsDbRecordsSpec) -> list[Any]:
        """Return all records meant."""
        parse = self._parser or records_spec.record_parser
        async with self._pool.acquire() as connection:
            rows: list[Any] = await connection.fetch(records_spec.query, *records_spec.args)
        return rows if parse is as_it_is else [parse(row) for row in rows]
