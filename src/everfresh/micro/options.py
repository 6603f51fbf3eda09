"""What a micro-cache can be told beyond the reference document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from everfresh.engine.cache import Cache
from everfresh.errors import ConfigurationError
from everfresh.kernel.ports import Clock
from everfresh.settings import Settings, check_seconds

__all__ = ["Options", "check_threshold"]


@dataclass(frozen=True, slots=True)
class Options:
    """Say how a micro-cache behaves; all of it is optional.

    ``cache``: an `everfresh.Cache` of the same database; an entry then also goes when a commit
    touches what it was made from. ``by_callback``: results of different callbacks are kept apart,
    not only those of different SQL. ``copy``: hand out deep copies instead of the kept object.
    ``max_entries``: how many results are kept; the oldest goes first. ``max_bytes``: how many bytes
    they may take (256 MiB; with ``cache`` its own limit counts). ``stale_while_revalidate``:
    seconds beyond the threshold during which an aged result is served while a new one is made, as
    in RFC 5861. ``clock``: seconds that never go back.

    >>> Options(max_entries=100).by_callback
    False
    """

    cache: Cache | None = None
    by_callback: bool = False
    copy: bool = False
    max_entries: int | None = None
    max_bytes: int | None = None
    stale_while_revalidate: float | None = None
    clock: Clock | None = None

    def __post_init__(self) -> None:
        check_seconds("stale_while_revalidate", self.stale_while_revalidate)
        for name in ("max_entries", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} must be above 0, not {value!r}")
        for name in ("max_bytes", "clock"):
            if self.cache is not None and getattr(self, name) is not None:
                raise ConfigurationError(
                    f"with cache=, what is kept lies in that cache: give {name} to everfresh.open"
                )

    @property
    def settings(self) -> Settings:
        """The settings of a store of its own."""
        given: dict[str, Any] = {"max_bytes": self.max_bytes, "clock": self.clock}
        return Settings(**{name: value for name, value in given.items() if value is not None})


def check_threshold(value: float) -> float:
    """Return the value; raise `ConfigurationError` unless it is a number of seconds from 0 up."""
    if isinstance(value, (int, float)) and value >= 0:
        return value
    raise ConfigurationError(f"threshold must be a number of seconds from 0 up, not {value!r}")
