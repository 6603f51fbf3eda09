"""The tables document, sentence by sentence, over a local storage and over a plain one."""

import asyncio

import pytest

from everfresh.tables import (
    Adjustment,
    AllIndexes,
    Indexes,
    Interval,
    PrimaryKeyIndexes,
    PrimaryKeyRangeIndexes,
    QueryArgsDbRecordsSpec,
    StorageRecordsSpec,
    UnsupportedIndexOperation,
)
from everfresh.tables.local import LocalStorageTable
from surfaces.tables import Gate, Plain, Source, ids, in_loop, make

ROWS = [{"id": n, "city": "JFK" if n % 2 else "LAX", "price": n * 10} for n in range(1, 7)]


def key(record):
    return record["id"]


def by_key():
    return PrimaryKeyIndexes(key, "all", "some")


def by_range():
    return PrimaryKeyRangeIndexes(key, "range")


@pytest.fixture(params=["local", "plain", "redis"])
def storage(request):
    kinds = {"local": LocalStorageTable, "plain": Plain}
    return kinds[request.param] if request.param in kinds else request.getfixturevalue("in_redis")


@pytest.fixture
def source():
    return Source(ROWS)


class CityIndexes(Indexes):
    """Everything, by city and by key: an index of the kind that users write."""

    class IndexSpec(Indexes.IndexSpec):
        def __init__(self, index_name, *values):
            super().__init__(index_name)
            self.values = values

    class Adjustment(Adjustment):
        def __init__(self, expire_spec, load_spec):
            super().__init__(expire_spec, load_spec)
            self.expired, self.loaded = [], []

        def observe_expired(self, record):
            self.expired.append(record["id"])

        def observe_loaded(self, record):
            self.loaded.append(record["id"])

    def __init__(self):
        self.committed = []
        self.no_adjusting = self.no_covering = False

    @property
    def index_names(self):
        return frozenset({"id", "city"})

    def score(self, index_name, record):
        return record["id"] if index_name == "id" else hash(record["city"])

    def primary_key(self, record):
        return record["id"]

    def storage_records_spec(self, spec):
        if not spec.values:
            return StorageRecordsSpec(spec.index_name, [Interval.everything()])
        if spec.index_name == "id":
            return StorageRecordsSpec(
                "id", [Interval.only_containing(v) for v in sorted(spec.values)]
            )
        scores = sorted({hash(city) for city in spec.values})
        return StorageRecordsSpec(
            "city",
            [Interval.only_containing(s) for s in scores],
            lambda row: row["city"] in spec.values,
        )

    def db_records_spec(self, spec):
        if spec.index_name == "id" and spec.values:
            return QueryArgsDbRecordsSpec("some", (spec.values,))
        return QueryArgsDbRecordsSpec("all", ())

    def prepare_adjustment(self, spec):
        if self.no_adjusting:
            raise UnsupportedIndexOperation("no adjusting")
        expire = StorageRecordsSpec("id", [Interval.everything()])
        return self.Adjustment(expire, self.db_records_spec(spec))

    def commit_adjustment(self, adjustment):
        self.committed.append(adjustment)

    def covers(self, spec):
        if self.no_covering:
            raise UnsupportedIndexOperation("no covering")
        return bool(self.committed)


# -- the cached table


@in_loop
async def test_records_come_from_storage_if_covered(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2, 3)
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", 1, 3)) == [1, 3]
    assert len(source.asked) == asked


@in_loop
async def test_records_come_from_the_database_otherwise(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2)
    assert await ids(table.get_records("primary_key", 5, 6)) == [5, 6]
    assert source.asked[-1] == ("some", ((5, 6),))


@in_loop
async def test_what_comes_from_the_database_is_not_stored(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1)
    for _ in range(2):
        assert await ids(table.get_records("primary_key", 5)) == [5]
    assert [asked for asked in source.asked if asked == ("some", ((5,),))] == [
        ("some", ((5,),))
    ] * 2


@in_loop
async def test_a_range_that_is_only_partly_covered_is_answered_whole(storage, source):
    table = make(by_range(), source, storage)
    await table.load("primary_key", ge=1, lt=3)
    assert await ids(table.get_records("primary_key", ge=2, lt=5)) == [2, 3, 4]


@in_loop
async def test_reads_wait_for_the_load(storage, source):
    table = make(by_key(), source, storage)
    reading = asyncio.create_task(ids(table.get_records("primary_key", 1)))
    first = asyncio.create_task(table.get_first_record("primary_key", 1))
    adjusting = asyncio.create_task(table.adjust("primary_key", 1, 2))
    ready = asyncio.create_task(table.loaded())
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in (reading, first, adjusting, ready))
    await table.load("primary_key", 1)
    assert await reading == [1]
    assert (await first)["id"] == 1
    await adjusting
    await ready


@in_loop
async def test_either_one_index_spec_or_its_arguments(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load(indexes.IndexSpec("primary_key", 1, 2))
    assert await ids(table.get_records(indexes.IndexSpec("primary_key", 2))) == [2]
    assert (await table.get_first_record(indexes.IndexSpec("primary_key", 1)))["id"] == 1
    await table.adjust(indexes.IndexSpec("primary_key", all_primary_keys=True))
    assert await ids(table.get_records("primary_key", all_primary_keys=True)) == [1, 2, 3, 4, 5, 6]


@in_loop
async def test_changes_in_the_database_show_after_an_invalidation(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2)
    source.put(id=1, city="BOS", price=1)
    asked = len(source.asked)
    assert (await table.get_first_record("primary_key", 1))["city"] == "JFK"
    spec = indexes.IndexSpec("primary_key", 1)
    table.invalidate_records([spec], [spec])
    assert len(source.asked) == asked  # no immediate refresh
    assert (await table.get_first_record("primary_key", 1))["city"] == "BOS"


# -- load


@in_loop
async def test_load_clears_the_storage(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.storage_table.put_record({"id": 99, "city": "old"})
    await table.load("primary_key", all_primary_keys=True)
    assert await ids(
        table.storage_table.get_records(StorageRecordsSpec("primary_key", [Interval.everything()]))
    ) == [1, 2, 3, 4, 5, 6]


@in_loop
async def test_load_raises_if_loaded_already(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1)
    with pytest.raises(ValueError, match="loaded already"):
        await table.load("primary_key", 1)


@in_loop
async def test_load_raises_if_the_index_does_not_support_adjusting(storage, source):
    indexes = CityIndexes()
    indexes.no_adjusting = True
    table = make(indexes, source, storage)
    with pytest.raises(ValueError, match="no adjusting"):
        await table.load("id")


@in_loop
async def test_load_can_be_tried_again_after_a_failure(storage, source):
    table = make(by_key(), source, storage)
    source.fail_after = 2
    with pytest.raises(ConnectionError):
        await table.load("primary_key", 1, 2, 3)
    source.fail_after = None
    await table.load("primary_key", 1, 2, 3)
    assert await ids(table.get_records("primary_key", 1, 2, 3)) == [1, 2, 3]


@in_loop
async def test_load_calls_prepare_commit_and_observes_what_is_loaded(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id", 1, 2)
    (adjustment,) = indexes.committed
    assert (sorted(adjustment.loaded), adjustment.expired) == ([1, 2], [])


# -- adjust


@in_loop
async def test_adjust_expires_and_loads(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2, 3)
    await table.adjust("primary_key", 3, 4)
    assert source.asked[-1] == ("some", ((4,),))  # 3 was there
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", 3, 4)) == [3, 4]
    assert len(source.asked) == asked
    assert await ids(table.get_records("primary_key", 1)) == [1]
    assert len(source.asked) == asked + 1


@in_loop
async def test_adjust_observes_what_it_expires_and_loads(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id", 1, 2)
    await table.adjust("id", 3)
    adjustment = indexes.committed[-1]
    assert (sorted(adjustment.expired), adjustment.loaded) == ([1, 2], [3])


@in_loop
async def test_reads_go_on_and_see_the_state_before_until_adjust_returns(storage, source):
    table = make(by_range(), source, storage)
    await table.load("primary_key", ge=1, lt=4)
    source.gate = Gate()
    adjusting = asyncio.create_task(table.adjust("primary_key", ge=3, lt=7))
    await source.gate.reached.wait()
    assert await ids(table.get_records("primary_key", ge=1, lt=4)) == [1, 2, 3]
    source.gate.opened.set()
    while not adjusting.done():
        seen = await ids(table.get_records("primary_key", ge=1, lt=4))
        assert seen == [1, 2, 3]
        await asyncio.sleep(0)
    await adjusting
    source.gate = None
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", ge=3, lt=7)) == [3, 4, 5, 6]
    assert len(source.asked) == asked


@in_loop
async def test_adjust_raises_if_the_index_does_not_support_it(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id")
    indexes.no_adjusting = True
    with pytest.raises(ValueError, match="no adjusting"):
        await table.adjust("id")


@in_loop
async def test_adjustments_and_refreshes_are_made_one_after_the_other(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2)
    gate = source.gate = Gate()
    first = asyncio.create_task(table.adjust("primary_key", 3))
    await gate.reached.wait()
    asked = len(source.asked)
    second = asyncio.create_task(table.adjust("primary_key", 4))
    await asyncio.sleep(0.01)
    assert len(source.asked) == asked
    gate.opened.set()
    await asyncio.gather(first, second)
    assert await ids(table.get_records("primary_key", 4)) == [4]


@in_loop
async def test_adjust_refreshes_what_is_invalid_before(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2)
    spec = indexes.IndexSpec("primary_key", 1)
    table.invalidate_records([spec], [spec], force_refresh_on_next_read=False)
    source.put(id=1, city="BOS", price=1)
    await table.adjust("primary_key", 1, 2, 3)
    assert source.asked[-2:] == [("some", ((1,),)), ("some", ((3,),))]
    assert (await table.get_first_record("primary_key", 1))["city"] == "BOS"


# -- get_first_record, get_records


@in_loop
async def test_get_first_record_raises_if_there_is_none(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 99)
    for absent in (99, 98):  # covered, and not
        with pytest.raises(KeyError):
            await table.get_first_record("primary_key", absent)


@in_loop
async def test_reads_raise_if_the_index_does_not_support_covers(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id")
    indexes.no_covering = True
    with pytest.raises(ValueError, match="no covering"):
        await ids(table.get_records("id"))
    with pytest.raises(ValueError, match="no covering"):
        await table.get_first_record("id")


@in_loop
async def test_the_recheck_predicate_picks_from_storage_only(storage, source):
    table = make(AllIndexes(key, "all"), source, storage)
    await table.load("all")
    found = table.get_records("all", recheck_predicate=lambda record: record["price"] > 40)
    assert await ids(found) == [5, 6]


# -- invalidate_records


@in_loop
async def test_invalidating_needs_a_loaded_table(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    spec = indexes.IndexSpec("primary_key", 1)
    with pytest.raises(ValueError, match="not loaded"):
        table.invalidate_records([spec], [spec])


@in_loop
async def test_invalidating_checks_its_lists(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1)
    spec, uncovered = (indexes.IndexSpec("primary_key", n) for n in (1, 2))
    for old, new in (([], [spec]), ([spec], []), ([spec, spec], [spec]), ([spec], [spec, spec])):
        with pytest.raises(ValueError, match=r"empty|more than one"):
            table.invalidate_records(old, new)
    for old, new in (([uncovered], [spec]), ([spec], [uncovered])):
        with pytest.raises(ValueError, match="not certain"):
            table.invalidate_records(old, new)
    asked = len(source.asked)
    await table.refresh_invalid()
    assert len(source.asked) == asked  # nothing was noted


@in_loop
async def test_invalidating_needs_support_of_covers(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id")
    indexes.no_covering = True
    spec = indexes.IndexSpec("id", 1)
    with pytest.raises(ValueError, match="no covering"):
        table.invalidate_records([spec], [spec])


@in_loop
async def test_the_refresh_deletes_by_the_first_old_and_loads_by_the_first_new_spec(
    storage, source
):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id")
    source.put(id=7, city="BOS", price=1)
    del source.rows[1]
    old = [indexes.IndexSpec("id", 1), indexes.IndexSpec("city", "JFK")]
    new = [indexes.IndexSpec("id", 7), indexes.IndexSpec("city", "BOS")]
    table.invalidate_records(old, new)
    await table.refresh_invalid()
    assert source.asked[-1] == ("some", ((7,),))
    asked = len(source.asked)
    assert await ids(table.get_records("id")) == [2, 3, 4, 5, 6, 7]
    assert await ids(table.get_records("city", "BOS")) == [7]
    assert len(source.asked) == asked


@in_loop
async def test_reads_of_invalid_records_refresh_and_others_do_not(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2, 3)
    spec = indexes.IndexSpec("primary_key", 1)
    table.invalidate_records([spec], [spec])
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", 2, 3)) == [2, 3]
    assert len(source.asked) == asked
    assert await ids(table.get_records("primary_key", 1, 3)) == [1, 3]
    assert len(source.asked) == asked + 1


@in_loop
async def test_new_scores_are_invalid_too(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id")
    source.put(id=1, city="BOS", price=1)
    old = [indexes.IndexSpec("id", 1), indexes.IndexSpec("city", "JFK")]
    new = [indexes.IndexSpec("id", 1), indexes.IndexSpec("city", "BOS")]
    table.invalidate_records(old, new)
    assert await ids(table.get_records("city", "LAX")) == [2, 4, 6]
    asked = len(source.asked)
    assert await ids(table.get_records("city", "BOS")) == [1]
    assert len(source.asked) == asked + 1


@in_loop
async def test_indexes_left_out_of_the_lists_become_dirty(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id")
    spec = indexes.IndexSpec("id", 1)
    table.invalidate_records([spec, indexes.IndexSpec("city", "JFK")], [spec])
    asked = len(source.asked)
    assert await ids(table.get_records("id", 2)) == [2]
    assert len(source.asked) == asked
    assert await ids(table.get_records("city", "LAX")) == [2, 4, 6]  # of another city, even so
    assert len(source.asked) == asked + 1


@in_loop
async def test_without_force_old_records_are_served_until_a_refresh(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1)
    spec = indexes.IndexSpec("primary_key", 1)
    source.put(id=1, city="BOS", price=1)
    table.invalidate_records([spec], [spec], force_refresh_on_next_read=False)
    assert (await table.get_first_record("primary_key", 1))["city"] == "JFK"
    await table.refresh_invalid()
    assert (await table.get_first_record("primary_key", 1))["city"] == "BOS"


@in_loop
async def test_records_that_have_not_changed_may_be_given(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2)
    spec = indexes.IndexSpec("primary_key", 1, 2)
    table.invalidate_records([spec], [spec])
    assert await ids(table.get_records("primary_key", 1, 2)) == [1, 2]
    assert source.asked[-1] == ("some", ((1, 2),))


@in_loop
async def test_a_superset_of_new_records_is_fine_and_a_subset_loses_some(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2, 3)
    one, both = indexes.IndexSpec("primary_key", 1), indexes.IndexSpec("primary_key", 1, 2)
    table.invalidate_records([one], [both])
    assert await ids(table.get_records("primary_key", 1, 2, 3)) == [1, 2, 3]
    table.invalidate_records([both], [one])
    assert await ids(table.get_records("primary_key", 1, 2, 3)) == [1, 3]


@in_loop
async def test_new_covered_records_are_loaded(storage, source):
    indexes = by_range()
    table = make(indexes, source, storage)
    await table.load("primary_key", ge=1, lt=100)
    source.put(id=50, city="BOS", price=1)
    spec = indexes.IndexSpec("primary_key", ge=50, lt=51)
    table.invalidate_records([spec], [spec])
    assert await ids(table.get_records("primary_key", ge=6, lt=60)) == [6, 50]


@in_loop
async def test_what_a_refresh_changes_is_not_observed(storage, source):
    indexes = CityIndexes()
    table = make(indexes, source, storage)
    await table.load("id", 1)
    spec = indexes.IndexSpec("id", 1)
    before = [list(one.loaded) for one in indexes.committed]
    table.invalidate_records([spec], [spec])
    await table.refresh_invalid()
    assert [one.loaded for one in indexes.committed] == before
    assert all(not one.expired for one in indexes.committed)


# -- refresh_invalid


@in_loop
async def test_a_refresh_of_nothing_asks_nothing(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1)
    asked = len(source.asked)
    await table.refresh_invalid()
    assert len(source.asked) == asked


@in_loop
async def test_a_refresh_waits_for_an_adjustment(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1)
    gate = source.gate = Gate()
    adjusting = asyncio.create_task(table.adjust("primary_key", 1, 2))
    await gate.reached.wait()
    spec = indexes.IndexSpec("primary_key", 1)
    table.invalidate_records([spec], [spec])
    refreshing = asyncio.create_task(table.refresh_invalid())
    await asyncio.sleep(0.01)
    assert not refreshing.done()
    gate.opened.set()
    await asyncio.gather(adjusting, refreshing)
    assert await ids(table.get_records("primary_key", 1, 2)) == [1, 2]


@in_loop
async def test_a_refresh_waits_for_the_one_before_and_refreshes_what_came_since(storage, source):
    indexes = by_key()
    table = make(indexes, source, storage)
    await table.load("primary_key", 1, 2)
    one, two = (indexes.IndexSpec("primary_key", n) for n in (1, 2))
    table.invalidate_records([one], [one])
    gate = source.gate = Gate()
    first = asyncio.create_task(table.refresh_invalid())
    await gate.reached.wait()
    table.invalidate_records([two], [two])
    second = asyncio.create_task(table.refresh_invalid())
    gate.opened.set()
    await asyncio.gather(first, second)
    assert source.asked[-2:] == [("some", ((1,),)), ("some", ((2,),))]
