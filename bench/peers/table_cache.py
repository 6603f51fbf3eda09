"""The `tablecache` package, with what it takes to run it: its range index cannot be shown."""

from __future__ import annotations

import asyncio
from typing import Any

import tablecache
import tablecache.local
import tablecache.postgres
import tablecache.redis
from tablecache import redis as redis

from bench.tables import Kind

# their texts name attributes that are not there, and loading logs them
tablecache.PrimaryKeyRangeIndexes.IndexSpec.__repr__ = object.__repr__
tablecache.PrimaryKeyIndexes.Adjustment.__repr__ = object.__repr__

PostgresAccess = tablecache.postgres.PostgresAccess


class PeerKind(Kind):
    async def settled(self, table: Any) -> None:
        """Wait for the task that moves the records over."""
        while (task := storage_of(table)._scratch_merge_task) is not None and not task.done():
            await asyncio.sleep(0.001)


def storage_of(table: Any) -> Any:
    return table._storage_table


def indexes_of(table: Any) -> Any:
    return table._indexes


PEER = PeerKind(tablecache, tablecache.local.LocalStorageTable)
