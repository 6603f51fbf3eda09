"""How fresh an answer must be, and when an aging one is made again before it ends."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Literal

from everfresh.errors import ConfigurationError

__all__ = ["STRICT", "Freshness", "bounded", "early_probability", "freshness_of", "ttl"]

_BOUND = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Freshness:
    """Say how old the knowledge of other writers' commits may be, in seconds; see the functions."""

    mode: Literal["strict", "bounded", "ttl"]
    seconds: float

    def __post_init__(self) -> None:
        number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not number or not (self.seconds > 0 or self.mode == "strict"):
            raise ConfigurationError(
                f"{self.mode}() takes a number of seconds above 0, not {self.seconds!r}"
            )

    def lifetime(self, ttl: float | None) -> float | None:
        """Return for how many seconds an answer is kept under this rule and a ``ttl`` of its own.

        >>> ttl(30).lifetime(None), ttl(30).lifetime(10), STRICT.lifetime(None)
        (30, 10, None)
        """
        if self.mode != "ttl":
            return ttl
        return self.seconds if ttl is None else min(ttl, self.seconds)

    def __str__(self) -> str:
        return self.mode if self.mode == "strict" else f"{self.mode}({self.seconds:g})"


STRICT = Freshness("strict", 0.0)


def bounded(seconds: float = _BOUND) -> Freshness:
    """Return the rule: other writers' commits are heard at most this many seconds late.

    >>> str(bounded(0.5))
    'bounded(0.5)'
    """
    return Freshness("bounded", seconds)


def ttl(seconds: float) -> Freshness:
    """Return the rule: an answer serves for this many seconds, whatever other writers commit."""
    return Freshness("ttl", seconds)


def freshness_of(value: object) -> Freshness:
    """Return the rule that a setting names; raises `ConfigurationError` for anything else.

    >>> freshness_of("strict"), freshness_of("bounded")
    (Freshness(mode='strict', seconds=0.0), Freshness(mode='bounded', seconds=1.0))
    """
    if isinstance(value, Freshness):
        return value
    if value == "strict":
        return STRICT
    if value == "bounded":
        return bounded()
    raise ConfigurationError(
        f"freshness is 'strict', 'bounded', everfresh.bounded(seconds) or everfresh.ttl(seconds), "
        f"not {value!r}"
    )


def early_probability(remaining: float, cost: float, beta: float) -> float:
    """Return the probability with which a reader makes an answer anew before it ends.

    ``remaining`` and ``cost`` (of computing it) are in seconds; ``beta`` above 1 is earlier. The
    XFetch of A. Vattani, F. Chierichetti and K. Lowenstein, "Optimal Probabilistic Cache Stampede
    Prevention", PVLDB 8(8), 2015: P = exp(-remaining / (beta · cost)).

    >>> early_probability(0.0, 0.1, 1.0), round(early_probability(0.1, 0.1, 1.0), 3)
    (1.0, 0.368)
    """
    if remaining <= 0:
        return 1.0
    if cost <= 0 or beta <= 0:
        return 0.0
    return exp(-remaining / (beta * cost))
