"""Where records come from: the slow, true source."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any

from everfresh.errors import NoRecordError

__all__ = ["DbAccess", "DbRecordsSpec", "QueryArgsDbRecordsSpec", "RecordParser"]

_TURN = 1024  # records after which other tasks have their turn

RecordParser = Callable[[Any], Any]
"""Turn what the database's driver gives for a row into a record."""


def as_it_is(record: Any) -> Any:
    """Return the record itself."""
    return record


class DbRecordsSpec:
    """Say which records to get; ``record_parser`` makes a record of each row."""

    def __init__(self, *, record_parser: RecordParser | None = None) -> None:
        self.record_parser = record_parser or as_it_is


class QueryArgsDbRecordsSpec(DbRecordsSpec):
    """Say it by a query and the arguments for its placeholders.

    >>> QueryArgsDbRecordsSpec("SELECT * FROM planes WHERE seats > $1", (100,))
    a query with arguments (100,)
    """

    def __init__(
        self, query: str, args: tuple[Any, ...], *, record_parser: RecordParser | None = None
    ) -> None:
        super().__init__(record_parser=record_parser)
        self.query = query
        self.args = args

    def __repr__(self) -> str:
        return f"a query with arguments {self.args}"


class DbAccess(ABC):
    """Read records from a database."""

    @abstractmethod
    def get_records(self, records_spec: Any) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over the records meant."""

    async def get_record(self, records_spec: Any) -> Any:
        """Return the first of the records meant; raises KeyError if there is none."""
        records = self.get_records(records_spec)
        try:
            async for record in records:
                return record
        finally:
            close = getattr(records, "aclose", None)
            if close is not None:
                await close()
        raise NoRecordError("the database has no such record")

    async def get_records_list(self, records_spec: Any) -> list[Any]:
        """Return all records meant; other tasks have their turn in between."""
        records: list[Any] = []
        async for record in self.get_records(records_spec):
            records.append(record)
            if not len(records) % _TURN:
                await asyncio.sleep(0)
        return records
