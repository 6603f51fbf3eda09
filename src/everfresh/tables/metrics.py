"""Figures of tables for Prometheus, under the names that dashboards already ask for.

Tables count in plain attributes; what is asked for by a scrape is put together then. Without
``prometheus_client`` they only count.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

__all__ = ["Counters", "counters_of", "records_of"]

_TABLE = "tablecache_cached_table"


@dataclass(slots=True)
class Counters:
    """Count what the tables of one name did since the process started."""

    hits: int = 0
    hits_with_refresh: int = 0
    misses: int = 0
    refreshes: int = 0
    adjustments: int = 0
    expired: int = 0
    loaded: int = 0


class Sized(Protocol):
    """Know how many records there are, are added in scratch space, and are deleted there."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """These three numbers."""


_counters: dict[str, Counters] = {}
_local: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_registered = False


def counters_of(name: str) -> Counters:
    """Return the counters of the tables of this name; they outlive them, as counters must."""
    _register()
    return _counters.setdefault(name, Counters())


def records_of(name: str, table: Sized) -> None:
    """Show how many records a local table of this name has, as long as there is one."""
    _register()
    _local[name] = table


def _register() -> None:
    global _registered
    if _registered:
        return
    _registered = True
    if find_spec("prometheus_client") is not None:
        from prometheus_client import REGISTRY

        REGISTRY.register(Collector())


class Collector:
    """Answer a scrape."""

    def describe(self) -> list[Any]:
        """Claim no names: they are those of the earlier package, which may be there too."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield every figure of every table."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        reads = CounterMetricFamily(
            f"{_TABLE}_reads", "Reads of cached tables.", labels=["table_name", "type"]
        )
        for name, one in list(_counters.items()):
            reads.add_metric([name, "cache_hit"], one.hits)
            reads.add_metric([name, "cache_hit_with_refresh"], one.hits_with_refresh)
            reads.add_metric([name, "cache_miss"], one.misses)
        yield reads
        for what, attribute, text in (
            ("refreshes", "refreshes", "Refreshes of invalid records."),
            ("adjustments", "adjustments", "Adjustments, the first load included."),
            ("adjustment_expired", "expired", "Records expired by adjustments."),
            ("adjustment_loaded", "loaded", "Records loaded by adjustments."),
        ):
            family = CounterMetricFamily(f"{_TABLE}_{what}", text, labels=["table_name"])
            for name, one in list(_counters.items()):
                family.add_metric([name], getattr(one, attribute))
            yield family
        records = GaugeMetricFamily(
            "tablecache_local_table_records_total",
            "Records of local tables.",
            labels=["table_name", "type"],
        )
        for name, table in list(_local.items()):
            kinds = ("regular", "scratch", "scratch_delete")
            for kind, size in zip(kinds, table.sizes, strict=True):
                records.add_metric([name, kind], size)
        yield records
