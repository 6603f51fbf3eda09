"""Codecs: values to bytes and back, without running code.

The default is MessagePack (through msgspec) with an extension per Python type that MessagePack
lacks, so that a value comes back with the type it had; large tables go as Arrow IPC. Pickle is
there for those who ask for it, signed with a key of the installation's own.

Bytes start with ``EF``, a format version and the codec's letter; anything else is refused.
"""

from __future__ import annotations

import hmac
import pickle
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from everfresh.errors import CodecError, ConfigurationError, MissingExtraError, SignatureError

__all__ = [
    "MAGIC",
    "ArrowCodec",
    "MessagePackCodec",
    "SignedPickleCodec",
    "pack_plain",
    "register",
    "unpack_plain",
]

MAGIC = b"EF\x01"
_INT64 = range(-(2**63), 2**64)

Pack = Callable[[Any], object]
Unpack = Callable[[Any], object]

_by_type: dict[type, tuple[int, Pack]] = {}
_by_code: dict[int, Unpack] = {}


def register(code: int, cls: type, pack: Pack, unpack: Unpack) -> None:
    """Let the default codec carry a class as an extension with this number, 0 to 127.

    ``pack`` gives plain data (None, numbers, strings, bytes, lists, dicts, or other registered
    values); ``unpack`` makes the value from that data and must not run what the data names.
    """
    if _by_code.get(code, unpack) is not unpack:
        raise ConfigurationError(f"extension {code} is taken by another class")
    _by_type[cls] = (code, pack)
    _by_code[code] = unpack


class MessagePackCodec:
    """Encode values of plain types exactly; refuse all others.

    >>> codec = MessagePackCodec()
    >>> codec.decode(codec.encode({"when": date(2013, 6, 1), "rows": [(1, Decimal("2.50"))]}))
    {'when': datetime.date(2013, 6, 1), 'rows': [(1, Decimal('2.50'))]}
    """

    name = "msgpack"
    letter = b"M"

    def encode(self, value: object) -> bytes:
        """Return the value as bytes; raises `CodecError` for a type it does not know."""
        try:
            return MAGIC + self.letter + _encoder.encode(pack_plain(value))
        except RecursionError:
            raise CodecError("the value contains itself, or is nested too deeply") from None

    def decode(self, data: bytes) -> object:
        """Return the value; raises `CodecError` for bytes it did not make."""
        try:
            return _decoder.decode(_body(data, self.letter))
        except CodecError:
            raise
        except Exception as error:
            raise CodecError(f"these bytes are damaged or hostile: {error}") from None


class ArrowCodec:
    """Encode Arrow tables and pandas data frames as Arrow IPC streams; for large results."""

    name = "arrow"
    letter = b"A"

    def __init__(self) -> None:
        try:
            import pyarrow as pa
        except ImportError:
            raise MissingExtraError("arrow", "the Arrow codec") from None
        self._arrow = pa

    def encode(self, value: object) -> bytes:
        """Return a table or a data frame as bytes; raises `CodecError` for anything else."""
        table, kind = self._table(value)
        sink = self._arrow.BufferOutputStream()
        with self._arrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return cast("bytes", MAGIC + self.letter + kind + sink.getvalue().to_pybytes())

    def decode(self, data: bytes) -> object:
        """Return the table or data frame; raises `CodecError` for bytes it did not make."""
        body = _body(data, self.letter)
        try:
            table = self._arrow.ipc.open_stream(memoryview(body)[1:]).read_all()
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise CodecError(f"these bytes are no Arrow stream: {error}") from None
        return table.to_pandas() if body[:1] == b"p" else table

    def _table(self, value: object) -> tuple[Any, bytes]:
        if isinstance(value, self._arrow.Table):
            return value, b"t"
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(value, pandas.DataFrame):
            try:
                return self._arrow.Table.from_pandas(value), b"p"
            except self._arrow.ArrowException as error:
                raise CodecError(f"this data frame has no Arrow form: {error}") from None
        raise CodecError(f"the Arrow codec takes tables, not {type(value).__name__}")


class SignedPickleCodec:
    """Encode anything that pickles, signed with HMAC-SHA256; opt-in.

    ``key`` is secret and at least 16 bytes. What another key signed, or nobody, is never
    unpickled: `decode` raises `SignatureError`.

    >>> codec = SignedPickleCodec(b"sixteen bytes or more")
    >>> codec.decode(codec.encode({1, 2}))
    {1, 2}
    """

    name = "pickle"
    letter = b"P"

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ConfigurationError("the signing key must have at least 16 bytes")
        self._key = key

    def encode(self, value: object) -> bytes:
        """Return the signed pickle; raises `CodecError` for what does not pickle."""
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise CodecError(f"this value does not pickle: {error}") from error
        return MAGIC + self.letter + self._sign(body) + body

    def decode(self, data: bytes) -> object:
        """Return the value if its signature is ours."""
        body = _body(data, self.letter)
        signature, body = body[:32], body[32:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise SignatureError("this pickle was not signed with this installation's key")
        return pickle.loads(body)  # noqa: S301 - we signed it

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, sha256).digest()


def _body(data: bytes, letter: bytes) -> bytes:
    if data[:3] != MAGIC:
        raise CodecError("these bytes were not made by this version of everfresh")
    if data[3:4] != letter:
        raise CodecError(f"these bytes were made by another codec ({data[3:4]!r}, not {letter!r})")
    return data[4:]


_FLAT = frozenset({type(None), bool, float, str, bytes})


def pack_plain(value: Any) -> Any:
    """Return the value with everything MessagePack lacks put into extensions."""
    cls = type(value)
    if cls in _FLAT or (cls is int and value in _INT64):
        return value
    if cls is list:
        return value if _FLAT.issuperset(map(type, value)) else [pack_plain(item) for item in value]
    if cls is dict and all(type(name) in _FLAT for name in value):
        return {name: pack_plain(item) for name, item in value.items()}
    entry = _by_type.get(cls) or _numpy_entry(value) or _arrow_entry(value)
    if entry is None:
        raise CodecError(
            f"the default codec does not carry {cls.__module__}.{cls.__qualname__}: return plain "
            f"data, or choose the signed pickle codec"
        )
    code, pack = entry
    return msgspec.msgpack.Ext(code, _encoder.encode(pack_plain(pack(value))))


def unpack_plain(code: int, data: memoryview) -> object:
    """Return the value of an extension; the hook of decoders."""
    if code not in _by_code:
        raise CodecError(f"extension {code} is unknown to this version of everfresh")
    return _by_code[code](_decoder.decode(data))


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ext_hook=unpack_plain)


def _numpy_entry(value: Any) -> tuple[int, Pack] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, (numpy.generic, numpy.ndarray)):
        return None
    if value.dtype.hasobject:
        return None
    scalar = isinstance(value, numpy.generic)
    return 20, lambda v: [scalar, v.dtype.str, list(v.shape), v.tobytes()]


def _arrow_entry(value: Any) -> tuple[int, Pack] | None:
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(value, arrow.Scalar):
        return None
    return 22, lambda v: ArrowCodec().encode(arrow.table({"v": arrow.array([v.as_py()], v.type)}))


def _arrow_from(data: Any) -> object:
    table: Any = ArrowCodec().decode(bytes(data))
    return table["v"][0]


def _numpy_from(data: Any) -> object:
    import numpy as np

    scalar, kind, shape, raw = data
    array = np.frombuffer(raw, dtype=np.dtype(kind)).reshape(shape)
    return array[()] if scalar else array.copy()


def _zone_of(value: datetime | time) -> list[object] | None:
    zone = value.tzinfo
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key:
        return ["zone", zone.key]
    offset = value.utcoffset() if isinstance(value, datetime) else zone.utcoffset(None)
    if isinstance(zone, timezone) and offset is not None:
        return ["offset", offset / timedelta(microseconds=1)]
    raise CodecError(f"the time zone {zone!r} is neither a ZoneInfo nor a datetime.timezone")


def _zone_from(data: list[Any] | None) -> Any:
    if data is None:
        return None
    kind, value = data
    return ZoneInfo(value) if kind == "zone" else timezone(timedelta(microseconds=value))


def _moment(value: Any) -> list[object]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone_of(value)]


def _moment_from(cls: Any) -> Unpack:
    def make(data: Any) -> object:
        text, fold, zone = data
        return cls.fromisoformat(text).replace(fold=fold, tzinfo=_zone_from(zone))

    return make


register(1, tuple, list, tuple)
register(2, set, list, set)
register(3, frozenset, list, frozenset)
register(4, int, str, int)  # beyond 64 bits
register(5, Decimal, str, Decimal)
register(6, datetime, _moment, _moment_from(datetime))
register(7, time, _moment, _moment_from(time))
register(8, date, date.isoformat, date.fromisoformat)
register(9, timedelta, lambda v: [v.days, v.seconds, v.microseconds], lambda d: timedelta(*d))
register(10, UUID, lambda v: v.bytes, lambda d: UUID(bytes=bytes(d)))
register(11, complex, lambda v: [v.real, v.imag], lambda d: complex(*d))
register(12, Fraction, lambda v: [v.numerator, v.denominator], lambda d: Fraction(*d))
register(14, dict, lambda v: [[name, item] for name, item in v.items()], dict)
register(13, bytearray, bytes, bytearray)
_by_code[20] = _numpy_from
_by_code[22] = _arrow_from
