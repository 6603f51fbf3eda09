"""An indexed, adjustable copy of what is hot in a table, a join or any other result."""

from __future__ import annotations

from everfresh.tables.attributes import AttributeIndexes
from everfresh.tables.byattributes import ByAttributes
from everfresh.tables.cached_table import CachedTable
from everfresh.tables.db import DbAccess, DbRecordsSpec, QueryArgsDbRecordsSpec
from everfresh.tables.indexes import (
    Adjustment,
    Indexes,
    RecordScorer,
    UnsupportedIndexOperation,
)
from everfresh.tables.intervals import Interval, StorageRecordsSpec
from everfresh.tables.ready import AllIndexes, PrimaryKeyIndexes, PrimaryKeyRangeIndexes
from everfresh.tables.sqlalchemy_access import SqlAlchemyAccess
from everfresh.tables.storage import StorageTable
from everfresh.tables.subscriptions import Delivery
from everfresh.tables.threads import SyncCachedTable
from everfresh.tables.types import PrimaryKey, RecheckPredicate, Score
from everfresh.tables.upkeep import Progress

__all__ = [
    "Adjustment",
    "AllIndexes",
    "AttributeIndexes",
    "ByAttributes",
    "CachedTable",
    "DbAccess",
    "DbRecordsSpec",
    "Delivery",
    "Indexes",
    "Interval",
    "PrimaryKey",
    "PrimaryKeyIndexes",
    "PrimaryKeyRangeIndexes",
    "Progress",
    "QueryArgsDbRecordsSpec",
    "RecheckPredicate",
    "RecordScorer",
    "Score",
    "SqlAlchemyAccess",
    "StorageRecordsSpec",
    "StorageTable",
    "SyncCachedTable",
    "UnsupportedIndexOperation",
]
