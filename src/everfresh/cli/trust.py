"""What audits over time say, and the queries that a catalogue knows."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from everfresh.catalogue import Listing, audits, listed, open_catalogue
from everfresh.cli.workload import Workload
from everfresh.engine.audit import nines
from everfresh.errors import CodecError, ConfigurationError
from everfresh.stores.codec import MessagePackCodec

__all__ = ["Period", "history", "recorded"]

_PERIODS = (("day", 86_400.0), ("week", 604_800.0), ("90 days", 7_776_000.0))


@dataclass(frozen=True, slots=True)
class Period:
    """Hold the audits of the last day, week or 90 days; ``nines`` with 95 % confidence."""

    period: str
    audits: int
    checked: int
    stale: int
    nines: float

    def __str__(self) -> str:
        return (
            f"last {self.period}: {self.checked:,} checked in {self.audits} audits, "
            f"{self.stale} stale: at least {self.nines:.1f} nines"
        )


def history(catalogue: str) -> list[Period]:
    """Return what the recorded audits of the last day, week and 90 days say."""
    with closing(open_catalogue(catalogue)) as opened:
        rows = audits(opened, since=time.time() - _PERIODS[-1][1], limit=1_000_000)
    return [
        _period(name, [row for row in rows if row.at >= time.time() - s]) for name, s in _PERIODS
    ]


def _period(name: str, rows: list[Any]) -> Period:
    checked, stale = sum(row.checked for row in rows), sum(row.stale for row in rows)
    return Period(name, len(rows), checked, stale, nines(checked, stale))


def recorded(catalogue: str, limit: int = 10_000) -> Workload:
    """Return the queries that a catalogue knows, with their parameters.

    Raises `ConfigurationError` if it knows none.
    """
    with closing(open_catalogue(catalogue)) as opened:
        rows = listed(opened, Listing(kind="sql", limit=limit))
    found: Workload = []
    for row in rows:
        try:
            detail = None if row.detail is None else MessagePackCodec().decode(row.detail)
        except CodecError:
            continue
        if isinstance(detail, dict):
            found.append((row.label, detail))
    if not found:
        raise ConfigurationError("this catalogue knows no query: name a file with --workload")
    return found
