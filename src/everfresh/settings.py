"""The settings of a cache: one schema, checked when it is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from everfresh.errors import ConfigurationError

__all__ = ["Settings"]

POLICIES = ("half_life", "gdsf", "lru")


@dataclass(frozen=True, slots=True)
class Settings:
    """Say how a cache behaves.

    ``max_bytes``: limit of what is kept in memory, in bytes. ``policy``: what goes first,
    ``half_life`` (seconds to compute per byte, weighted by touches that fade), ``gdsf`` or
    ``lru``; ``half_life`` is counted in touches of the whole cache. ``ttl``: seconds after which an
    answer is computed again even if nothing changed, None for never. ``plans``: how many analysed
    statements are remembered. ``clock``: seconds that never go back.

    >>> Settings(max_bytes=1_000_000).policy
    'half_life'
    """

    max_bytes: int = 256 << 20
    policy: str = "half_life"
    half_life: float = 1000.0
    ttl: float | None = None
    plans: int = 2000
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigurationError(f"unknown policy {self.policy!r}: use {', '.join(POLICIES)}")
        for name in ("max_bytes", "half_life", "plans"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be above 0, not {getattr(self, name)!r}")
        check_seconds("ttl", self.ttl)


def check_seconds(name: str, value: float | None) -> None:
    """Raise `ConfigurationError` unless the value is a number of seconds above 0, or None."""
    if value is not None and not (isinstance(value, (int, float)) and value > 0):
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
