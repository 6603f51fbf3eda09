"""The Protocols every part is written against, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from everfresh.kernel.change import Change

if TYPE_CHECKING:
    from everfresh.kernel.entry import Entry

__all__ = ["ChangeFeed", "Clock", "Codec", "Lease", "Listener", "Mark", "Store"]


@runtime_checkable
class Mark(Protocol):
    """Hold what a reader had seen of one change feed; opaque to everything but its feed."""

    @property
    def feed(self) -> str:
        """Name of the feed the mark belongs to, such as ``"session"``."""

    @property
    def position(self) -> int:
        """How far in its feed: a mark sees at least what one of a lower position sees."""

    def includes(self, change: Change) -> bool:
        """Whether a reader with this mark had seen this change."""


class Listener(Protocol):
    """Be told by a feed what is about to change and what has changed.

    A feed calls ``begin`` before the writer's commit reaches the database and ``end`` when its
    outcome is known; ``lost`` when it cannot say any more what has changed. The listener does not
    raise. Sources named in ``begin`` are in flux until ``end``.
    """

    def begin(self, changes: Sequence[Change]) -> object:
        """Put the touched sources in flux; return a token for `end`."""

    def end(
        self, token: object, *, committed: bool, changes: Sequence[Change] | None = None
    ) -> None:
        """Lift the flux: the touched entries are stale if committed, as before otherwise.

        ``changes`` narrows (or widens) what `begin` was told to what really happened.
        """

    def lost(self, reason: str) -> None:
        """Make everything the feed covers unproven."""


class ChangeFeed(Protocol):
    """Tell what changes in one database."""

    name: str

    def subscribe(self, listener: Listener) -> None:
        """Report every change from now on to this listener."""

    def mark(self) -> Mark:
        """Return what a reader that starts now will have seen at least."""

    def close(self) -> None:
        """Stop hearing and undo what was attached to the database's driver."""


class Lease(Protocol):
    """Hold the right to fill one key."""

    @property
    def key(self) -> str:
        """The key it is for."""

    @property
    def token(self) -> int:
        """Fencing token: later leases of a key have larger ones."""

    def release(self) -> None:
        """Give the right back."""


@runtime_checkable
class Store(Protocol):
    """Keep entries by key, within a limit of bytes."""

    def get(self, key: str) -> Entry | None:
        """Return the entry, None if the key is absent."""

    def put(self, entry: Entry) -> Sequence[Entry]:
        """Keep the entry; return those that had to go for it (itself, if it was not admitted).

        Raises `ValueTooLargeError` when it is larger than the store may ever hold.
        """

    def discard(self, key: str) -> Entry | None:
        """Forget the key; return the entry that was kept."""

    def clear(self) -> None:
        """Forget every key."""

    def entries(self) -> Iterable[Entry]:
        """Yield the kept entries, in no promised order."""

    @property
    def bytes(self) -> int:
        """Bytes held now."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Let go of what it holds."""


Clock = Callable[[], float]
"""Seconds on a clock that never goes back."""


class Codec(Protocol):
    """Turn values to bytes and back; never runs code while decoding."""

    name: str

    def encode(self, value: object) -> bytes:
        """Return the value as bytes; raises `CodecError` for types it does not know."""

    def decode(self, data: bytes) -> object:
        """Return the value; raises `CodecError` for bytes it did not make."""
