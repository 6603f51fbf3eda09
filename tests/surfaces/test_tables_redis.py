"""What only a storage in Redis does: codecs, exact scores, servers that go away."""

import asyncio
import datetime as dt
import uuid
from decimal import Decimal

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from everfresh.errors import ConfigurationError, StoreError, StoreUnavailableError
from everfresh.tables import (
    AllIndexes,
    Interval,
    PrimaryKeyIndexes,
    RecordScorer,
    StorageRecordsSpec,
)
from everfresh.tables import redis as tables_redis
from everfresh.tables.intervals import KeysRecordsSpec
from everfresh.tables.redis import (
    Array,
    BoolCodec,
    BytesCodec,
    DateCodec,
    DecimalCodec,
    Float32Codec,
    Float64Codec,
    FloatAsStringCodec,
    IntAsStringCodec,
    JsonCodec,
    Nullable,
    RedisCodingError,
    RedisTable,
    SignedInt8Codec,
    SignedInt16Codec,
    SignedInt32Codec,
    SignedInt64Codec,
    StringCodec,
    UnsignedInt8Codec,
    UnsignedInt16Codec,
    UnsignedInt32Codec,
    UnsignedInt64Codec,
    UtcDatetimeCodec,
    UuidCodec,
)
from everfresh.testing.servers import valkey_server
from surfaces.tables import Source, client, ids, in_loop, make, redis_storage

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
MOMENTS = st.datetimes(dt.datetime(1800, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC))
VALUES = {
    BoolCodec: st.booleans(),
    BytesCodec: st.binary(),
    DateCodec: st.dates(),
    DecimalCodec: st.decimals(allow_nan=False),
    Float32Codec: st.floats(width=32, allow_nan=False),
    Float64Codec: st.floats(allow_nan=False),
    FloatAsStringCodec: st.floats(allow_nan=False),
    IntAsStringCodec: st.integers(),
    JsonCodec: JSON,
    SignedInt8Codec: st.integers(-(2**7), 2**7 - 1),
    SignedInt16Codec: st.integers(-(2**15), 2**15 - 1),
    SignedInt32Codec: st.integers(-(2**31), 2**31 - 1),
    SignedInt64Codec: st.integers(-(2**63), 2**63 - 1),
    StringCodec: st.text(),
    UnsignedInt8Codec: st.integers(0, 2**8 - 1),
    UnsignedInt16Codec: st.integers(0, 2**16 - 1),
    UnsignedInt32Codec: st.integers(0, 2**32 - 1),
    UnsignedInt64Codec: st.integers(0, 2**64 - 1),
    UtcDatetimeCodec: MOMENTS.map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 10 * 10)
    ),
    UuidCodec: st.uuids(),
}
REFUSED = {
    BoolCodec: [1, None],
    BytesCodec: ["text", 1],
    DateCodec: [dt.datetime(2013, 1, 1), "2013-01-01"],
    DecimalCodec: [1.5, "1"],
    Float32Codec: [1e39, "1", True, None],
    Float64Codec: [10**400, "1"],
    FloatAsStringCodec: ["1", None],
    IntAsStringCodec: [1.0, True, "1"],
    JsonCodec: [(1, 2), {1: 2}, float("nan"), object()],
    SignedInt8Codec: [128, -129, 1.5, "1", True],
    SignedInt64Codec: [2**63],
    UnsignedInt8Codec: [-1, 256],
    UnsignedInt64Codec: [2**64, -1],
    StringCodec: [b"bytes", 1],
    UtcDatetimeCodec: [
        dt.datetime(2013, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        dt.date(2013, 1, 1),
    ],
    UuidCodec: ["a" * 32],
}
DAMAGED = {
    BoolCodec: [b"", b"\x02"],
    DateCodec: [b"\x00", b"\x00" * 4],
    DecimalCodec: [b"x"],
    Float64Codec: [b"\x00" * 7],
    IntAsStringCodec: [b"x"],
    JsonCodec: [b"{"],
    SignedInt8Codec: [b"", b"\x00\x00"],
    StringCodec: [b"\xff"],
    UtcDatetimeCodec: [b"\x00", b"\x7f\xf0" + b"\x00" * 6],
    UuidCodec: [b"short"],
}


def test_every_codec_is_in_this_file():
    plain = {name for name in tables_redis.__all__ if name.endswith("Codec") and name != "Codec"}
    assert plain == {codec.__name__ for codec in VALUES}


@pytest.mark.parametrize("codec", VALUES, ids=lambda codec: codec.__name__)
def test_values_come_back(codec):
    @settings(max_examples=60, deadline=None)
    @given(VALUES[codec], st.lists(VALUES[codec], max_size=4))
    def check(value, values):
        assert codec().decode(codec().encode(value)) == value
        assert Nullable(codec()).decode(Nullable(codec()).encode(value)) == value
        assert Nullable(codec()).decode(Nullable(codec()).encode(None)) is None
        assert Array(codec()).decode(Array(codec()).encode(values)) == values
        nested = Array(Nullable(codec()))
        assert nested.decode(nested.encode([None, *values])) == [None, *values]

    check()


@pytest.mark.parametrize(
    ("codec", "value"), [(c, v) for c, values in REFUSED.items() for v in values], ids=str
)
def test_values_of_another_kind_are_refused(codec, value):
    with pytest.raises(ValueError, match=r"."):
        codec().encode(value)


@pytest.mark.parametrize(
    ("codec", "data"), [(c, v) for c, values in DAMAGED.items() for v in values], ids=str
)
def test_damaged_bytes_are_refused(codec, data):
    with pytest.raises(ValueError, match=r"."):
        codec().decode(data)


def test_damaged_arrays_and_nullables_are_refused():
    for codec, data in (
        (Array(BoolCodec()), b"\x00\x05\x01"),
        (Nullable(BoolCodec()), b"\x02"),
        (Nullable(BoolCodec()), b""),
    ):
        with pytest.raises(ValueError, match=r"."):
            codec.decode(data)
    with pytest.raises(ValueError, match="65,535"):
        Array(BytesCodec()).encode([b"x" * 70_000])


def test_the_documented_bytes():
    assert SignedInt16Codec().encode(-2) == b"\xff\xfe"
    assert UnsignedInt32Codec().encode(1) == b"\x00\x00\x00\x01"
    assert Array(StringCodec()).encode(["ab", ""]) == b"\x00\x02ab\x00\x00"
    assert UuidCodec().encode(uuid.UUID(int=1)) == b"\x00" * 15 + b"\x01"
    naive = dt.datetime(2013, 6, 1)
    assert UtcDatetimeCodec().decode(UtcDatetimeCodec().encode(naive)) == naive.replace(
        tzinfo=dt.UTC
    )


# -- records


def scored(*names):
    class Scorer(RecordScorer):
        @property
        def index_names(self):
            return frozenset(names or ("id",))

        def score(self, index_name, record):
            return record[index_name]

        def primary_key(self, record):
            return record["id"]

    return Scorer()


def table_of(url, scorer=None, **options):
    given = {
        "primary_key_codec": IntAsStringCodec(),
        "attribute_codecs": {"id": IntAsStringCodec()},
        **options,
    }
    return RedisTable(
        client(url), table_name=uuid.uuid4().hex, record_scorer=scorer or scored(), **given
    )


EVERYTHING = StorageRecordsSpec("id", [Interval.everything()])


@in_loop
async def test_attributes_without_a_codec_are_dropped_and_absent_ones_refused(valkey):
    codecs = {"id": IntAsStringCodec(), "city": StringCodec()}
    table = table_of(valkey.url, attribute_codecs=codecs)
    await table.put_record({"id": 1, "city": "JFK", "other": object()})
    assert await table.get_records_list(EVERYTHING) == [{"id": 1, "city": "JFK"}]
    with pytest.raises(ValueError, match="no attribute 'city'"):
        await table.put_record({"id": 2})
    with pytest.raises(RedisCodingError, match="'city'"):
        await table.put_record({"id": 2, "city": 3})
    with pytest.raises(ValueError, match="names must be text"):
        table_of(valkey.url, attribute_codecs={1: StringCodec()})
    with pytest.raises(ValueError, match="at least one"):
        table_of(valkey.url, attribute_codecs={})


class Plane:
    def __init__(self, id, seats):
        self.id, self.seats = id, seats


class Planes(RecordScorer):
    @property
    def index_names(self):
        return frozenset({"seats"})

    def score(self, index_name, record):
        return record.seats

    def primary_key(self, record):
        return record.id


@in_loop
async def test_records_of_a_class(valkey):
    table = table_of(
        valkey.url,
        Planes(),
        primary_key_codec=StringCodec(),
        attribute_codecs={"id": StringCodec(), "seats": UnsignedInt16Codec()},
        attribute_extractor=getattr,
        record_factory=lambda values: Plane(**values),
    )
    await table.put_record(Plane("N10156", 55))
    (plane,) = await table.get_records_list(StorageRecordsSpec("seats", [Interval(50, 60)]))
    assert (plane.id, plane.seats) == ("N10156", 55)


@pytest.mark.parametrize("codec", [IntAsStringCodec, SignedInt64Codec, Float64Codec, DecimalCodec])
@in_loop
async def test_deleted_rows_stay_deleted_with_every_key_codec(valkey, codec):
    kinds = {Float64Codec: float, DecimalCodec: Decimal}
    make_key = kinds.get(codec, int)
    table = table_of(valkey.url, primary_key_codec=codec(), attribute_codecs={"id": codec()})
    for n in range(6):
        await table.put_record({"id": make_key(n)})
    [r async for r in table.delete_records(StorageRecordsSpec("id", [Interval(0, 2)]))]
    [r async for r in table.scratch_discard_records(StorageRecordsSpec("id", [Interval(2, 4)]))]
    table.scratch_merge()
    assert sorted(r["id"] for r in await table.get_records_list(EVERYTHING)) == [4, 5]
    raw = client(valkey.url)
    assert await raw.hlen(f"{table.name}:r") == 2 + 1  # with the mark
    assert await raw.zcard(f"{table.name}:i:id") == 2


@in_loop
async def test_scores_beyond_what_floats_tell_apart(valkey):
    table = table_of(valkey.url)
    low = 2**60
    for n in range(5):
        await table.put_record({"id": low + n})
    meant = StorageRecordsSpec("id", [Interval(low + 1, low + 3)])
    assert sorted(r["id"] - low for r in await table.get_records_list(meant)) == [1, 2]
    assert await table.count(meant) == 2
    for score in (float("nan"), Decimal("0.1"), "x", 10**400):
        with pytest.raises(RedisCodingError):
            await table_of(valkey.url, scored("w")).put_record({"id": 1, "w": score})


@in_loop
async def test_text_keys_of_a_cached_table(valkey):
    source = Source([{"id": name, "v": n} for n, name in enumerate(("JFK", "LAX", "ż", ""))])
    table = make(
        PrimaryKeyIndexes(lambda r: r["id"], "all", "some"),
        source,
        redis_storage(valkey.url, ("id", "v"), StringCodec()),
    )
    await table.load("primary_key", all_primary_keys=True)
    assert (await table.get_first_record("primary_key", "ż"))["v"] == 2
    assert set(await table.get_many(["JFK", "", "none"])) == {"JFK", ""}
    spec = table.indexes.IndexSpec("primary_key", "JFK")
    source.rows.pop("JFK")
    table.invalidate_records([spec], [spec])
    assert await ids(table.get_records("primary_key", all_primary_keys=True)) == ["", "LAX", "ż"]


@in_loop
async def test_a_connection_that_decodes_is_refused(valkey):
    decoding = redis.asyncio.Redis.from_url(valkey.url, decode_responses=True)
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisTable(
            decoding,
            table_name="t",
            record_scorer=scored(),
            primary_key_codec=IntAsStringCodec(),
            attribute_codecs={"id": IntAsStringCodec()},
        )


@in_loop
async def test_a_read_is_one_round_trip(valkey):
    table = table_of(valkey.url)
    await table.put_record({"id": 1})
    await table.get_records_list(EVERYTHING)
    raw = client(valkey.url)
    before = (await raw.info("stats"))["total_commands_processed"]
    for _ in range(10):
        await table.get_records_list(EVERYTHING)
    scripts = await raw.info("commandstats")
    assert scripts["cmdstat_evalsha"]["calls"] >= 10
    after = (await raw.info("stats"))["total_commands_processed"]
    assert after - before <= 10 * 4 + 5  # the script, and what it calls


@in_loop
async def test_a_key_cannot_be_the_tables_own_mark(valkey):
    table = table_of(
        valkey.url, primary_key_codec=StringCodec(), attribute_codecs={"id": StringCodec()}
    )
    with pytest.raises(RedisCodingError, match="own mark"):
        await table.get_records_list(
            KeysRecordsSpec("id", [], primary_keys=frozenset({"everfresh:mark"}))
        )


@in_loop
async def test_a_second_object_reads_what_the_first_has_written(valkey):
    first = table_of(valkey.url)
    await first.put_record({"id": 1})
    second = RedisTable(
        client(valkey.url),
        table_name=first.name,
        record_scorer=scored(),
        primary_key_codec=IntAsStringCodec(),
        attribute_codecs={"id": IntAsStringCodec()},
    )
    meant = KeysRecordsSpec("id", [], primary_keys=frozenset({1}))
    assert await second.get_records_list(meant) == [{"id": 1}]
    assert await second.get_records_list(EVERYTHING) == [{"id": 1}]


# -- servers that go away


def all_of(source, url):
    return make(AllIndexes(lambda r: r["id"], "all"), source, redis_storage(url, ("id", "v")))


@in_loop
async def test_a_table_that_the_server_lost_is_loaded_again(valkey):
    source = Source([{"id": n, "v": n} for n in range(5)])
    table = all_of(source, valkey.url)
    await table.load("all")
    assert await ids(table.get_records("all")) == [0, 1, 2, 3, 4]
    asked = len(source.asked)
    raw = client(valkey.url)
    for key in await raw.keys(f"{table.storage_table.name}:*"):
        await raw.delete(key)
    source.put(id=9, v=9)
    with pytest.raises(StoreError, match="load it again"):
        await table.storage_table.get_records_list(
            StorageRecordsSpec("all", [Interval.everything()])
        )
    assert await ids(table.get_records("all")) == [0, 1, 2, 3, 4, 9]
    assert len(source.asked) == asked + 1
    assert await ids(table.get_records("all")) == [0, 1, 2, 3, 4, 9]
    assert len(source.asked) == asked + 1


@in_loop
async def test_another_writer_of_the_same_name_is_noticed(valkey):
    source = Source([{"id": 1, "v": 1}])
    table = all_of(source, valkey.url)
    await table.load("all")
    other = RedisTable(
        client(valkey.url),
        table_name=table.storage_table.name,
        record_scorer=table.indexes,
        primary_key_codec=IntAsStringCodec(),
        attribute_codecs={"id": IntAsStringCodec()},
    )
    await other.clear()
    assert await ids(table.get_records("all")) == [1]


@pytest.mark.parametrize("how", ["adjust", "refresh"])
@in_loop
async def test_changes_of_a_table_that_the_server_lost_make_it_anew(valkey, how):
    source = Source([{"id": n, "v": n} for n in range(5)])
    indexes = PrimaryKeyIndexes(lambda r: r["id"], "all", "some")
    table = make(indexes, source, redis_storage(valkey.url, ("id", "v")))
    await table.load("primary_key", 1, 2)
    await client(valkey.url).hdel(f"{table.storage_table.name}:r", "everfresh:mark")
    spec = indexes.IndexSpec("primary_key", 1)
    if how == "adjust":
        await table.adjust("primary_key", 1, 2, 3)
    else:
        table.invalidate_records([spec], [spec])
        await table.refresh_invalid()
    assert await ids(table.get_records("primary_key", 1, 2)) == [1, 2]
    asked = len(source.asked)
    assert await ids(table.get_records("primary_key", 1, 2)) == [1, 2]
    assert len(source.asked) == asked


@in_loop
async def test_damaged_records_are_loaded_again(valkey):
    source = Source([{"id": 1, "v": 1}])
    table = all_of(source, valkey.url)
    await table.load("all")
    raw = client(valkey.url)
    await raw.hset(f"{table.storage_table.name}:r", "1", b"nonsense")
    assert await ids(table.get_records("all")) == [1]
    assert [r["v"] async for r in table.get_records("all")] == [1]


@in_loop
async def test_without_the_server_the_answer_comes_from_the_database_and_it_recovers():
    source = Source([{"id": n, "v": n} for n in range(3)])
    server = valkey_server()
    if server.process is None:
        pytest.skip("the server of EVERFRESH_TEST_REDIS_URL cannot be stopped here")
    port = server.url.rpartition(":")[2].partition("/")[0]
    try:
        table = all_of(source, server.url)
        await table.load("all")
        server.process.terminate()
        await asyncio.to_thread(server.process.wait)
        source.put(id=3, v=3)
        assert await ids(table.get_records("all")) == [0, 1, 2, 3]
        assert await table.count("all") == 4
        spec = table.indexes.IndexSpec("all")
        table.invalidate_records([spec], [spec])
        assert await ids(table.get_records("all")) == [0, 1, 2, 3]
        with pytest.raises(StoreUnavailableError, match="cannot be used now"):
            await table.adjust("all")
        command = [*server.process.args[:1], "--port", port, "--bind", "127.0.0.1", "--save", ""]
        again = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            raw = client(server.url)
            for _ in range(200):
                try:
                    await raw.ping()
                    break
                except redis.exceptions.ConnectionError:
                    await asyncio.sleep(0.02)
            assert await ids(table.get_records("all")) == [0, 1, 2, 3]
            asked = len(source.asked)
            assert await ids(table.get_records("all")) == [0, 1, 2, 3]
            assert len(source.asked) == asked  # from Redis again
        finally:
            again.terminate()
            await again.wait()
    finally:
        server.stop()
