"""Reading the catalogue: what is kept, what a table's change would touch, and sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, nulls_last, or_, select
from sqlalchemy.orm import Session, selectinload

from everfresh.catalogue.database import Catalogue
from everfresh.catalogue.models import STATES, DependencyRow, EntryRow
from everfresh.errors import ConfigurationError

__all__ = ["ORDERS", "Impact", "Listing", "Totals", "entry", "impact", "listed", "totals"]

ORDERS = ("score", "cost", "bytes", "hits", "age")
_CHUNK = 500  # keys named in one statement: SQLite takes 999 parameters at least


@dataclass(frozen=True, slots=True)
class Listing:
    """Say which entries to list: filters (None for all), an order and how many.

    ``table`` is a canonical name or the part behind its last point. ``order`` is one of `ORDERS`,
    the largest first; ``age`` lists the oldest first.
    """

    kind: str | None = None
    table: str | None = None
    state: str | None = None
    order: str = "score"
    limit: int = 100

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigurationError(f"unknown order {self.order!r}: use {', '.join(ORDERS)}")
        if self.state not in (None, *STATES):
            raise ConfigurationError(f"unknown state {self.state!r}: use {', '.join(STATES)}")


@dataclass(frozen=True, slots=True)
class Impact:
    """Tell of one entry that a change of a table may outdate.

    ``depth`` is 0 where the entry reads the table itself, and otherwise how many entries lie
    between; ``through`` is the key of the first of those.
    """

    entry: EntryRow
    depth: int
    through: str | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Hold sums over the catalogue; ``bytes`` and ``seconds`` (to compute) are of fresh entries.

    ``seconds_saved`` is the sum of hits times cost, over all entries.
    """

    fresh: int
    stale: int
    dropped: int
    bytes: int
    seconds: float
    hits: int
    fills: int
    seconds_saved: float


def listed(catalogue: Catalogue, listing: Listing | None = None) -> list[EntryRow]:
    """Return the entries that a listing asks for, with their dependencies.

    >>> listed(Catalogue("sqlite://"), Listing(state="fresh", order="cost"))
    []
    """
    listing = listing or Listing()
    statement = select(EntryRow).options(selectinload(EntryRow.dependencies))
    statement = _filtered(statement, listing).limit(listing.limit)
    with catalogue.session() as session:
        return list(session.scalars(statement.order_by(_order(listing.order), EntryRow.key)))


def entry(catalogue: Catalogue, key: str) -> EntryRow | None:
    """Return what is known of a key, with its dependencies; None if nothing is."""
    statement = select(EntryRow).options(selectinload(EntryRow.dependencies))
    with catalogue.session() as session:
        return session.scalars(statement.where(EntryRow.key == key)).one_or_none()


def impact(catalogue: Catalogue, table: str) -> list[Impact]:
    """Return the entries that a change of a table may outdate, the nearest first.

    Those that read the table, or the whole database, and those made of them, transitively. Only
    fresh entries are returned, but what lies between may be otherwise.
    """
    with catalogue.session() as session:
        found: dict[str, tuple[int, str | None]] = {}
        reads = select(DependencyRow.entry).where(or_(_reads(table), _reads_all())).distinct()
        level: list[tuple[str, str | None]] = [(key, None) for key in session.scalars(reads)]
        depth = 0
        while level:
            for key, through in level:
                found.setdefault(key, (depth, through))
            depth += 1
            level = list(_children(session, [key for key, _ in level], found))
        rows = list(_load(session, list(found)))
    return sorted(
        (Impact(row, *found[row.key]) for row in rows if row.state == "fresh"),
        key=lambda impact: (impact.depth, -impact.entry.cost, impact.entry.key),
    )


def totals(catalogue: Catalogue) -> Totals:
    """Return sums over the catalogue, in one statement."""
    sums = select(
        EntryRow.state,
        func.count(),
        func.sum(EntryRow.bytes),
        func.sum(EntryRow.cost),
        func.sum(EntryRow.hits),
        func.sum(EntryRow.fills),
        func.sum(EntryRow.hits * EntryRow.cost),
    ).group_by(EntryRow.state)
    with catalogue.reading() as connection:
        rows = {row[0]: row for row in connection.execute(sums)}
    count = {state: rows[state][1] if state in rows else 0 for state in STATES}
    fresh = rows.get("fresh", (None, 0, 0, 0.0))
    return Totals(
        **count,
        bytes=int(fresh[2]),
        seconds=float(fresh[3]),
        hits=sum(int(row[4]) for row in rows.values()),
        fills=sum(int(row[5]) for row in rows.values()),
        seconds_saved=sum(float(row[6]) for row in rows.values()),
    )


def _filtered(statement: Select[Any], listing: Listing) -> Select[Any]:
    if listing.kind is not None:
        statement = statement.where(EntryRow.kind == listing.kind)
    if listing.state is not None:
        statement = statement.where(EntryRow.state == listing.state)
    if listing.table is not None:
        reads = select(DependencyRow.entry).where(_reads(listing.table))
        statement = statement.where(EntryRow.key.in_(reads))
    return statement


def _order(name: str) -> ColumnElement[Any]:
    if name == "age":
        return EntryRow.filled_at.asc()
    columns: dict[str, ColumnElement[Any]] = {
        "score": EntryRow.score.desc(),
        "cost": EntryRow.cost.desc(),
        "bytes": EntryRow.bytes.desc(),
        "hits": EntryRow.hits.desc(),
    }
    ordered: ColumnElement[Any] = nulls_last(columns[name])
    return ordered


def _reads(table: str) -> ColumnElement[bool]:
    named = DependencyRow.table_name == table
    if "." in table:
        return named
    return or_(named, DependencyRow.table_name.endswith(f".{table}", autoescape=True))


def _reads_all() -> ColumnElement[bool]:
    return and_(DependencyRow.table_name.is_(None), DependencyRow.parent.is_(None))


def _children(
    session: Session, keys: Sequence[str], known: dict[str, tuple[int, str | None]]
) -> Iterator[tuple[str, str | None]]:
    """Yield what was made of these entries and is not known yet, with what it was made of."""
    for chunk in _chunks(keys):
        edges = select(DependencyRow.entry, DependencyRow.parent)
        for child, parent in session.execute(edges.where(DependencyRow.parent.in_(chunk))):
            if child not in known:
                yield child, parent


def _load(session: Session, keys: Sequence[str]) -> Iterator[EntryRow]:
    for chunk in _chunks(keys):
        rows = select(EntryRow).options(selectinload(EntryRow.dependencies))
        yield from session.scalars(rows.where(EntryRow.key.in_(chunk)))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))
