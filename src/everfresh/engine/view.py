"""A cache seen through a connection, or by other rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everfresh.engine.rows import Rows
from everfresh.engine.statements import Statements
from everfresh.kernel.freshness import Freshness

__all__ = ["View"]


class View:
    """Ask a cache on one connection, or by other rules. Made by `Cache.using`."""

    def __init__(
        self,
        statements: Statements,
        connection: Any,
        ttl: float | None,
        freshness: Freshness | None,
    ) -> None:
        self._statements = statements
        self._connection = connection
        self._ttl = ttl
        self._freshness = freshness

    def sql(
        self, statement: str, parameters: Mapping[str, object] | None = None, /, **named: object
    ) -> Rows:
        """Return the rows of a SELECT; as `Cache.sql`."""
        chosen = {**(parameters or {}), **named}
        if self._connection is None:
            return self._statements.ask(statement, chosen, self._ttl, self._freshness)
        return self._statements.sql_in(self._connection, statement, chosen, self._freshness)
