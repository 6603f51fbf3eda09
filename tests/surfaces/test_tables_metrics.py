"""Figures under the names that dashboards of the earlier package ask for."""

import uuid

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

from everfresh.tables import CachedTable, PrimaryKeyIndexes
from everfresh.tables.local import LocalStorageTable
from surfaces.tables import Source, in_loop


def figures(name):
    text = prometheus_client.generate_latest().decode()
    return {
        (sample.name, sample.labels.get("type")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("table_name") == name
    }


@in_loop
async def test_counters_and_gauges():
    name = uuid.uuid4().hex
    indexes = PrimaryKeyIndexes(lambda record: record["id"], "all", "some")
    source = Source([{"id": n} for n in range(10)])
    table = CachedTable(indexes, source, LocalStorageTable(indexes, table_name=name))
    await table.load("primary_key", 1, 2, 3)
    await table.adjust("primary_key", 3, 4)
    await table.get_first_record("primary_key", 3)
    await table.get_records_list("primary_key", 3, 4)
    await table.get_records_list("primary_key", 9)
    spec = indexes.IndexSpec("primary_key", 3)
    table.invalidate_records([spec], [spec])
    await table.get_first_record("primary_key", 3)
    await table.storage_table.scratch_put_record({"id": 100})
    found = figures(name)
    reads = "tablecache_cached_table_reads_total"
    assert found[reads, "cache_hit"] == 2
    assert found[reads, "cache_miss"] == 1
    assert found[reads, "cache_hit_with_refresh"] == 1
    assert found["tablecache_cached_table_refreshes_total", None] == 1
    assert found["tablecache_cached_table_adjustments_total", None] == 2
    assert found["tablecache_cached_table_adjustment_expired_total", None] == 2
    assert found["tablecache_cached_table_adjustment_loaded_total", None] == 4
    records = "tablecache_local_table_records_total"
    assert [found[records, kind] for kind in ("regular", "scratch", "scratch_delete")] == [2, 1, 0]


@in_loop
async def test_counters_outlive_their_table():
    name = uuid.uuid4().hex
    for expected in (1, 2):
        indexes = PrimaryKeyIndexes(lambda record: record["id"], "all", "some")
        table = CachedTable(
            indexes, Source([{"id": 1}]), LocalStorageTable(indexes, table_name=name)
        )
        await table.load("primary_key", 1)
        assert figures(name)["tablecache_cached_table_adjustments_total", None] == expected
        del table, indexes
