"""Keep records in Redis or Valkey."""

from __future__ import annotations

from importlib.util import find_spec as _find_spec

from everfresh.errors import MissingExtraError as _MissingExtraError

if _find_spec("redis") is None:
    raise _MissingExtraError("redis", "everfresh.tables.redis")

from everfresh.tables.redis.codecs import (
    Array,
    BoolCodec,
    BytesCodec,
    Codec,
    DateCodec,
    DecimalCodec,
    Float32Codec,
    Float64Codec,
    FloatAsStringCodec,
    IntAsStringCodec,
    JsonCodec,
    Nullable,
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
from everfresh.tables.redis.rows import AttributeCodecs, RedisCodingError
from everfresh.tables.redis.table import RedisTable

__all__ = [
    "Array",
    "AttributeCodecs",
    "BoolCodec",
    "BytesCodec",
    "Codec",
    "DateCodec",
    "DecimalCodec",
    "Float32Codec",
    "Float64Codec",
    "FloatAsStringCodec",
    "IntAsStringCodec",
    "JsonCodec",
    "Nullable",
    "RedisCodingError",
    "RedisTable",
    "SignedInt8Codec",
    "SignedInt16Codec",
    "SignedInt32Codec",
    "SignedInt64Codec",
    "StringCodec",
    "UnsignedInt8Codec",
    "UnsignedInt16Codec",
    "UnsignedInt32Codec",
    "UnsignedInt64Codec",
    "UtcDatetimeCodec",
    "UuidCodec",
]
