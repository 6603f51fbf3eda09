"""A database whose commits are heard: entries made from it go when one touches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from everfresh.engine.cache import Cache
from everfresh.engine.rows import Rows
from everfresh.errors import ConfigurationError, StatementError
from everfresh.kernel.plan import Source, TableSource
from everfresh.micro.database import only
from everfresh.micro.question import Question

__all__ = ["FollowedDatabase", "Listening"]

# what a statement reads that is not understood may be anything: any change of anything counts
_ANYTHING = TableSource(None)


@dataclass(frozen=True, slots=True)
class Listening:
    """Hold what to listen for: the sources, whether they still hold, and whether they are all.

    ``exact`` is false where a statement also depends on what no change tells of, such as the time.
    """

    sources: tuple[Source, ...] = ()
    current: Callable[[], bool] | None = None
    exact: bool = True


class FollowedDatabase:
    """Ask the database of an `everfresh.Cache`, on its engine, and know what a query reads."""

    def __init__(self, cache: Cache, db: Any) -> None:
        engine = getattr(db, "sync_engine", db)
        if getattr(engine, "pool", None) is not cache.engine.pool:
            raise ConfigurationError(
                "with cache=, db must be that cache's engine: QueryCache(cache.engine, cache=cache)"
            )
        self.cache = cache

    def one(self, sql: str, params: Any = None) -> dict[str, Any] | None:
        """Return the only row, None if there is none; raises `StatementError` for several."""
        return only(self.all(sql, params), sql)

    def all(self, sql: str, params: Any = None) -> list[dict[str, Any]]:
        """Return the rows."""
        reader, named = self.cache.reader, _named(params)
        prepared = reader.prepare(sql)
        run = reader.fill if reader.refusal(prepared, named) is None else reader.bypass
        rows: Rows = run(prepared, named)
        return rows.to_dicts()

    def listening(self, question: Question) -> Listening:
        """Return what a result must be listened for.

        Raises `StatementError` for statements that write and for parameters that do not match.
        """
        named = _named(question.parameters)
        asked = [self.cache.statements.request(query, named) for query in question.queries]
        exact = all(self.cache.reader.refusal(plan, named) is None for plan, _ in asked)
        sources = tuple(source for _, request in asked for source in request.sources)
        checks = [request.current for _, request in asked if request.current is not None]
        return Listening(
            sources=sources if exact else (_ANYTHING,),
            current=lambda: all(check() for check in checks),
            exact=exact,
        )


def _named(params: Any) -> dict[str, Any]:
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return dict(params)
    raise StatementError(
        "with cache=, parameters are a mapping that fills :name placeholders, "
        f"not {type(params).__name__}"
    )
