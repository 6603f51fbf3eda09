"""The micro-cache: one database call however many ask, kept for seconds.

>>> import sqlalchemy
>>> with QueryCache(sqlalchemy.create_engine("sqlite://"), threshold=5) as cache:
...     cache(lambda rows: rows[0]["n"], "SELECT 42 AS n")
42
"""

from __future__ import annotations

from everfresh.micro.aio import AsyncQueryCache
from everfresh.micro.entry import Entry
from everfresh.micro.formatting import FormattingError
from everfresh.micro.querycache import QueryCache

__all__ = ["AsyncQueryCache", "Entry", "FormattingError", "QueryCache"]
