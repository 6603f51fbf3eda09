"""Stores by URL."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from everfresh.connect.redis import TIMEOUT, shown
from everfresh.errors import ConfigurationError, UnknownURLError
from everfresh.kernel.ports import Clock, Codec, Store
from everfresh.kernel.score import Policy
from everfresh.stores.memory import MemoryStore
from everfresh.stores.sqlite import SqliteStore

__all__ = ["StoreOptions", "make_store"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Say how a store behaves; ``max_bytes`` None is the store's own default, in bytes.

    ``codec`` turns values to bytes where they leave the process, ``key`` signs them where others
    may write.
    """

    max_bytes: int | None = None
    policy: Policy | None = None
    codec: Codec | None = None
    clock: Clock = time.monotonic
    key: bytes | None = None


def make_store(url: str, options: StoreOptions | None = None) -> Store:
    """Return the store that a URL names.

    ``memory://``, ``sqlite:///file.db``, or ``redis://host/0?name=mine`` (``rediss://`` and
    ``unix://`` too), or ``postgresql://user@host/database?logged=1``. ``name`` tells stores on one
    server apart, ``timeout`` limits the wait for one answer and ``lease`` is how long a dead
    process holds others up, in seconds; ``logged`` tables outlive a crash. Raises `UnknownURLError`
    for other schemes and `ConfigurationError` for a URL that is not whole.

    >>> type(make_store("memory://")).__name__
    'MemoryStore'
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _MAKERS:
        raise UnknownURLError(
            f"no store is known for {scheme if separator else url!r}: use "
            f"{' or '.join(f'{known}://' for known in _MAKERS)}"
        )
    return _MAKERS[scheme](url, options or StoreOptions())


def _memory(url: str, options: StoreOptions) -> Store:
    rest = url.partition("://")[2]
    if rest:
        raise ConfigurationError(f"memory:// takes nothing behind it, not {rest!r}")
    return MemoryStore(options.max_bytes or 256 << 20, options.policy)


def _sqlite(url: str, options: StoreOptions) -> Store:
    rest = url.partition("://")[2]
    if not rest.startswith("/") or len(rest) < 2 or "?" in rest:
        raise ConfigurationError(
            "a SQLite store is written sqlite:///file.db, or sqlite:////folder/file.db"
        )
    size = options.max_bytes or 1 << 30
    return SqliteStore(rest[1:], size, options.policy, options.codec, clock=options.clock)


def _redis(url: str, options: StoreOptions) -> Store:
    from everfresh.stores.redis import RedisStore

    plain, chosen = _own_options(url, ("name", "timeout", "lease"))
    timeout, lease = _seconds(url, chosen, timeout=TIMEOUT, lease=10.0)
    return RedisStore(
        plain,
        options.max_bytes or 1 << 30,
        options.policy,
        options.codec,
        name=chosen.get("name", "everfresh"),
        key=options.key,
        timeout=timeout,
        lease=lease,
        clock=options.clock,
    )


def _postgres(url: str, options: StoreOptions) -> Store:
    from everfresh.stores.postgres import PostgresStore

    plain, chosen = _own_options(url, ("name", "timeout", "lease", "logged"))
    timeout, lease = _seconds(url, chosen, timeout=2.0, lease=10.0)
    return PostgresStore(
        plain,
        options.max_bytes or 1 << 30,
        options.policy,
        options.codec,
        name=chosen.get("name", "everfresh"),
        key=options.key,
        logged=chosen.get("logged", "0") not in ("0", "false", "no"),
        timeout=timeout,
        lease=lease,
        clock=options.clock,
    )


def _seconds(url: str, chosen: Mapping[str, str], **usual: float) -> list[float]:
    try:
        return [float(chosen.get(name, default)) for name, default in usual.items()]
    except ValueError:
        raise ConfigurationError(f"{shown(url)}: {' and '.join(usual)} are seconds") from None


def _own_options(url: str, names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Return the URL without these parameters, and their values."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in given if name not in names])
    return urlunsplit(parts._replace(query=rest)), {n: v for n, v in given if n in names}


_MAKERS: dict[str, Callable[[str, StoreOptions], Store]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    **dict.fromkeys(("redis", "rediss", "unix"), _redis),
    **dict.fromkeys(("postgresql", "postgresql+psycopg"), _postgres),
}
