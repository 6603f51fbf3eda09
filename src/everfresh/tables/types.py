"""The words that signatures of this package use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

__all__ = ["PrimaryKey", "RecheckPredicate", "Score"]

PrimaryKey: TypeAlias = Hashable
"""What tells one record from all others: a number, a text, a tuple of such."""

Score: TypeAlias = Any
"""Where a record stands in an index: anything that can be ordered, usually a number."""

RecheckPredicate: TypeAlias = Callable[[Any], bool]
"""Say of a record whose score fits whether it really belongs to the answer."""
