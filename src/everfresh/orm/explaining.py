"""Say of a statement what would happen to it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from everfresh.engine.attaching import cache_of
from everfresh.engine.cache import Cache
from everfresh.engine.reading import OPTION, Described, Reading
from everfresh.engine.request import Request
from everfresh.engine.why import Explanation, why
from everfresh.errors import ConfigurationError

__all__ = ["explain"]


def explain(
    session: Session, statement: Any, parameters: Mapping[str, Any] | None = None
) -> Explanation:
    """Return whether a session's SELECT would be answered from memory, with the reason.

    Nothing is read; what the query would flush first is flushed. `str()` of the answer is for
    people, `to_dict()` for programs. Raises `ConfigurationError` for a session of an engine that no
    cache follows.
    """
    own = statement.get_execution_options().get(OPTION)
    if own is False:
        return Explanation("asks the database: the statement has the option everfresh=False")
    reading = own if isinstance(own, Reading) else Reading(enabled=True if own else None)
    option = {OPTION: replace(reading, describe=True)}
    try:
        session.execute(statement, parameters or {}, execution_options=option)
    except Described as described:
        found = described.found
    else:
        raise ConfigurationError(
            "no cache follows this session's engine: call everfresh.orm.install(cache, engine)"
        )
    if isinstance(found, str):
        return Explanation(f"asks the database: {found}")
    cache = cache_of(session.get_bind(**_binding(statement)))
    assert cache is not None  # noqa: S101 - something has described the statement
    return _of(cache, found)


def _of(cache: Cache, request: Request) -> Explanation:
    entry = cache.board.peek(request.key)
    if entry is not None and request.takes(entry, cache.board.clock()):
        known = why(cache, request.key)
        return Explanation("would be answered from memory", known.facts)
    past = cache.board.past(request.key)
    facts: dict[str, Any] = {
        "key": request.key,
        "statement": request.label,
        "parameters": request.detail,
        "sources": [str(source) for source in request.sources],
    }
    if past is None:
        return Explanation("asks the database and keeps the answer: it was not asked before", facts)
    return Explanation(
        "asks the database and keeps the answer: the last one has gone",
        {**why(cache, request.key).facts, **facts},
    )


def _binding(statement: Any) -> dict[str, Any]:
    for described in getattr(statement, "column_descriptions", ()):
        if described.get("entity") is not None:
            return {"mapper": described["entity"], "clause": statement}
    return {"clause": statement}
