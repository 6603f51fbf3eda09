"""Receipts: what every answer can say of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from everfresh.kernel.change import Change
from everfresh.kernel.entry import Entry

__all__ = ["Receipt", "Status", "describe_change"]

Status = Literal["hit", "fill", "refresh", "bypass"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Tell where an answer came from, what it cost and why it was or was not reused.

    ``status``: ``hit`` (kept and still true), ``fill`` (asked for the first time), ``refresh``
    (computed again, ``reason`` says what had changed), ``bypass`` (computed and not kept).
    ``age`` and ``cost`` are in seconds, ``bytes`` is the estimate the store counts with,
    ``sources`` are the rows it depends on, ``parents`` the keys of the answers it was made from.
    ``proof`` is how changes of its sources are heard: ``"session feed"`` alone where nobody else
    can write or others are not heard, with ``"data_version"`` or ``"change table"`` where they are.
    """

    status: Status
    reason: str
    key: str
    age: float
    cost: float
    bytes: int
    sources: tuple[str, ...] = ()
    mark: str | None = None
    parents: tuple[str, ...] = ()
    label: str = ""
    proof: str = "session feed"
    entry: Entry | None = field(default=None, repr=False, compare=False)
    owner: object = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        entry: Entry,
        status: Status,
        reason: str,
        now: float,
        owner: object,
        proof: str | None = None,
    ) -> Receipt:
        """Return the receipt of an answer that this entry holds."""
        return cls(
            status=status,
            reason=reason,
            key=entry.key,
            age=max(now - entry.filled_at, 0.0),
            cost=entry.cost,
            bytes=entry.bytes,
            sources=tuple(map(str, entry.sources)),
            mark=None if entry.mark is None else str(entry.mark),
            parents=entry.parents,
            label=entry.label,
            proof=proof or ("session feed" if entry.sources else "not proven by a feed"),
            entry=entry,
            owner=owner,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {name: getattr(self, name) for name in _SHOWN}

    def __str__(self) -> str:
        sources = "; ".join(self.sources) or "none"
        return (
            f"{self.status}: {self.reason} (key {self.key[:12]}, age {self.age:.3g} s, "
            f"cost {self.cost * 1000:.3g} ms, {self.bytes:,} bytes, sources: {sources})"
        )


_SHOWN = tuple(shown.name for shown in fields(Receipt) if shown.repr)


def describe_change(change: Change | None) -> str:
    """Say in a few words what a change did.

    >>> describe_change(Change("main.flights", new={"id": 7}, key=(7,)))
    'an INSERT into main.flights, row (7,)'
    """
    if change is None:
        return "it was dropped"
    table = change.table or "the database"
    if change.whole_table:
        return f"a change of {table}"
    if change.old is None:
        verb, joint = "an INSERT", "into"
    elif change.new is None:
        verb, joint = "a DELETE", "from"
    else:
        verb, joint = "an UPDATE", "of"
    row = "" if change.key is None else f", row {change.key!r}"
    return f"{verb} {joint} {table}{row}"
