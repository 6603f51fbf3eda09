"""Regions: where the answers of the document's cache are kept.

A region is a `dogpile.cache` region, which then holds the rows, or an `everfresh.Cache`. Which rows
are fresh is decided by the cache of the session's engine in either case.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.engine import Connection, Engine

from everfresh.engine.aio import AsyncCache
from everfresh.engine.attaching import cache_of, executions_of
from everfresh.engine.cache import Cache
from everfresh.engine.executions import Executions
from everfresh.engine.opening import open as open_cache
from everfresh.engine.places import region_place
from everfresh.engine.reading import Reading
from everfresh.errors import ConfigurationError, MissingExtraError

__all__ = [
    "Regions",
    "attached",
    "cache_config",
    "md5_key_mangler",
    "memoize",
    "reading_in",
    "region_of",
    "regions",
    "tag_of",
]

P = ParamSpec("P")
T = TypeVar("T")

_MEMOIZED = 1024  # calls that one memoized function remembers

cache_config: dict[str, Any] = {"backend": "dogpile.cache.memory", "expiration_time": 60}
"""How the region "default" is made when it is first looked up."""


def md5_key_mangler(key: str) -> str:
    """Encode SELECT queries (key) into md5 hashes.

    >>> md5_key_mangler("user.id[4]"), md5_key_mangler("SELECT 1")
    ('user.id[4]', 'b1698e52a0f16203489454196a0c6307')
    """
    if key.startswith("SELECT "):
        key = hashlib.md5(key.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return key


def memoize(obj: Callable[P, T]) -> Callable[P, T]:
    """Keep the return values of a function in this process, by its arguments.

    The last 1,024 are kept, in ``.cache`` of the function and of what is returned. Arguments are
    told apart by type; those that cannot be hashed, by what they print as.

    >>> @memoize
    ... def double(n):
    ...     return n * 2
    >>> double(2), double(2.0), len(double.cache)
    (4, 4.0, 2)
    """
    cache: OrderedDict[Any, T] = OrderedDict()
    lock = Lock()

    @functools.wraps(obj)
    def memoizer(*args: P.args, **kwargs: P.kwargs) -> T:
        key = _key_of(args, kwargs)
        with lock:
            if key in cache:
                cache.move_to_end(key)
                return cache[key]
        value = obj(*args, **kwargs)
        with lock:
            cache[key] = value
            if len(cache) > _MEMOIZED:
                cache.popitem(last=False)
        return value

    memoizer.cache = cache  # type: ignore[attr-defined]
    with_attributes: Any = obj
    with suppress(AttributeError):  # a builtin, or a bound method
        with_attributes.cache = cache
    return memoizer


def _key_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    values = (*args, *kwargs.values())
    key = (args, tuple(kwargs.items()), tuple(map(type, values)))
    try:
        hash(key)
    except TypeError:
        return str(args) + str(dict(kwargs)) + str([type(value) for value in values])
    return key


class Regions(dict[str, Any]):
    """Map labels to regions; "default" is made of `cache_config` when it is first looked up."""

    def __missing__(self, label: str) -> Any:
        if label != "default":
            raise KeyError(label)
        try:
            from dogpile.cache.region import make_region
        except ImportError as error:
            raise MissingExtraError("orm", "the region 'default'") from error
        config = dict(cache_config)
        made = make_region(key_mangler=md5_key_mangler).configure(config.pop("backend"), **config)
        return self.setdefault(label, made)


regions: dict[str, Any] = Regions()
"""The regions that `FromCache` finds by their label."""


def region_of(among: Mapping[str, Any] | None, label: str) -> Any:
    """Return a region by its label; raises `ConfigurationError` if there is none.

    Where there are no regions it is None, which stands for the cache of the session's own engine.
    """
    if among is None:
        return None
    try:
        region = among[label]
    except KeyError:
        known = ", ".join(map(repr, among)) or "none"
        raise ConfigurationError(
            f"there is no cache region {label!r}; there are: {known}"
        ) from None
    if isinstance(region, AsyncCache):
        return region.blocking
    if isinstance(region, Cache) or all(hasattr(region, n) for n in ("get", "set", "delete")):
        return region
    raise ConfigurationError(
        f"the region {label!r} is a {type(region).__name__}: use a dogpile.cache region, or an "
        f"everfresh.Cache of the session's engine"
    )


def attached(bind: Engine | Connection, region: Any = None) -> Executions:
    """Return what answers on a session's engine; a cache is opened for it if it has none.

    Raises `ConfigurationError` for a region that keeps the answers of another engine.
    """
    cache = cache_of(bind)
    if isinstance(region, Cache) and region is not cache:
        raise ConfigurationError(
            "this region keeps the answers of another engine than the session's: open its cache "
            "with everfresh.open(engine)"
        )
    if cache is None:
        engine = bind.engine
        cache = open_cache(engine)
        engine.dialect.__dict__["_everfresh_orm"] = cache  # it lives as long as the engine
    return executions_of(cache)


def reading_in(
    among: Mapping[str, Any] | None,
    label: str,
    name: str = "",
    expiration_time: float | None = None,
    *,
    ignore: bool = False,
) -> Reading:
    """Return how a statement is read whose answer lies in the region of this label.

    ``name`` is what `drop` takes; ``expiration_time`` is in seconds, None for the region's own;
    ``ignore`` takes answers of any age, as long as nothing has changed since.
    """
    region = region_of(among, label)
    tags = (tag_of(label, name),) if name else ()
    if region is None or isinstance(region, Cache):
        return Reading(tags=tags, max_age=None if ignore else expiration_time)
    place = region_place(region, name, expiration_time, ignore=ignore)
    return Reading(name=f"{label} {name}", tags=tags, place=place)


def tag_of(label: str, name: str) -> str:
    """Return the tag of what is kept under a name in a region."""
    return f"region {label}: {name}"
