"""Export what a cache does: Prometheus metrics, OpenTelemetry metrics and spans.

Nothing is counted twice and nothing is added to a hit: both read `Cache.stats` when they are
asked. Logs come through the standard library's loggers below ``everfresh``: what fails is logged
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from everfresh.engine.stats import Stats
from everfresh.errors import ConfigurationError, MissingExtraError

__all__ = ["Collector", "instrument", "serve"]


class _Cache(Protocol):
    """Hold figures, as `everfresh.Cache` does."""

    def stats(self) -> Stats:
        """Return the figures since the cache was opened."""


@dataclass(frozen=True, slots=True)
class _Metric:
    """Describe one metric and where its value is found."""

    name: str
    meaning: str
    kind: Literal["counter", "gauge"]
    unit: str
    value: Callable[[Stats], float | None]


_METRICS = (
    _Metric("hits", "Answers given from memory", "counter", "", lambda s: s.hits),
    _Metric("fills", "Answers computed for the first time", "counter", "", lambda s: s.fills),
    _Metric("refreshes", "Answers computed again", "counter", "", lambda s: s.refreshes),
    _Metric("recalled", "Answers taken from the store", "counter", "", lambda s: s.recalled),
    _Metric("joined", "Callers that shared a computation", "counter", "", lambda s: s.joined),
    _Metric("voided", "Computations that a change overtook", "counter", "", lambda s: s.voided),
    _Metric("cutoffs", "Answers kept as their parts were", "counter", "", lambda s: s.cutoffs),
    _Metric("errors", "Computations that raised", "counter", "", lambda s: s.errors),
    _Metric("invalidated", "Answers outdated by a change", "counter", "", lambda s: s.invalidated),
    _Metric("evicted", "Answers let go for room", "counter", "", lambda s: s.evicted),
    _Metric("saved", "Time hits did not take", "counter", "seconds", lambda s: s.seconds_saved),
    _Metric("lease_waits", "Waits for another process", "counter", "", lambda s: s.lease_waits),
    _Metric("lease_waited", "Time of these waits", "counter", "seconds", lambda s: s.lease_seconds),
    _Metric("entries", "Answers kept in memory", "gauge", "", lambda s: s.entries),
    _Metric("kept", "Size of what is kept in memory", "gauge", "bytes", lambda s: s.bytes),
    _Metric("limit", "Limit of what is kept in memory", "gauge", "bytes", lambda s: s.limit),
    _Metric("feed_lag", "Time since others were heard", "gauge", "seconds", lambda s: s.lag),
    _Metric("troubles", "Parts that cannot be used now", "gauge", "", lambda s: len(s.troubles)),
)


class Collector:
    """Give a Prometheus registry the metrics of a cache; a collector as prometheus-client has them.

    ``name`` is the value of the label ``cache``, which tells the caches of a process apart. Raises
    `MissingExtraError` without prometheus-client.

    >>> import everfresh
    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> cache = everfresh.open("sqlite://")
    >>> registry = CollectorRegistry()
    >>> registry.register(Collector(cache, "shop"))
    >>> _ = cache.sql("SELECT 1"), cache.sql("SELECT 1")
    >>> b'everfresh_hits_total{cache="shop"} 1.0' in generate_latest(registry)
    True
    """

    def __init__(self, cache: _Cache, name: str = "default") -> None:
        try:
            from prometheus_client import core
        except ImportError:
            raise MissingExtraError("prometheus", "Prometheus metrics") from None
        self._core: Any = core
        self._cache, self._name = cache, name

    def collect(self) -> Iterator[Any]:
        """Yield every metric as it is now."""
        stats = self._cache.stats()
        for metric in _METRICS:
            value = metric.value(stats)
            if value is not None:
                yield self._family(metric, {(): value})
        bypasses = _Metric("bypasses", "Answers that were not kept", "counter", "", lambda s: None)
        yield self._family(bypasses, {(reason,): n for reason, n in stats.bypasses.items()})

    def _family(self, metric: _Metric, values: dict[tuple[str, ...], float]) -> Any:
        counter = metric.kind == "counter"
        make = self._core.CounterMetricFamily if counter else self._core.GaugeMetricFamily
        name = "_".join(filter(None, ("everfresh", metric.name, metric.unit)))
        reason = ["reason"] if metric.name == "bypasses" else []
        family = make(name, metric.meaning, labels=["cache", *reason])
        for labels, value in values.items():
            family.add_metric([self._name, *labels], value)
        return family


def serve(
    cache: _Cache, port: int = 9464, *, host: str = "127.0.0.1", name: str = "default"
) -> _Serving:
    """Serve a cache's metrics for Prometheus over HTTP, from a thread; return what stops it.

    ``port`` 0 takes a free one. The result has ``url`` and ``close()``, and is a context manager.
    Raises `ConfigurationError` where the port is taken.
    """
    collector = Collector(cache, name)
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(f"metrics cannot be served on {host}:{port}: {error}") from None
    return _Serving(server, thread)


class _Serving(AbstractContextManager["_Serving"]):
    """Hold a server of metrics."""

    def __init__(self, server: Any, thread: Any) -> None:
        self._server, self._thread = server, thread
        host, port = server.server_address[:2]
        self.url = f"http://{host}:{port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __exit__(self, *error: object) -> None:
        self.close()


def instrument(
    cache: Any, *, meter_provider: Any = None, tracer_provider: Any = None, name: str = "default"
) -> None:
    """Let OpenTelemetry have a cache's metrics and a span of every computation.

    A span ``everfresh.compute`` carries ``everfresh.cache``, ``everfresh.kind``, the statement in
    ``db.query.text`` (never its parameters) and ``everfresh.status``. Hits make no span. Raises
    `MissingExtraError` without opentelemetry-api.
    """
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise MissingExtraError("opentelemetry", "OpenTelemetry") from None
    meter = metrics.get_meter("everfresh", meter_provider=meter_provider)
    for metric in _METRICS:
        create = (
            meter.create_observable_counter
            if metric.kind == "counter"
            else meter.create_observable_gauge
        )
        create(
            f"everfresh.{metric.name}",
            callbacks=[_observer(metrics.Observation, cache, metric, name)],
            unit={"seconds": "s", "bytes": "By"}.get(metric.unit, "1"),
            description=metric.meaning,
        )
    tracer = trace.get_tracer("everfresh", tracer_provider=tracer_provider)
    cache.fills.tracing = lambda request: tracer.start_as_current_span(
        "everfresh.compute",
        attributes={
            "everfresh.cache": name,
            "everfresh.kind": request.kind,
            "db.query.text": request.label,
        },
    )


def _observer(
    make: Any, cache: _Cache, metric: _Metric, name: str
) -> Callable[[object], Iterable[Any]]:
    def observe(_options: object) -> Iterable[Any]:
        value = metric.value(cache.stats())
        return () if value is None else (make(value, {"everfresh.cache": name}),)

    return observe
