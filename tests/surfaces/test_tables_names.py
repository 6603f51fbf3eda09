"""Keyword-only arguments, defaults and kinds of what the tables document names."""

import inspect

import pytest

from everfresh import tables
from everfresh.tables import local, postgres

KEYWORDS = [
    (tables.CachedTable.invalidate_records, {"force_refresh_on_next_read": True}),
    (tables.PrimaryKeyIndexes.IndexSpec, {"all_primary_keys": False}),
    (
        tables.PrimaryKeyRangeIndexes.IndexSpec,
        {"ge": inspect.Parameter.empty, "lt": inspect.Parameter.empty},
    ),
    (tables.DbRecordsSpec, {"record_parser": None}),
    (tables.QueryArgsDbRecordsSpec, {"record_parser": None}),
    (local.LocalStorageTable, {"table_name": None}),
]
COROUTINES = {"load", "loaded", "get_first_record", "adjust", "refresh_invalid"}


@pytest.mark.parametrize(("thing", "expected"), KEYWORDS)
def test_keyword_only_arguments_have_the_documented_defaults(thing, expected):
    parameters = inspect.signature(thing).parameters.values()
    found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert {name: found[name] for name in expected} == expected


def test_kinds_of_the_methods():
    for name in COROUTINES:
        assert inspect.iscoroutinefunction(getattr(tables.CachedTable, name))
    assert inspect.isasyncgenfunction(tables.CachedTable.get_records)
    assert not inspect.iscoroutinefunction(tables.CachedTable.invalidate_records)
    assert not inspect.iscoroutinefunction(tables.StorageTable.scratch_merge)
    assert inspect.iscoroutinefunction(tables.DbAccess.get_record)


def test_what_is_abstract():
    abstract = {
        tables.StorageTable: {
            "name",
            "clear",
            "put_record",
            "get_records",
            "delete_records",
            "scratch_put_record",
            "scratch_discard_records",
            "scratch_merge",
        },
        tables.DbAccess: {"get_records"},
        tables.RecordScorer: {"index_names", "score", "primary_key"},
        tables.Indexes: {
            "index_names",
            "score",
            "primary_key",
            "storage_records_spec",
            "db_records_spec",
            "prepare_adjustment",
            "commit_adjustment",
            "covers",
        },
    }
    for cls, names in abstract.items():
        assert cls.__abstractmethods__ == names
    assert issubclass(tables.Indexes, tables.RecordScorer)


def test_everything_the_earlier_package_exports_is_here():
    top = "CachedTable DbAccess DbRecordsSpec QueryArgsDbRecordsSpec Adjustment AllIndexes Indexes PrimaryKeyIndexes PrimaryKeyRangeIndexes RecordScorer UnsupportedIndexOperation Interval StorageRecordsSpec StorageTable PrimaryKey RecheckPredicate Score"
    assert set(top.split()) <= set(tables.__all__)
    assert {"PostgresAccess", "DbRecord", "RecordsSpec"} == set(postgres.__all__)
