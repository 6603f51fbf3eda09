"""The document's Query: one that may load its results from a region."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Query

from everfresh.engine.executions import Executions
from everfresh.engine.reading import OPTION, Described, Reading
from everfresh.engine.request import Request
from everfresh.errors import ConfigurationError, NotKeptError
from everfresh.orm.frozen import Frozen, freeze, thaw
from everfresh.orm.options import FromCache
from everfresh.orm.regions import attached, reading_in, region_of, regions

__all__ = ["CachingQuery", "query_callable"]


class CachingQuery(Query[Any]):
    """A Query subclass which optionally loads full results from a cache region.

    With the option `FromCache` its results come from that region. What is kept is outdated by the
    commits that change it; `invalidate` drops it by hand. ``regions`` maps labels to regions.
    """

    cache_regions: Mapping[str, Any]

    def __init__(self, regions: Mapping[str, Any], entities: Any, *args: Any, **kw: Any) -> None:
        self.cache_regions = regions
        super().__init__(entities, *args, **kw)

    def options(self, *args: Any) -> Any:
        """Return this query with options; `FromCache` looks in this query's own regions."""
        mine = self.cache_regions
        chosen = [o.among(mine) if isinstance(o, FromCache) else o for o in args]
        made = super().options(*chosen)
        for option in chosen:
            if isinstance(option, FromCache):
                option.process_query(made)
        return made

    def __iter__(self) -> Iterator[Any]:
        """Pull results from the region if the query has one."""
        if not hasattr(self, "_cache_region"):
            return super().__iter__()
        return iter(self._value(True, None, None, ignore=False, only_kept=False))

    def all(self) -> list[Any]:
        """Return the results as a list."""
        return list(self) if hasattr(self, "_cache_region") else super().all()

    def invalidate(self) -> None:
        """Invalidate the cache value represented by this Query."""
        executions, reading = self._where()
        for given in (False, True):
            request = self._request(reading, given=given)
            if isinstance(request, Request):
                executions.drop(request.key, "it was invalidated by hand")
        if reading.place is not None:
            reading.place.discard()

    def get_value(
        self,
        merge: bool = True,
        createfunc: Callable[[], Iterable[Any]] | None = None,
        expiration_time: float | None = None,
        ignore_expiration: bool = False,
    ) -> list[Any]:
        """Return the value from the cache for this query.

        ``createfunc`` makes the results if there are none that are younger than
        ``expiration_time`` seconds; ``ignore_expiration`` takes those of any age. What a change
        has outdated is never returned. Without ``merge`` the objects belong to no session.
        Raises KeyError if no value is present and no createfunc is specified, AssertionError for
        both ``ignore_expiration`` and ``createfunc``.
        """
        assert not ignore_expiration or not createfunc, (  # noqa: S101 - the document's own
            "Can't ignore expiration and also provide createfunc"
        )
        return self._value(
            merge, createfunc, expiration_time, ignore=ignore_expiration, only_kept=True
        )

    def _value(
        self,
        merge: bool,
        createfunc: Callable[[], Iterable[Any]] | None,
        expiration_time: float | None,
        *,
        ignore: bool,
        only_kept: bool,
    ) -> list[Any]:
        executions, reading = self._where(expiration_time, ignore=ignore)
        session = self.session if merge else None
        given = self._request(reading, given=True)
        entry = executions.fresh(given) if isinstance(given, Request) else None
        if entry is not None and isinstance(entry.value, Frozen):
            return thaw(entry.value, session)
        if createfunc is None:
            found = self._rows(reading, only_kept=only_kept)
            return found if merge else thaw(freeze(found), None)
        try:
            found = self._rows(reading, only_kept=True)
        except KeyError:
            return thaw(_made(executions, given, createfunc), session)
        return found if merge else thaw(freeze(found), None)

    def set_value(self, value: Iterable[Any]) -> None:
        """Set the value in the cache for this query; until what the query reads changes."""
        executions, reading = self._where()
        given = self._request(reading, given=True)
        if isinstance(given, Request):
            given.anew = True
        _made(executions, given, lambda: value)

    # -- how it is asked

    def _where(
        self, expiration_time: float | None = None, *, ignore: bool = False
    ) -> tuple[Executions, Reading]:
        option: FromCache | None = getattr(self, "_cache_region", None)
        if option is None:
            raise ConfigurationError("this query has no region: add options(FromCache(label))")
        among = option.regions if option.regions is not regions else self.cache_regions
        region = region_of(among, option.region)
        entity: Any = self.column_descriptions[0]["entity"] if self.column_descriptions else None
        bind = self.session.get_bind(entity)
        reading = reading_in(
            among, option.region, option.cache_key or "", expiration_time, ignore=ignore
        )
        return attached(bind, region), reading

    def _request(self, reading: Reading, *, given: bool) -> Request | str:
        """Return what would be asked of the cache, or why nothing would."""
        name = f"{reading.name} given" if given else reading.name
        asked = replace(reading, name=name, describe=True)
        try:
            self._run(asked)
        except Described as described:
            found = described.found
            if isinstance(found, Request):
                found.detail = (found.detail, reading.tags)
            return found
        return "it does not reach the database"

    def _run(self, reading: Reading) -> list[Any]:
        return list(Query.__iter__(self.execution_options(**{OPTION: reading})))

    def _rows(self, reading: Reading, *, only_kept: bool) -> list[Any]:
        asked = replace(reading, only_kept=only_kept)
        try:
            return self._run(asked)
        except NotKeptError as error:
            option: Any = getattr(self, "_cache_region", None)
            raise KeyError(option.cache_key or str(self)) from error


def _made(
    executions: Executions, request: Request | str, make: Callable[[], Iterable[Any]]
) -> Frozen:
    """Make results and keep them, unless what they depend on changes meanwhile."""
    if isinstance(request, str):
        return freeze(make())
    tags: Any = request.detail
    made: Frozen = executions.given(request, lambda: freeze(make()), tags[1])
    return made


def query_callable(
    regions: Mapping[str, Any], query_cls: type[CachingQuery] = CachingQuery
) -> functools.partial[CachingQuery]:
    """Return what makes queries over these regions: for ``query_class``, or ``query_cls=``."""
    return functools.partial(query_cls, regions)
