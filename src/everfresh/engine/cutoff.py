"""Early cutoff: what was made of parts that came out the same is not made again.

A change that touches only a part of an answer leaves the answer *unproven*, not stale. When it is
asked for, its parts are asked for in the order in which it read them; if each is what it was, the
kept value is published anew, otherwise the function runs. This is the checking of dependencies in
build systems and in Salsa ("red-green"); see A. Mokhov, N. Mitchell and S. Peyton Jones, "Build
Systems à la Carte", ICFP 2018. It all happens inside a registered fill, so that a change
meanwhile voids it as any other.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from inspect import isawaitable
from math import inf
from typing import Any, cast

from everfresh.engine.board import Board
from everfresh.engine.lineage import current
from everfresh.errors import EverfreshError
from everfresh.kernel.entry import UNPROVEN, Entry, Part
from everfresh.kernel.ledger import Fill
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.packing import digest_of as digest_of_bytes

__all__ = ["UNCHANGED", "digest_of", "parts_of", "recalled", "unchanged", "unchanged_async"]

UNCHANGED = "its parts were asked for again and are what they were"
_PARTS = 1000  # more are not remembered: asking for them all would not be cheap
_codec = ChoosingCodec(large=2**62)


def digest_of(entry: Entry) -> str | None:
    """Return the digest of an entry's value: its types, names, cells and their order.

    None for a value without canonical bytes: it equals nothing.
    """
    if entry.digest is None:
        try:
            entry.digest = digest_of_bytes(_codec.encode(entry.value))
        except (EverfreshError, RecursionError, ValueError):
            return None
    return entry.digest


def parts_of(fill: Fill) -> tuple[Part, ...]:
    """Return what a computation read, each once and in order; empty if some cannot be compared."""
    if fill.void is not None or len(fill.parents) > _PARTS:
        return ()
    parts: dict[str, Part] = {}
    for parent in fill.parents:
        if parent.key in parts:
            continue
        renew = getattr(parent.request, "renew", None)
        digest = None if renew is None else digest_of(parent)
        if renew is None or digest is None or parent.error:
            return ()
        parts[parent.key] = Part(parent.key, digest, renew)
    return tuple(parts.values())


def unchanged(board: Board, key: str, now: float) -> bool:
    """Whether the running computation of this key may reuse what is unproven; it is found then."""
    checking = _check(board, key, now)
    try:
        for part in checking:
            again: Any = part.renew()
            if isawaitable(again):  # a blocking function cannot wait for it
                cast("Coroutine[Any, Any, Any]", again).close()
                checking.close()
    except Exception:  # the function itself will meet it
        checking.close()
    return _found()


async def unchanged_async(board: Board, key: str, now: float) -> bool:
    """Do the same where parts may be coroutines."""
    checking = _check(board, key, now)
    try:
        for part in checking:
            again: Any = part.renew()
            if isawaitable(again):
                await again
    except Exception:
        checking.close()
    return _found()


def recalled() -> object:
    """Return the value that the running computation has found."""
    collector = current()
    assert collector is not None  # noqa: S101 - `unchanged` found it there
    assert collector.fill.recalled is not None  # noqa: S101
    return collector.fill.recalled.value


def _found() -> bool:
    collector = current()
    return collector is not None and collector.fill.recalled is not None


def _check(board: Board, key: str, now: float) -> Generator[Part]:
    """Yield the parts to ask for, until one differs; note the old entry if none did."""
    collector, old = current(), board.unproven(key)
    if collector is None or old is None:
        return
    fill, deadline = collector.fill, inf if old.deadline is None else old.deadline
    if deadline <= now:
        return
    for part in old.upstream:
        yield part
        parent = next((p for p in reversed(fill.parents) if p.key == part.key), None)
        if fill.void is not None or parent is None or digest_of(parent) != part.digest:
            return
    if fill.void is None and old.state == UNPROVEN:
        fill.recalled = old
