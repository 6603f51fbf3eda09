"""Pages by key: a place in a list, written as text for a link."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from everfresh.errors import StatementError

__all__ = ["Page", "place_from", "place_of"]


@dataclass(frozen=True, slots=True)
class Page:
    """Hold the objects of one page, and what to ask for the next with; None after the last."""

    items: list[Any]
    next: str | None


def place_of(values: Sequence[Any]) -> str:
    """Return the place of a row in a list, by the values that order it.

    >>> place_from(place_of(["Ada", 7]), [str, int])
    ['Ada', 7]
    """
    return base64.urlsafe_b64encode(msgspec.json.encode(list(values))).decode().rstrip("=")


def place_from(text: str, types: Sequence[Any]) -> list[Any]:
    """Return the values of a place; raises `StatementError` for what is none."""
    try:
        padded = text + "=" * (-len(text) % 4)
        values = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=list[Any])
        return [msgspec.convert(v, type=kind) for v, kind in zip(values, types, strict=True)]
    except (ValueError, TypeError, AttributeError, binascii.Error, msgspec.MsgspecError) as error:
        raise StatementError(
            f"after= takes the `next` of a page of the same order, not {text!r} ({error})"
        ) from None
