"""Codecs: an attribute's value as bytes and back. Numbers are big-endian; nothing runs code."""

from __future__ import annotations

import math
import struct
import uuid
from abc import ABC, abstractmethod
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

import msgspec

from everfresh.errors import CodecError

__all__ = [
    "Array",
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


class Codec(ABC):
    """Turn values of one kind to bytes and back."""

    @abstractmethod
    def encode(self, value: Any) -> bytes:
        """Return the value as bytes; raises ValueError for what is not of the kind."""

    @abstractmethod
    def decode(self, bs: bytes) -> Any:
        """Return the value; raises ValueError for bytes it did not make."""


def _refuse(value: Any, kind: str) -> CodecError:
    return CodecError(f"{value!r} is not {kind}")


class Nullable(Codec):
    r"""Encode None, or a value of another codec.

    >>> Nullable(SignedInt8Codec()).encode(None), Nullable(SignedInt8Codec()).encode(7)
    (b'\x00', b'\x01\x07')
    """

    def __init__(self, value_codec: Codec) -> None:
        self._codec = value_codec

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes."""
        return b"\x00" if value is None else b"\x01" + self._codec.encode(value)

    def decode(self, bs: bytes) -> Any:
        """Return the value."""
        if bs == b"\x00":
            return None
        if bs[:1] != b"\x01":
            raise _refuse(bs, "an encoded value that may be None")
        return self._codec.decode(bs[1:])


class Array(Codec):
    """Encode a list of values of another codec, each at most 65,535 bytes long.

    >>> Array(StringCodec()).decode(Array(StringCodec()).encode(["JFK", ""]))
    ['JFK', '']
    """

    def __init__(self, value_codec: Codec) -> None:
        self._codec = value_codec

    def encode(self, values: Any) -> bytes:
        """Return the list as bytes."""
        if not isinstance(values, (list, tuple)):
            raise _refuse(values, "a list")
        parts: list[bytes] = []
        for value in values:
            part = self._codec.encode(value)
            if len(part) > 0xFFFF:
                raise CodecError(f"an element of an array is {len(part)} bytes long, over 65,535")
            parts += (len(part).to_bytes(2, "big"), part)
        return b"".join(parts)

    def decode(self, bs: bytes) -> list[Any]:
        """Return the list."""
        values: list[Any] = []
        at = 0
        while at < len(bs):
            end = at + 2 + int.from_bytes(bs[at : at + 2], "big")
            if at + 2 > len(bs) or end > len(bs):
                raise _refuse(bs, "an encoded array: it ends too early")
            values.append(self._codec.decode(bs[at + 2 : end]))
            at = end
        return values


class BoolCodec(Codec):
    """Encode True and False as one byte."""

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes."""
        if not isinstance(value, bool):
            raise _refuse(value, "a bool")
        return b"\x01" if value else b"\x00"

    def decode(self, bs: bytes) -> bool:
        """Return the value."""
        if bs not in (b"\x00", b"\x01"):
            raise _refuse(bs, "an encoded bool")
        return bs == b"\x01"


class StringCodec(Codec):
    """Encode text as UTF-8."""

    def encode(self, value: Any) -> bytes:
        """Return the text as bytes."""
        if not isinstance(value, str):
            raise _refuse(value, "text")
        return value.encode()

    def decode(self, bs: bytes) -> str:
        """Return the text."""
        return bs.decode()


class BytesCodec(Codec):
    """Keep bytes as they are."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes."""
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise _refuse(value, "bytes")
        return bytes(value)

    def decode(self, bs: bytes) -> bytes:
        """Return the bytes."""
        return bytes(bs)


class IntAsStringCodec(Codec):
    """Encode a whole number of any size as its digits."""

    def encode(self, value: Any) -> bytes:
        """Return the number as bytes."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise _refuse(value, "a whole number")
        return str(value).encode()

    def decode(self, bs: bytes) -> int:
        """Return the number."""
        return int(bs)


class FloatAsStringCodec(Codec):
    """Encode a number as the shortest text that gives the same float again."""

    def encode(self, value: Any) -> bytes:
        """Return the number as bytes."""
        return repr(_as_float(value)).encode()

    def decode(self, bs: bytes) -> float:
        """Return the number."""
        return float(bs)


def _as_float(value: Any) -> float:
    if isinstance(value, (str, bytes, bytearray, bool)):
        raise _refuse(value, "a number")
    try:
        return float(value)
    except (TypeError, OverflowError) as error:
        raise CodecError(f"{value!r} is not a number that a float can hold") from error


class _Packed(Codec):
    """Encode numbers by one format of the struct module."""

    layout: ClassVar[struct.Struct]

    def encode(self, value: Any) -> bytes:
        """Return the number as bytes."""
        if isinstance(value, bool):
            raise _refuse(value, "a number")
        try:
            return self.layout.pack(value)
        except struct.error as error:
            raise CodecError(f"{value!r} cannot be encoded: {error}") from error

    def decode(self, bs: bytes) -> Any:
        """Return the number."""
        try:
            return self.layout.unpack(bs)[0]
        except struct.error as error:
            raise CodecError(f"{bs!r} cannot be decoded: {error}") from error


class SignedInt8Codec(_Packed):
    """Encode whole numbers from -128 to 127 as one byte."""

    layout = struct.Struct(">b")


class SignedInt16Codec(_Packed):
    """Encode whole numbers from -2**15 to 2**15 - 1 as two bytes."""

    layout = struct.Struct(">h")


class SignedInt32Codec(_Packed):
    """Encode whole numbers from -2**31 to 2**31 - 1 as four bytes."""

    layout = struct.Struct(">i")


class SignedInt64Codec(_Packed):
    """Encode whole numbers from -2**63 to 2**63 - 1 as eight bytes."""

    layout = struct.Struct(">q")


class UnsignedInt8Codec(_Packed):
    """Encode whole numbers from 0 to 255 as one byte."""

    layout = struct.Struct(">B")


class UnsignedInt16Codec(_Packed):
    """Encode whole numbers from 0 to 2**16 - 1 as two bytes."""

    layout = struct.Struct(">H")


class UnsignedInt32Codec(_Packed):
    """Encode whole numbers from 0 to 2**32 - 1 as four bytes."""

    layout = struct.Struct(">I")


class UnsignedInt64Codec(_Packed):
    """Encode whole numbers from 0 to 2**64 - 1 as eight bytes."""

    layout = struct.Struct(">Q")


class Float32Codec(_Packed):
    """Encode numbers as IEEE floats of four bytes, which hold about seven digits."""

    layout = struct.Struct(">f")

    def encode(self, value: Any) -> bytes:
        """Return the number as bytes; raises ValueError if it is too large."""
        number = _as_float(value)
        try:
            return self.layout.pack(number)
        except OverflowError as error:
            raise CodecError(f"{value!r} is too large for a float of four bytes") from error


class Float64Codec(_Packed):
    """Encode numbers as IEEE floats of eight bytes."""

    layout = struct.Struct(">d")

    def encode(self, value: Any) -> bytes:
        """Return the number as bytes."""
        return self.layout.pack(_as_float(value))


class DecimalCodec(Codec):
    """Encode a Decimal with all its digits."""

    def encode(self, value: Any) -> bytes:
        """Return the number as bytes."""
        if not isinstance(value, Decimal):
            raise _refuse(value, "a Decimal")
        return str(value).encode()

    def decode(self, bs: bytes) -> Decimal:
        """Return the number."""
        try:
            return Decimal(bs.decode())
        except InvalidOperation as error:
            raise _refuse(bs, "an encoded Decimal") from error


class UuidCodec(Codec):
    """Encode a UUID as its sixteen bytes."""

    def encode(self, value: Any) -> bytes:
        """Return the UUID as bytes."""
        if not isinstance(value, uuid.UUID):
            raise _refuse(value, "a UUID")
        return value.bytes

    def decode(self, bs: bytes) -> uuid.UUID:
        """Return the UUID."""
        return uuid.UUID(bytes=bytes(bs))


class UtcDatetimeCodec(Codec):
    """Encode a moment in UTC as seconds since 1970, a float of eight bytes.

    A datetime without a time zone is taken for UTC, and comes back with it. Any other time zone
    than UTC is refused: it would not come back.

    >>> UtcDatetimeCodec().decode(UtcDatetimeCodec().encode(datetime(2013, 6, 1))).isoformat()
    '2013-06-01T00:00:00+00:00'
    """

    _layout = struct.Struct(">d")

    def encode(self, value: Any) -> bytes:
        """Return the moment as bytes."""
        if not isinstance(value, datetime):
            raise _refuse(value, "a datetime")
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        elif value.tzinfo is not UTC:
            raise CodecError(f"{value!r} is not in datetime.UTC: convert it with astimezone(UTC)")
        return self._layout.pack(value.timestamp())

    def decode(self, bs: bytes) -> datetime:
        """Return the moment."""
        try:
            seconds: float = self._layout.unpack(bs)[0]
        except struct.error as error:
            raise _refuse(bs, "an encoded datetime") from error
        if not math.isfinite(seconds):
            raise _refuse(bs, "an encoded datetime")
        # fromtimestamp refuses years that some platforms' clocks do not have
        return _EPOCH + timedelta(seconds=seconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DateCodec(Codec):
    """Encode a date as days since the year 1, in four bytes."""

    def encode(self, value: Any) -> bytes:
        """Return the date as bytes."""
        if not isinstance(value, date) or isinstance(value, datetime):
            raise _refuse(value, "a date")
        return value.toordinal().to_bytes(4, "big")

    def decode(self, bs: bytes) -> date:
        """Return the date."""
        if len(bs) != 4:
            raise _refuse(bs, "an encoded date")
        return date.fromordinal(int.from_bytes(bs, "big"))


class JsonCodec(Codec):
    """Encode what JSON can hold: None, bools, numbers, text, lists, and dicts with text for keys.

    >>> JsonCodec().decode(JsonCodec().encode({"a": [1, None]}))
    {'a': [1, None]}
    """

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes."""
        try:
            encoded = msgspec.json.encode(value)
            if msgspec.json.decode(encoded) == value:
                return encoded
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise CodecError(f"{value!r} is not JSON: {error}") from error
        raise CodecError(f"{value!r} would come back from JSON as something else")

    def decode(self, bs: bytes) -> Any:
        """Return the value."""
        try:
            return msgspec.json.decode(bs)
        except msgspec.MsgspecError as error:
            raise _refuse(bs, "encoded JSON") from error
