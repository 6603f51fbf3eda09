"""What every storage does: regular operations, scratch space, and random sequences of both."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everfresh.tables import Interval, RecordScorer, StorageRecordsSpec
from everfresh.tables.local import LocalStorageTable
from everfresh.tables.local import chunks as chunks_module
from surfaces.tables import in_loop, redis_storage

NAMES = ("id", "v", "w")


class Scorer(RecordScorer):
    @property
    def index_names(self):
        return frozenset({"v", "w"})

    def score(self, index_name, record):
        return record[index_name]

    def primary_key(self, record):
        return record["id"]


@pytest.fixture(params=["local", "redis"])
def new(request):
    if request.param == "local":
        return lambda: LocalStorageTable(Scorer())
    make = redis_storage(request.getfixturevalue("valkey").url, NAMES)
    return lambda: make(Scorer())


def spec(index="v", ge=None, lt=None, predicate=StorageRecordsSpec.always_use_record):
    interval = Interval.everything() if ge is None else Interval(ge, lt)
    return StorageRecordsSpec(index, [interval], predicate)


def row(n, v=0, w=0):
    return {"id": n, "v": v, "w": w}


async def found(table, meant=None):
    return sorted([r["id"] async for r in table.get_records(spec() if meant is None else meant)])


async def drain(records):
    return sorted([record["id"] async for record in records])


@in_loop
async def test_put_replaces_by_primary_key(new):
    table = new()
    await table.put_record(row(1, v=1))
    await table.put_record(row(1, v=2))
    assert await found(table, spec("v", 0, 2)) == []
    assert await found(table, spec("v", 2, 3)) == [1]


@in_loop
async def test_records_are_found_by_every_index_and_interval(new):
    table = new()
    for n in range(10):
        await table.put_record(row(n, v=n % 3, w=-n))
    assert await found(table, spec("v", 1, 2)) == [1, 4, 7]
    assert await found(table, spec("w", -3, -1)) == [2, 3]
    both = StorageRecordsSpec("w", [Interval(-9, -7), Interval(-2, 0)], lambda r: r["id"] != 8)
    assert await found(table, both) == [1, 2, 9]
    assert await table.count(both) == 3
    assert await table.count(spec("v", 1, 2)) == 3
    with pytest.raises(ValueError, match="no index"):
        await found(table, spec("x"))


@in_loop
async def test_delete_yields_what_it_deletes_and_clear_deletes_all(new):
    table = new()
    for n in range(4):
        await table.put_record(row(n, v=n))
    assert await drain(table.delete_records(spec("v", 1, 3))) == [1, 2]
    assert await found(table) == [0, 3]
    await table.clear()
    assert await found(table) == []


@in_loop
async def test_scratch_space_is_invisible_until_the_merge_and_visible_at_once_after_it(new):
    table = new()
    await table.put_record(row(1, v=1))
    await table.put_record(row(2, v=2))
    await table.scratch_put_record(row(1, v=9))
    await table.scratch_put_record(row(3, v=3))
    assert await drain(table.scratch_discard_records(spec("v", 2, 3))) == [2]
    assert await found(table, spec("v", 0, 5)) == [1, 2]
    table.scratch_merge()
    assert await found(table, spec("v", 0, 5)) == [3]
    assert await found(table) == [1, 3]


@in_loop
async def test_regular_writes_wait_for_scratch_space(new):
    table = new()
    await table.scratch_put_record(row(1))
    putting = asyncio.create_task(table.put_record(row(2)))
    clearing = asyncio.create_task(drain(table.delete_records(spec("v", 5, 6))))
    await asyncio.sleep(0.01)
    assert not putting.done()
    assert not clearing.done()
    table.scratch_merge()
    await asyncio.gather(putting, clearing)
    assert await found(table) == [1, 2]


@in_loop
async def test_merging_nothing_is_fine(new):
    table = new()
    table.scratch_merge()
    await table.put_record(row(1))
    table.scratch_merge()
    assert await found(table) == [1]


@in_loop
async def test_a_staging_that_is_aborted_leaves_nothing(new):
    table = new()
    await table.put_record(row(1))
    staging = await table.staging()
    await staging.discard(spec())
    await staging.put([row(2)])
    await staging.prepare()
    await staging.abort()
    assert await found(table) == [1]
    staging = await table.staging()
    await staging.put([row(3)])
    staging.commit()
    await staging.abort()  # too late
    assert await found(table) == [1, 3]


@in_loop
async def test_records_that_cannot_be_kept_raise_and_change_nothing(new):
    table = new()
    await table.put_record(row(1))
    for bad in (row(2, v=float("nan")), row(3, v="text")):
        with pytest.raises(ValueError, match=r"score|ordered"):
            await table.put_record(bad)
    assert await found(table) == [1]
    assert await found(table, spec("w")) == [1]


def test_the_same_object_is_returned_from_memory():
    async def story():
        table = LocalStorageTable(Scorer())
        record = row(1)
        await table.put_record(record)
        (found,) = [r async for r in table.get_records(spec())]
        assert found is record

    asyncio.run(story())


SCORES = st.integers(0, 4)
ROWS = st.builds(row, st.integers(-6, 6), SCORES, SCORES)
SPECS = st.builds(
    lambda index, ge, width: spec(index, ge, ge + width),
    st.sampled_from(["v", "w"]),
    SCORES,
    st.integers(0, 3),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "scratch_put"]), ROWS),
        st.tuples(st.sampled_from(["delete", "scratch_discard"]), SPECS),
        st.tuples(st.sampled_from(["merge"]), st.none()),
    ),
    max_size=25,
)


class Model:
    """One dictionary for what is seen, and one for scratch space."""

    def __init__(self):
        self.rows, self.scratch = {}, None

    def means(self, meant, record):
        return any(record[meant.index_name] in one for one in meant.score_intervals)

    def discard(self, rows, meant):
        gone = sorted(n for n, record in rows.items() if self.means(meant, record))
        for n in gone:
            del rows[n]
        return gone


async def play(table, operations):
    model = Model()
    for what, argument in operations:
        if what == "merge":
            table.scratch_merge()
            if model.scratch is not None:
                model.rows, model.scratch = model.scratch, None
        elif what.startswith("scratch"):
            model.scratch = dict(model.rows) if model.scratch is None else model.scratch
            if what == "scratch_put":
                await table.scratch_put_record(argument)
                model.scratch[argument["id"]] = argument
            else:
                assert await drain(table.scratch_discard_records(argument)) == model.discard(
                    model.scratch, argument
                )
        elif model.scratch is None:  # a regular write would wait
            if what == "put":
                await table.put_record(argument)
                model.rows[argument["id"]] = argument
            else:
                assert await drain(table.delete_records(argument)) == model.discard(
                    model.rows, argument
                )
        for name in ("v", "w"):
            for ge in range(5):
                meant = spec(name, ge, ge + 2)
                records = [r async for r in table.get_records(meant)]
                expected = [r for r in model.rows.values() if model.means(meant, r)]
                assert sorted(records, key=lambda r: r["id"]) == sorted(
                    expected, key=lambda r: r["id"]
                )
                assert await table.count(meant) == len(expected)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_random_operations_in_memory(operations):
    asyncio.run(play(LocalStorageTable(Scorer()), operations))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks_module, "TARGET", 2)
    monkeypatch.setattr(chunks_module, "_SMALLEST", 2)


def test_random_operations_in_memory_with_chunks_of_two(small_chunks):
    @settings(max_examples=150, deadline=None)
    @given(OPERATIONS)
    def check(operations):
        asyncio.run(play(LocalStorageTable(Scorer()), operations))

    check()


def test_random_operations_in_redis(valkey):
    make = redis_storage(valkey.url, NAMES)

    @in_loop
    async def story(operations):
        await play(make(Scorer()), operations)

    settings(max_examples=15, deadline=None)(
        given(OPERATIONS)(lambda operations: story(operations))
    )()


@in_loop
async def test_a_write_copies_one_chunk_and_shares_the_others():
    table = LocalStorageTable(Scorer())
    staging = await table.staging()
    await staging.put([row(n, v=n, w=n % 7) for n in range(20_000)])
    staging.commit()
    before = table.snapshot
    await table.put_record(row(7777, v=7777, w=3))
    after = table.snapshot
    assert (
        sum(one is not other for one, other in zip(before.by_key, after.by_key, strict=True)) == 1
    )
    for name in ("v", "w"):
        old, new = (set(map(id, one.indexes[name].chunks)) for one in (before, after))
        assert len(new - old) <= 2
    assert before.get(7777)["w"] == 7777 % 7  # who holds the old snapshot sees it unchanged


@in_loop
async def test_keys_in_steps_of_a_power_of_two_are_spread():
    table = LocalStorageTable(Scorer())
    staging = await table.staging()
    await staging.put([row(n * 4096, v=n) for n in range(10_000)])
    staging.commit()
    assert max(map(len, table.snapshot.by_key)) < 2000
