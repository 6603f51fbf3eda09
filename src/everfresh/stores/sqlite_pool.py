"""What the processes that share a SQLite store do to it, within one transaction each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from everfresh.errors import CodecError
from everfresh.kernel.entry import Entry, Standing
from everfresh.kernel.score import Policy
from everfresh.stores.packing import read, unpack

__all__ = ["Ranking", "Shared"]

_STANDING = "SELECT cost, bytes, rank, weight, hits FROM kept WHERE key = ?"
_KEEP = "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)"
_RANK = "UPDATE kept SET rank = ?, weight = ?, hits = ? WHERE key = ?"
_LOWEST = "SELECT key, rank, bytes FROM kept ORDER BY rank, key"
_COUNTED = "SELECT coalesce(sum(bytes), 0), count(*) FROM kept"
_POOL = "SELECT bytes, entries, touches, floor, policy FROM pool"
_RECOUNT = "INSERT INTO pool SELECT 1, ifnull(sum(bytes), 0), count(*), 0, 0, '' FROM kept"
_SET_POOL = "UPDATE pool SET bytes = ?, entries = ?, touches = ?, floor = ?, policy = ?"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Name a policy, so that processes can tell whether the ranks in the file are of theirs."""

    policy: Policy

    @property
    def name(self) -> str:
        """Its class and its figures."""
        figures = [f"{getattr(self.policy, n):.6g}" for n in ("growth",) if hasattr(self.policy, n)]
        return " ".join([type(self.policy).__name__, *figures])


@dataclass(slots=True)
class Shared:
    """Hold the counts that all processes share, as they are within one transaction."""

    connection: sqlite3.Connection
    policy: Policy
    size: int
    entries: int
    touches: int
    floor: float

    @classmethod
    @contextmanager
    def of(cls, connection: sqlite3.Connection, ranking: Ranking) -> Iterator[Shared]:
        """Yield the counts and write them back; ranks of another policy are made anew first."""
        counts = connection.execute(_POOL).fetchone()
        if counts is None:
            connection.execute(_RECOUNT)
            counts = connection.execute(_POOL).fetchone()
        size, entries, touches, floor, name = counts
        shared = cls(connection, ranking.policy, size, entries, touches, floor)
        if name != ranking.name:
            shared._rank_anew()
        # a policy that keeps a floor learns how far the other processes have raised it
        shared.policy.evicted(Standing(rank=shared.floor))
        yield shared
        counted = (shared.size, shared.entries, shared.touches, shared.floor)
        connection.execute(_SET_POOL, (*counted, ranking.name))

    def _rank_anew(self) -> None:
        self.floor = 0.0
        keys = self.connection.execute("SELECT key FROM kept ORDER BY rank").fetchall()
        self.connection.execute("UPDATE kept SET rank = 0, weight = 0")
        self.touch((key for (key,) in keys), hits=0)

    def touch(self, keys: Iterable[str], hits: int = 1) -> None:
        """Rank the entries for having been asked for, in this order."""
        known: dict[str, tuple[Standing, int] | None] = {}
        for key in keys:
            if key not in known:
                known[key] = self._standing(key)
            found = known[key]
            if found is not None:
                self.touches += 1
                self.policy.touch(found[0], self.touches)
                known[key] = (found[0], found[1] + hits)
        ranks = [(s[0].rank, s[0].weight, s[1], key) for key, s in known.items() if s is not None]
        self.connection.executemany(_RANK, ranks)

    def _standing(self, key: str) -> tuple[Standing, int] | None:
        row = self.connection.execute(_STANDING, (key,)).fetchone()
        if row is None:
            return None
        cost, size, rank, weight, hits = row
        return Standing(cost, size, rank, weight), hits

    def insert(self, entry: Entry, digest: str, proof: int, body: bytes) -> None:
        """Keep an entry in place of the one with its key."""
        self.remove(entry.key)
        standing = Standing(entry.cost, entry.bytes)
        self.touches += 1
        self.policy.touch(standing, self.touches)
        row = (entry.key, entry.bytes, entry.cost, standing.rank, standing.weight, entry.hits)
        self.connection.execute(_KEEP, (*row, digest))
        self.connection.execute("INSERT INTO body VALUES (?, ?, ?)", (entry.key, proof, body))
        self.size += entry.bytes
        self.entries += 1

    def remove(self, key: str) -> None:
        """Let a key go, if it is kept."""
        gone = self.connection.execute(
            "DELETE FROM kept WHERE key = ? RETURNING bytes", (key,)
        ).fetchall()
        self.connection.execute("DELETE FROM body WHERE key = ?", (key,))
        self.size -= sum(size for (size,) in gone)
        self.entries -= len(gone)

    def make_room(self, new: str, max_bytes: int, now: float, to_wall: float) -> list[Entry]:
        """Let the lowest ranks go until the limit holds; return them without their values.

        If the new key is one of them it goes alone: the others would go for nothing.
        """
        victims = self._cheapest(self.size - max_bytes)
        if new in victims:
            victims = {new: victims[new]}
        gone = []
        for key, rank in victims.items():
            self.policy.evicted(Standing(rank=rank))
            self.floor = max(self.floor, rank)
            gone.append(self._past(key, now, to_wall))
            self.remove(key)
        return gone

    def _cheapest(self, size: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for key, rank, held in self.connection.execute(_LOWEST) if size > 0 else ():
            found[key] = rank
            size -= held
            if size <= 0:
                return found
        if size > 0:  # the counts were damaged
            self.size, self.entries = self.connection.execute(_COUNTED).fetchone()
        return found

    def _past(self, key: str, now: float, to_wall: float) -> Entry:
        row = self.connection.execute("SELECT body FROM body WHERE key = ?", (key,)).fetchone()
        try:
            return unpack(key, read(row[0]), None, now, to_wall)
        except (CodecError, TypeError):  # damaged, or half of it missing
            return Entry(key, None)

    def clear(self) -> None:
        """Forget every key; the counter of touches goes on."""
        self.connection.execute("DELETE FROM kept")
        self.connection.execute("DELETE FROM body")
        self.size = self.entries = 0
