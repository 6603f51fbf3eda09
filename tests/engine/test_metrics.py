"""What a cache tells the systems that watch it, and what none of them is ever told."""

import logging
import sys
import urllib.request

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import everfresh
from everfresh import metrics
from everfresh.errors import ConfigurationError, MissingExtraError

from .conftest import write

COUNT = "SELECT count(*) FROM flights WHERE month = :m"


def used(cache):
    """Fill two, hit one twice, refresh it, and ask what is not kept."""
    for month in (5, 6, 6, 6):
        cache.sql(COUNT, m=month)
    write(cache, "INSERT INTO flights (month) VALUES (6)")
    cache.sql(COUNT, m=6)
    cache.sql("SELECT random()")


def scraped(registry):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_prometheus_is_told_what_the_cache_counts(cache):
    used(cache)
    registry = CollectorRegistry()
    registry.register(metrics.Collector(cache, "shop"))
    found = scraped(registry)
    label = ("cache", "shop")
    assert found["everfresh_hits_total", label] == 2
    assert found["everfresh_fills_total", label] == 2
    assert found["everfresh_refreshes_total", label] == 1
    assert found["everfresh_invalidated_total", label] == 1
    assert found["everfresh_entries", label] == 2
    assert found["everfresh_kept_bytes", label] == cache.stats().bytes
    assert found["everfresh_saved_seconds_total", label] == cache.stats().seconds_saved
    assert found["everfresh_feed_lag_seconds", label] >= 0
    assert found["everfresh_troubles", label] == 0
    (reason,) = cache.stats().bypasses
    assert found["everfresh_bypasses_total", label, ("reason", reason)] == 1


def test_every_figure_of_stats_is_exported(cache):
    """A new one must be, too; what is derived from others need not."""
    told = {metric.name for metric in metrics._METRICS}
    names = {"bytes": "kept", "lag": "feed_lag", "seconds_saved": "saved"}
    names |= {"lease_seconds": "lease_waited"}
    figures = set(cache.stats().to_dict()) - {"hit_ratio", "bypasses"}
    assert {names.get(figure, figure) for figure in figures} == told


def test_an_endpoint_for_scraping(cache):
    used(cache)
    with metrics.serve(cache, 0) as served:
        text = urllib.request.urlopen(served.url, timeout=5).read().decode()
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {"everfresh_hits", "everfresh_bypasses"} <= families
        port = int(served.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(ConfigurationError, match="cannot be served"):
            metrics.serve(cache, port)


def test_opentelemetry_is_told_figures_and_computations(cache):
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader])
    metrics.instrument(cache, meter_provider=meters, tracer_provider=tracing, name="shop")
    used(cache)
    values = {
        metric.name: metric.data.data_points[0].value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert (values["everfresh.hits"], values["everfresh.fills"]) == (2, 2)
    spans = exporter.get_finished_spans()
    assert [span.attributes["db.query.text"] for span in spans] == [COUNT] * 3
    assert {span.attributes["everfresh.cache"] for span in spans} == {"shop"}
    assert all(span.end_time >= span.start_time for span in spans)
    meters.shutdown()
    tracing.shutdown()


def test_a_computation_that_raises_ends_its_span(cache):
    exporter, tracing = InMemorySpanExporter(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    metrics.instrument(cache, tracer_provider=tracing)

    @cache.cached
    def wrong():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wrong()
    assert len(exporter.get_finished_spans()) == 1
    tracing.shutdown()


def test_what_is_missing_names_the_command(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"everfresh\[prometheus\]"):
        metrics.Collector(cache)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"everfresh\[opentelemetry\]"):
        metrics.instrument(cache)


SECRET = "s3cret-w0rd"


def test_no_secret_is_in_logs_errors_receipts_or_settings(url, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    told = []
    store = f"redis://app:{SECRET}@127.0.0.1:1/0?timeout=0.05"
    catalogue = f"postgresql://app:{SECRET}@127.0.0.1:1/record"
    settings = {"store": store, "catalogue": catalogue, "store_key": SECRET.encode() * 2}
    with everfresh.open(url, freshness=everfresh.ttl(60), **settings) as cache:
        rows = cache.sql(COUNT, m=6)
        cache.fills.durable.flush()
        cache.board.recorder.flush()
        told += [str(rows.receipt), repr(cache.settings), str(cache.stats()), str(cache.why(rows))]
        assert len(cache.stats().troubles) == 2
    database = f"postgresql://app:{SECRET}@127.0.0.1:1/db"
    with everfresh.open(database, freshness="strict") as cache:
        with pytest.raises(sa.exc.OperationalError) as raised:
            cache.sql("SELECT 1")
        told += [str(raised.value), cache.feed.watch.reason, repr(cache.engine)]
        with pytest.raises(ConfigurationError) as refused:
            cache.track()
        told.append(str(refused.value))
    for wrong in (f"redis://:{SECRET}@h:port/", f"nonsense://:{SECRET}@h/"):
        with pytest.raises(everfresh.errors.EverfreshError) as refused:
            everfresh.open(url, store=wrong)
        told.append(str(refused.value))
    told += [
        record.getMessage() for record in caplog.records if record.name.startswith("everfresh")
    ]
    assert [text for text in told if SECRET in text] == []
    assert len(told) > 8
