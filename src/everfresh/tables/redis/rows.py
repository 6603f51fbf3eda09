"""A record as bytes and back: the only place that encodes attributes and primary keys."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from everfresh.errors import CodecError, TableError
from everfresh.tables.redis.codecs import Codec
from everfresh.tables.redis.scripts import MARK
from everfresh.tables.types import PrimaryKey

__all__ = ["AttributeCodecs", "RedisCodingError", "RowCodec"]

AttributeCodecs: TypeAlias = Mapping[str, Codec]
"""Codecs by the names of the attributes that are kept."""

_MARK = MARK.encode()
_LONGEST = 0xFFFFFFFF


class RedisCodingError(CodecError):
    """Represent a record that cannot be encoded for Redis, or decoded again."""


class RowCodec:
    """Encode records attribute by attribute, in the order of the codecs.

    The form is, for each attribute, its length in four bytes and then its value. Attributes
    without a codec are left out.
    """

    def __init__(
        self,
        primary_key_codec: Codec,
        attribute_codecs: AttributeCodecs,
        extract: Callable[[Any, str], Any],
        factory: Callable[[dict[str, Any]], Any],
    ) -> None:
        if not attribute_codecs:
            raise TableError("a RedisTable needs a codec for at least one attribute")
        for name in attribute_codecs:
            if not isinstance(name, str):
                raise TableError(f"attribute names must be text, not {name!r}")
        self._key_codec = primary_key_codec
        self._codecs = tuple(attribute_codecs.items())
        self._extract = extract
        self._factory = factory
        self._decoders = tuple((name, codec.decode) for name, codec in self._codecs)
        self._length = struct.Struct(">I")

    def encode_key(self, key: PrimaryKey) -> bytes:
        """Return a primary key as bytes."""
        try:
            encoded = self._key_codec.encode(key)
        except Exception as error:
            raise RedisCodingError(f"the primary key {key!r} cannot be encoded: {error}") from error
        if encoded == _MARK:
            raise RedisCodingError(f"the primary key {key!r} is what the table's own mark is under")
        return encoded

    def encode(self, record: Any) -> bytes:
        """Return a record as bytes."""
        parts: list[bytes] = []
        for name, codec in self._codecs:
            value = self._attribute(record, name)
            try:
                encoded = codec.encode(value)
            except Exception as error:
                raise RedisCodingError(
                    f"the attribute {name!r} cannot be encoded: {error}"
                ) from error
            if len(encoded) > _LONGEST:
                raise RedisCodingError(f"the attribute {name!r} is too long: {len(encoded)} bytes")
            parts += (self._length.pack(len(encoded)), encoded)
        return b"".join(parts)

    def _attribute(self, record: Any, name: str) -> Any:
        try:
            return self._extract(record, name)
        except Exception as error:
            raise TableError(f"the record {record!r} has no attribute {name!r}") from error

    def decode(self, data: bytes) -> Any:
        """Return the record that bytes were made of."""
        values: dict[str, Any] = {}
        at, length_at = 0, self._length.unpack_from
        try:
            for name, decode in self._decoders:
                end = at + 4 + length_at(data, at)[0]
                values[name] = decode(data[at + 4 : end])
                at = end
        except Exception as error:
            raise RedisCodingError(f"a record in Redis cannot be decoded: {error}") from error
        if at != len(data):
            raise RedisCodingError("a record in Redis is not of these attributes")
        return self._factory(values)
