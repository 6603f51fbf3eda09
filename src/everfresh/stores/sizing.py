"""How many bytes a value holds in memory: an estimate, cheap for large results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

__all__ = ["size_of"]

_SAMPLE = 100  # rows of a large container that are measured; the rest is taken to be like them
_DEPTH = 8


def size_of(value: object) -> int:
    """Return about how many bytes a value takes.

    Containers of more than 100 elements are sampled evenly; shared objects count each time they
    are met, so the estimate errs on the large side. numpy, pandas and Arrow objects say themselves.

    >>> size_of([1.5] * 10) > size_of([1.5])
    True
    """
    return _measure(value, _DEPTH)


def _measure(value: Any, depth: int) -> int:
    own = _own_size(value)
    if own is not None:
        return own
    size = sys.getsizeof(value)
    if depth == 0:
        return size
    if isinstance(value, dict):
        return size + _measure_all(value.keys(), depth) + _measure_all(value.values(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return size + _measure_all(value, depth)
    attributes = getattr(value, "__dict__", None)
    if attributes:
        size += _measure_all(attributes.values(), depth)
    slots = (getattr(value, name, None) for name in _slots(type(value)))
    return size + sum(_measure(item, depth - 1) for item in slots)


def _measure_all(items: Any, depth: int) -> int:
    count = len(items)
    if count <= _SAMPLE:
        return sum(_measure(item, depth - 1) for item in items)
    if all(type(item) in _FLAT for item in islice(items, 4)):
        return _sample(items, count, sys.getsizeof)
    return _sample(items, count, lambda item: _measure(item, depth - 1))


def _sample(items: Iterable[Any], count: int, measure: Callable[[Any], int]) -> int:
    sampled = list(islice(items, 0, None, max(count // _SAMPLE, 1)))
    return sum(map(measure, sampled)) * count // len(sampled)


def _own_size(value: Any) -> int | None:
    if type(value) in _FLAT:
        return sys.getsizeof(value)
    usage = getattr(type(value), "memory_usage", None)  # pandas
    if usage is not None:
        used = value.memory_usage(deep=True)
        return int(used if isinstance(used, int) else used.sum())
    nbytes = getattr(value, "nbytes", None)  # numpy, pyarrow, memoryview
    return nbytes + 64 if isinstance(nbytes, int) else None


def _slots(cls: type) -> Iterable[str]:
    for base in cls.__mro__:
        names = base.__dict__.get("__slots__", ())
        yield from (names,) if isinstance(names, str) else names


_FLAT = frozenset({int, float, bool, str, bytes, type(None), complex})
