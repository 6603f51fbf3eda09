"""Read records from PostgreSQL by asyncpg."""

from __future__ import annotations

from importlib.util import find_spec as _find_spec

from everfresh.errors import MissingExtraError as _MissingExtraError

if _find_spec("asyncpg") is None:
    raise _MissingExtraError("asyncpg", "everfresh.tables.postgres")

from everfresh.tables.postgres.access import DbRecord, PostgresAccess, RecordsSpec

__all__ = ["DbRecord", "PostgresAccess", "RecordsSpec"]
