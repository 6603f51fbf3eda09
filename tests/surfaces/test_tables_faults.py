"""Each known fault of earlier table caches, as a test that fails on the faulty design."""

import asyncio
import collections

import pytest

from everfresh.tables import (
    AllIndexes,
    Interval,
    PrimaryKeyIndexes,
    PrimaryKeyRangeIndexes,
    StorageRecordsSpec,
)
from everfresh.tables.local import LocalStorageTable
from surfaces.tables import Gate, Plain, Source, ids, in_loop, make

ROWS = [{"id": n, "v": 0} for n in range(1, 7)]


def key(record):
    return record["id"]


def by_key():
    return PrimaryKeyIndexes(key, "all", "some")


def by_range():
    return PrimaryKeyRangeIndexes(key, "range")


def spec(table, *keys):
    return table.indexes.IndexSpec("primary_key", *keys)


@pytest.fixture(params=["local", "plain", "redis"])
def storage(request):
    kinds = {"local": LocalStorageTable, "plain": Plain}
    return kinds[request.param] if request.param in kinds else request.getfixturevalue("in_redis")


@pytest.fixture
def source():
    return Source(ROWS)


@in_loop
async def test_an_invalidation_during_a_refresh_outlives_it(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1)
    table.invalidate_records([spec(table, 1)], [spec(table, 1)])
    gate = source.gate = Gate()
    refreshing = asyncio.create_task(table.refresh_invalid())
    await gate.reached.wait()  # its query has its snapshot
    source.put(id=1, v=1)
    table.invalidate_records([spec(table, 1)], [spec(table, 1)])
    gate.opened.set()
    await refreshing
    assert table.get("nothing") is None
    assert table.get(1) is None  # not served by key either
    assert (await table.get_first_record("primary_key", 1))["v"] == 1


@in_loop
async def test_two_adjusts_at_once_leave_no_hole(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2)
    gate = source.gate = Gate()
    first = asyncio.create_task(table.adjust("primary_key", 3))  # expires 1 and 2
    await gate.reached.wait()
    second = asyncio.create_task(table.adjust("primary_key", 1, 2, 3))  # nothing but 3 to load?
    await asyncio.sleep(0.01)
    gate.opened.set()
    await asyncio.gather(first, second)
    assert table.indexes.covers(spec(table, 1, 2, 3))
    assert await ids(table.get_records("primary_key", 1, 2, 3)) == [1, 2, 3]


@in_loop
async def test_coverage_is_checked_again_after_waiting_for_a_refresh(storage, source):
    table = make(by_range(), source, storage)
    await table.load("primary_key", ge=1, lt=4)
    gate = source.gate = Gate()
    adjusting = asyncio.create_task(table.adjust("primary_key", ge=4, lt=7))
    await gate.reached.wait()
    one = table.indexes.IndexSpec("primary_key", ge=1, lt=2)
    table.invalidate_records([one], [one])
    reading = asyncio.create_task(ids(table.get_records("primary_key", ge=1, lt=2)))
    await asyncio.sleep(0.01)
    gate.opened.set()
    await adjusting
    assert await reading == [1]


@pytest.mark.parametrize("failure", ["error", "cancelled"])
@in_loop
async def test_an_adjust_that_fails_leaves_no_trace(storage, source, failure):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2)
    if failure == "error":
        source.error = ConnectionError("lost")
        with pytest.raises(ConnectionError):
            await table.adjust("primary_key", 3)
        source.error = None
    else:
        source.gate = Gate()
        adjusting = asyncio.create_task(table.adjust("primary_key", 3))
        await source.gate.reached.wait()
        adjusting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adjusting
        source.gate = None
    assert table.indexes.covers(spec(table, 1, 2))
    assert not table.indexes.covers(spec(table, 3))
    table.invalidate_records([spec(table, 1)], [spec(table, 1)])
    await table.refresh_invalid()  # would apply what was staged
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", 1, 2)) == [1, 2]
    assert len(source.asked) == asked


@in_loop
async def test_a_refresh_that_fails_is_tried_again(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2)
    source.put(id=1, v=1)
    table.invalidate_records([spec(table, 1)], [spec(table, 1)])
    source.error = ConnectionError("lost")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await table.get_first_record("primary_key", 1)
    source.error = None
    assert (await table.get_first_record("primary_key", 1))["v"] == 1


@in_loop
async def test_put_then_discard_in_scratch_space_stays_gone():
    storage = LocalStorageTable(by_key())
    everything = StorageRecordsSpec("primary_key", [Interval.everything()])
    await storage.put_record({"id": 1, "v": 0})
    await storage.scratch_put_record({"id": 1, "v": 1})
    await storage.scratch_put_record({"id": 2, "v": 1})
    assert sorted([r["id"] async for r in storage.scratch_discard_records(everything)]) == [1, 2]
    assert await ids(storage.get_records(everything)) == [1]
    storage.scratch_merge()
    assert await ids(storage.get_records(everything)) == []


@pytest.mark.parametrize(
    "pair", [(-1, -2), (2**61 - 2, -(2**61) + 2), (2**60, 2**60 + 1), (0, 2**61 - 1)]
)
@in_loop
async def test_keys_whose_hashes_collide_are_told_apart(storage, pair):
    one, other = pair
    source = Source([{"id": one, "v": 1}, {"id": other, "v": 2}])
    table = make(by_key(), source, storage)
    await table.load("primary_key", one, other)
    assert await ids(table.get_records("primary_key", one, other)) == sorted(pair)
    assert (await table.get_first_record("primary_key", one))["v"] == 1
    await table.adjust("primary_key", other)  # expires only the one
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", other)) == [other]
    assert len(source.asked) == asked
    held = StorageRecordsSpec("primary_key", [Interval.everything()])
    assert await ids(table.storage_table.get_records(held)) == [other]


@in_loop
async def test_leaving_a_loop_early_harms_nobody(source):
    table = make(by_range(), source)
    await table.load("primary_key", ge=1, lt=7)
    async for record in table.get_records("primary_key", ge=1, lt=7):
        assert record["id"] == 1
        break
    one = table.indexes.IndexSpec("primary_key", ge=1, lt=2)
    table.invalidate_records([one], [one])
    await asyncio.wait_for(table.adjust("primary_key", ge=2, lt=7), 5)
    assert await asyncio.wait_for(ids(table.get_records("primary_key", ge=2, lt=7)), 5) == [
        2,
        3,
        4,
        5,
        6,
    ]


@in_loop
async def test_a_paused_reader_blocks_nobody_and_sees_its_snapshot_to_the_end(source):
    table = make(by_range(), source)
    await table.load("primary_key", ge=1, lt=7)
    reader = table.get_records("primary_key", ge=1, lt=7)
    first = await anext(reader)
    source.put(id=2, v=9)
    two = table.indexes.IndexSpec("primary_key", ge=2, lt=3)
    table.invalidate_records([two], [two])
    await asyncio.wait_for(table.refresh_invalid(), 5)
    await asyncio.wait_for(table.adjust("primary_key", ge=5, lt=7), 5)
    rest = [record async for record in reader]
    assert [record["id"] for record in [first, *rest]] == [1, 2, 3, 4, 5, 6]
    assert {record["v"] for record in rest} == {0}


@in_loop
async def test_a_range_index_loads(storage, source):
    table = make(by_range(), source, storage)
    await table.load("primary_key", ge=2, lt=5)
    assert await ids(table.get_records("primary_key", ge=2, lt=5)) == [2, 3, 4]
    assert "2" in repr(table.indexes.IndexSpec("primary_key", ge=2, lt=5))
    assert "expires" in repr(
        table.indexes.prepare_adjustment(table.indexes.IndexSpec("primary_key", ge=2, lt=5))
    )


class PoolOfOne(Source):
    """A source with one connection, held as long as rows are read from it."""

    def __init__(self, rows):
        super().__init__(rows)
        self.connection = asyncio.Lock()

    async def get_records(self, records_spec):
        async with self.connection:
            async for record in super().get_records(records_spec):
                yield record


@in_loop
async def test_a_read_inside_a_reads_loop_works_on_a_pool_of_one(storage):
    table = make(by_key(), PoolOfOne(ROWS), storage)
    await table.load("primary_key", 1)
    seen = []

    async def nested():
        async for outer in table.get_records("primary_key", 3, 4):
            seen.extend(
                [(outer["id"], n) for n in await ids(table.get_records("primary_key", 5, 6))]
            )

    await asyncio.wait_for(nested(), 5)
    assert seen == [(3, 5), (3, 6), (4, 5), (4, 6)]


@in_loop
async def test_a_thousand_invalidations_are_one_query(storage):
    source = Source([{"id": n, "v": 0} for n in range(1000)])
    table = make(by_key(), source, storage)
    await table.load("primary_key", *range(1000))
    for n in range(1000):
        source.put(id=n, v=1)
        table.invalidate_records([spec(table, n)], [spec(table, n)])
    asked = len(source.asked)
    await table.refresh_invalid()
    assert len(source.asked) == asked + 1
    assert {record["v"] async for record in table.get_records("primary_key", *range(1000))} == {1}


class Counted(int):
    """A score that counts how often it is compared."""

    compared = 0

    def __lt__(self, other):
        Counted.compared += 1
        return super().__lt__(other)

    def __gt__(self, other):
        Counted.compared += 1
        return super().__gt__(other)

    def __eq__(self, other):
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = int.__hash__


class CountedAll(AllIndexes):
    def score(self, index_name, record):
        return Counted(0)


@in_loop
async def test_a_refresh_where_all_scores_are_equal_is_linear():
    compared = []
    for size in (2000, 8000):
        source = Source([{"id": n, "v": 0} for n in range(size)])
        table = make(CountedAll(key, "all"), source)
        await table.load("all")
        some = StorageRecordsSpec("all", [Interval.everything()], lambda record: record["id"] % 2)
        Counted.compared = 0
        staging = await table.storage_table.staging()
        await staging.discard(some)
        await staging.put([{"id": n, "v": 1} for n in range(1, size, 2)])
        await staging.prepare()
        staging.commit()
        compared.append(Counted.compared)
        assert len(table.storage_table.snapshot) == size
    assert compared[1] < 6 * compared[0]  # four times the records; quadratic would be sixteen


@in_loop
async def test_point_reads_do_not_look_at_what_is_pending(source):
    looked = collections.Counter()

    class Looked(PrimaryKeyIndexes):
        def storage_records_spec(self, spec):
            looked["specs"] += 1
            return super().storage_records_spec(spec)

        def covers(self, spec):
            looked["covers"] += 1
            return super().covers(spec)

    source = Source([{"id": n, "v": 0} for n in range(2000)])
    table = make(Looked(key, "all", "some"), source)
    await table.load("primary_key", *range(2000))
    for n in range(1000):
        table.invalidate_records([spec(table, n)], [spec(table, n)])
    looked.clear()
    asked = len(source.asked)
    assert (await table.get_first_record("primary_key", 1500))["id"] == 1500
    assert table.get(1501)["id"] == 1501
    assert table.get(500) is None
    assert not looked
    assert len(source.asked) == asked


@in_loop
async def test_only_what_is_missing_is_fetched(storage, source):
    table = make(by_key(), source, storage)
    await table.load("primary_key", 1, 2)
    assert await ids(table.get_records("primary_key", 1, 2, 5)) == [1, 2, 5]
    assert source.asked[-1] == ("some", ((5,),))
    ranged = make(by_range(), source, storage)
    await ranged.load("primary_key", ge=2, lt=4)
    assert await ids(ranged.get_records("primary_key", ge=1, lt=6)) == [1, 2, 3, 4, 5]
    assert source.asked[-2:] == [("range", (1, 2)), ("range", (4, 6))]
