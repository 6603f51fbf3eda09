"""Stores by URL."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from everfresh.errors import ConfigurationError, UnknownURLError
from everfresh.kernel.ports import Clock, Codec, Store
from everfresh.kernel.score import Policy
from everfresh.stores.memory import MemoryStore
from everfresh.stores.sqlite import SqliteStore

__all__ = ["StoreOptions", "make_store"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Say how a store behaves; ``max_bytes`` None is the store's own default, in bytes.

    ``codec`` turns values to bytes where they leave the process.
    """

    max_bytes: int | None = None
    policy: Policy | None = None
    codec: Codec | None = None
    clock: Clock = time.monotonic


def make_store(url: str, options: StoreOptions | None = None) -> Store:
    """Return the store that a URL names: ``memory://``, or ``sqlite:///file.db``.

    Raises `UnknownURLError` for other schemes and `ConfigurationError` for a URL without a path.

    >>> type(make_store("memory://")).__name__
    'MemoryStore'
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _MAKERS:
        raise UnknownURLError(
            f"no store is known for {scheme if separator else url!r}: use "
            f"{' or '.join(f'{known}://' for known in _MAKERS)}"
        )
    return _MAKERS[scheme](rest, options or StoreOptions())


def _memory(rest: str, options: StoreOptions) -> Store:
    if rest:
        raise ConfigurationError(f"memory:// takes nothing behind it, not {rest!r}")
    return MemoryStore(options.max_bytes or 256 << 20, options.policy)


def _sqlite(rest: str, options: StoreOptions) -> Store:
    if not rest.startswith("/") or len(rest) < 2 or "?" in rest:
        raise ConfigurationError(
            "a SQLite store is written sqlite:///file.db, or sqlite:////folder/file.db"
        )
    size = options.max_bytes or 1 << 30
    return SqliteStore(rest[1:], size, options.policy, options.codec, clock=options.clock)


_MAKERS: dict[str, Callable[[str, StoreOptions], Store]] = {"memory": _memory, "sqlite": _sqlite}
