"""The settings of a cache: one schema, checked when it is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from everfresh.errors import ConfigurationError

__all__ = ["SUSPENDED_TOO", "Settings", "check_seconds"]

_YEAR = 366 * 86_400.0
FEEDS = ("outbox", "slot")
POLICIES = ("half_life", "gdsf", "lru")
# it goes on while the machine is suspended, which the monotonic clock of Linux does not
SUSPENDED_TOO: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Say how a cache behaves.

    ``max_bytes``: limit of what is kept in memory, in bytes. ``policy``: what goes first,
    ``half_life`` (seconds to compute per byte, weighted by touches that fade), ``gdsf`` or
    ``lru``; ``half_life`` is counted in touches of the whole cache. ``ttl``: seconds after which an
    answer is computed again even if nothing changed, None for never. ``plans``: how many analysed
    statements are remembered. ``clock``: seconds that never go back.

    ``freshness``: ``"strict"``, ``"bounded"`` (one second), `everfresh.bounded` or `everfresh.ttl`
    of seconds: how late commits of other connections and processes may be heard. Under a bound
    they are looked for every ``poll_interval`` seconds. Where a ``ttl`` ends,
    ``stale_while_revalidate`` is for how many seconds more the old answer is given while a thread
    computes the new one; ``early_refresh`` is XFetch's beta: readers compute an answer anew before
    its end, the earlier the longer it takes (1 is usual, None never). None of these ever gives an
    answer that a change has outdated.

    ``feed``: how other writers of PostgreSQL are heard row by row, ``"outbox"`` (triggers) or
    ``"slot"`` (logical decoding, the server's ``wal_level`` must be ``logical``).

    ``store``: URL of where answers are kept beyond memory (``"sqlite:///answers.db"``,
    ``"redis://cache:6379/0"``), at most ``store_bytes`` of them, in bytes. ``store_key``: a secret
    of 16 to 64 bytes with which values in a Redis are signed; others' are absent. ``catalogue``:
    URL of the database of record.

    >>> Settings(max_bytes=1_000_000).policy
    'half_life'
    """

    max_bytes: int = 256 << 20
    policy: str = "half_life"
    half_life: float = 1000.0
    ttl: float | None = None
    plans: int = 2000
    clock: Callable[[], float] = SUSPENDED_TOO
    freshness: object = "bounded"
    poll_interval: float = 0.01
    feed: str = "outbox"
    stale_while_revalidate: float | None = None
    early_refresh: float | None = None
    store: str | None = field(default=None, repr=False)  # it may hold a password
    store_bytes: int = 1 << 30
    store_key: bytes | None = field(default=None, repr=False)
    catalogue: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.feed not in FEEDS:
            raise ConfigurationError(f"unknown feed {self.feed!r}: use {' or '.join(FEEDS)}")
        if self.policy not in POLICIES:
            raise ConfigurationError(f"unknown policy {self.policy!r}: use {', '.join(POLICIES)}")
        for name in ("max_bytes", "half_life", "plans", "store_bytes"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
                raise ConfigurationError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name in ("ttl", "poll_interval", "stale_while_revalidate", "early_refresh"):
            check_seconds(name, getattr(self, name))
        if self.poll_interval is None or self.poll_interval > _YEAR:
            raise ConfigurationError(
                "poll_interval must be a number of seconds above 0, and below a year"
            )
        for name in ("store", "catalogue"):
            url = getattr(self, name)
            if url is not None and not isinstance(url, str):
                raise ConfigurationError(f"{name} must be a URL as text, not {url!r}")
        if not callable(self.clock):
            raise ConfigurationError(
                f"clock must return seconds when it is called, not {self.clock!r}"
            )


def check_seconds(name: str, value: float | None) -> None:
    """Raise `ConfigurationError` unless the value is a number of seconds above 0, or None."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and value > 0):
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
