"""What happened to entries, folded by key and written in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, update

from everfresh.catalogue.models import AuditRow, DependencyRow, EntryRow
from everfresh.catalogue.records import upsert
from everfresh.errors import CodecError
from everfresh.kernel.change import Change
from everfresh.kernel.entry import Entry, Past
from everfresh.kernel.plan import Source
from everfresh.stores.codec import MessagePackCodec

__all__ = ["Audited", "Batch", "Filled", "Gone", "Record"]

_codec = MessagePackCodec()
_FORGET = delete(DependencyRow).where(DependencyRow.entry == bindparam("k"))
_ADD_HITS = (
    update(EntryRow)
    .where(EntryRow.key == bindparam("k"))
    .values(
        hits=EntryRow.hits + bindparam("n"), score=func.coalesce(bindparam("s"), EntryRow.score)
    )
)
_END = (
    update(EntryRow)
    .where(EntryRow.key == bindparam("k"))
    .values(
        state=bindparam("ended"),
        reason=bindparam("why"),
        change=func.coalesce(bindparam("cause"), EntryRow.change),
        updated_at=bindparam("at"),
    )
)


@dataclass(frozen=True, slots=True)
class Filled:
    """Hold what is recorded of a fill; not the entry, which would keep its value in memory."""

    key: str
    kind: str
    label: str
    sources: tuple[Source, ...]
    parents: tuple[str, ...]
    request: object
    filled_at: float
    cost: float
    size: int
    deadline: float | None
    origin: str
    reason: str
    digest: str | None
    score: float

    @classmethod
    def of(cls, entry: Entry, status: str, digest: str | None) -> Filled:
        """Return what is recorded of this entry."""
        return cls(
            entry.key,
            entry.kind,
            entry.label,
            entry.sources,
            entry.parents,
            getattr(entry.request, "detail", None),
            entry.filled_at,
            entry.cost,
            entry.bytes,
            entry.deadline,
            status,
            entry.reason,
            digest,
            entry.standing.rank,
        )


@dataclass(frozen=True, slots=True)
class Gone:
    """Hold how an entry ended."""

    key: str
    reason: str
    change: str | None
    at: float
    hits: int  # of this entry and those before it under its key

    @classmethod
    def of(cls, past: Past) -> Gone:
        """Return what is recorded of what stays of an entry."""
        return cls(past.key, past.reason, _described(past.change), past.at, past.hits)


@dataclass(frozen=True, slots=True)
class Audited:
    """Hold the outcome of an audit."""

    checked: int
    stale: int
    at: float


Record = Filled | Gone | Audited


@dataclass(slots=True)
class Batch:
    """Hold records folded by key; ``to_wall`` turns the process's clock into wall-clock seconds."""

    database: str
    to_wall: float
    fills: dict[str, Filled] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    ends: dict[str, Gone] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    audits: list[Audited] = field(default_factory=list)
    hits: dict[str, tuple[int, float | None]] = field(default_factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Take records in their order; of those of one key the last says what is."""
        for record in records:
            if isinstance(record, Filled):
                self.fills[record.key] = record
                self.counts[record.key] = self.counts.get(record.key, 0) + 1
                ended = self.ends.pop(record.key, None)
                if ended is not None and ended.change is not None:
                    self.causes[record.key] = ended.change
            elif isinstance(record, Gone):
                self.ends[record.key] = record
            else:
                self.audits.append(record)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.fills or self.ends or self.audits or self.hits)

    def write(self, connection: Connection) -> None:
        """Write all of it, by key in order: two processes that write never wait in a circle."""
        if self.fills:
            fills = [self.fills[key] for key in sorted(self.fills)]
            rows = [self._row(fill) for fill in fills]
            upsert(connection, EntryRow, rows, added=("fills", "hits"), kept=("change",))
            connection.execute(_FORGET, [{"k": _text(fill.key)} for fill in fills])
            dependencies = [row for fill in fills for row in _dependencies(fill)]
            if dependencies:
                connection.execute(insert(DependencyRow), dependencies)
        if self.hits:
            rows = [{"k": _text(k), "n": n, "s": s} for k, (n, s) in sorted(self.hits.items())]
            connection.execute(_ADD_HITS, rows)
        if self.ends:
            connection.execute(_END, [self._end(self.ends[key]) for key in sorted(self.ends)])
        if self.audits:
            rows = [
                {"at": a.at + self.to_wall, "checked": a.checked, "stale": a.stale}
                for a in self.audits
            ]
            connection.execute(insert(AuditRow), rows)

    def _row(self, fill: Filled) -> dict[str, Any]:
        filled_at = fill.filled_at + self.to_wall
        return {
            "key": _text(fill.key),
            "kind": _text(fill.kind),
            "label": _text(fill.label),
            "detail": _encoded(fill.request),
            "database": self.database,
            "filled_at": filled_at,
            "cost": fill.cost,
            "bytes": fill.size,
            "digest": fill.digest,
            "hits": 0,
            "fills": self.counts[fill.key],
            "state": "fresh",
            "reason": _text(fill.reason),
            "change": _text(self.causes[fill.key]) if fill.key in self.causes else None,
            "score": fill.score,
            "deadline": None if fill.deadline is None else fill.deadline + self.to_wall,
            "origin": _text(fill.origin),
            "updated_at": filled_at,
        }

    def _end(self, gone: Gone) -> dict[str, Any]:
        return {
            "k": _text(gone.key),
            "ended": "dropped" if gone.change is None else "stale",
            "why": _text(gone.reason),
            "cause": None if gone.change is None else _text(gone.change),
            "at": gone.at + self.to_wall,
        }


def _dependencies(fill: Filled) -> list[dict[str, Any]]:
    key = _text(fill.key)
    rows: list[dict[str, Any]] = []
    for source in fill.sources:
        _, _, condition = str(source).partition(" WHERE ")
        named = None if source.table is None else _text(source.table)
        rows.append({"table_name": named, "condition": _text(condition), "parent": None})
    rows += [{"table_name": None, "condition": "", "parent": _text(key)} for key in fill.parents]
    return [{"entry": key, **row} for row in rows]


def _described(change: Change | None) -> str | None:
    if change is None:
        return None
    what = change.table or "the whole database"
    return what if change.key is None else f"{what} {', '.join(map(repr, change.key))}"


def _encoded(detail: object) -> bytes | None:
    try:
        return None if detail is None else _codec.encode(detail)
    except CodecError:
        return None


def _text(value: str) -> str:
    """Return text as every database takes it: PostgreSQL knows no NUL, and none lone surrogates."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
