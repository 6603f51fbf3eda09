"""Hear the commits of other connections and processes to a PostgreSQL database.

Two modes. **tracked**: `postgres_outbox` has put triggers and a change table into the database, and
the rows of every writer are read there, whatever order their transactions became visible in.
**watched**: only that somebody else committed is known (``pg_current_snapshot()`` has moved, by a
transaction that is not ours), and everything of the database is stale then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from threading import Event, RLock
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import await_only

from everfresh.changes.postgres_link import Link
from everfresh.changes.postgres_look import (
    MARK,
    Look,
    look,
    moved,
    read_changes,
)
from everfresh.changes.postgres_sources import OutboxSource, Source
from everfresh.changes.postgres_tables import Installed
from everfresh.changes.publisher import Publisher
from everfresh.changes.redis_log import RedisLog
from everfresh.changes.turns import Turns
from everfresh.changes.watching import FEED, Mode, Tracking
from everfresh.changes.window import Window
from everfresh.connect.wire import Wire
from everfresh.errors import ConnectionFailedError
from everfresh.kernel.change import Change
from everfresh.kernel.mark import SeenMark, SnapshotMark

__all__ = ["PostgresWatch"]

_PAUSE = 0.05  # seconds between two looks of which nobody has woken one
_STATUSES = 200  # transactions whose outcome is asked for; of more, one has committed for sure
_watches: weakref.WeakSet[PostgresWatch] = weakref.WeakSet()


class PostgresWatch:
    """Publish what others commit to one PostgreSQL database, whenever it is polled."""

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        *,
        row_limit: int = 1000,
        source: Source | None = None,
    ) -> None:
        self._engine = engine
        self.source = source or OutboxSource()
        self._publisher = publisher
        self._limit = row_limit
        self.link = Link(engine)
        self._installed: Installed | None = None
        self._at: SnapshotMark | None = None  # up to which all is published
        self._numbering = ("", "")  # of the server that `_at` is of
        self._definitions: str | None = None
        self._defined_at = ""  # the snapshot they were read in
        self._defined = -inf  # when they were looked at, on the monotonic clock
        self._wanted = inf  # how long ago they may have been looked at, for who waits for a look
        self._window = Window()
        self.log: RedisLog | None = None  # of what other processes of ours commit
        self._own: set[int] = set()  # transactions of ours that are told of by themselves
        self._closed = False
        self.renew()
        _watches.add(self)
        self.poll()

    def renew(self) -> None:
        """Begin without the locks and connections of a parent process."""
        self._lock = RLock()
        self._turns = Turns()
        self.link.leave()
        self.source.forget()

    # -- what is known

    @property
    def bracket(self) -> None:
        """Nothing: ours are told from others' by their transaction ids."""
        return

    @property
    def mode(self) -> Mode:
        """How commits of others are heard now."""
        found = self._installed
        if found is None or self._at is None:
            return "none"
        return "tracked" if found.tracked else "watched"

    @property
    def reason(self) -> str:
        """Why the mode is what it is, in words for a receipt."""
        found = self._installed
        if found is None or self._at is None:
            return self.link.trouble
        if found.why_not is not None:
            return found.why_not
        if not found.tracked:
            return f"there is no {self.source.means}: nothing is tracked"
        return f"{len(found.tracked)} tables are tracked, {len(found.untracked)} are not"

    @property
    def means(self) -> str:
        """What proves an answer, in a few words."""
        if self.mode == "tracked":
            return self.source.means
        return "pg_current_snapshot" + (", the writers' log" if self.log is not None else "")

    @property
    def untracked(self) -> frozenset[str]:
        """Tables of which a foreign commit is heard only as one of all of them."""
        found = self._installed
        return frozenset() if found is None else frozenset(found.untracked)

    def covers(self, table: str) -> bool:
        """Whether others' commits to this table are heard: one way or the other all are."""
        return True

    def tables(self) -> frozenset[str] | None:
        """Return every table if each write to any of them is logged, None otherwise."""
        found = self._installed
        if found is None or self._at is None or not found.tracked:
            return None
        lacking = [name for name, why in found.untracked.items() if not _read_only(found, name)]
        return None if lacking else found.tracked

    # -- polling

    def poll(self, definitions: float = 0.0) -> bool:
        """Publish what was committed before now; return whether that is certain.

        False means that nothing is proven (the server is gone, or a standby): ask again. It
        recovers by itself. Callers that come while one asks share the next answer.
        """
        self._wanted = min(self._wanted, definitions)  # before its turn: whoever asks, asks for all
        return self._turns.take(self._poll)

    def _poll(self) -> bool:
        with self._lock:
            definitions, self._wanted = self._wanted, inf
            wire = None if self._closed else self.link.ready()
            if wire is None:
                return False
            try:
                self._know(wire)
                return self._look(wire, definitions)
            except (ConnectionFailedError, ValueError) as error:
                self.link.failed(error)
                return False

    def told(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Hear what a commit of this process did, now that it is over, row by row."""
        found = self._installed
        if found is None or not found.tracked or any(change.table is None for change in changes):
            return changes
        # code of the user's that may have written anything may have changed definitions, too
        anything = {change.table for change in changes} >= found.tracked
        if not self._heard(0.0 if anything else inf):
            return changes
        return [change for change in changes if change.table not in found.tracked]

    def _heard(self, definitions: float) -> bool:
        if not self._engine.dialect.is_async:
            return self.poll(definitions)
        try:  # in a greenlet of an event loop, which is not to be blocked
            return bool(await_only(asyncio.to_thread(self.poll, definitions)))
        except MissingGreenlet:
            return False

    def own(self, transaction: int, changes: Sequence[Change]) -> None:
        """Note that a transaction, about to be committed, is told of by itself.

        ``changes`` are what it may have changed at most, for the other processes of ours.
        """
        at = self._at
        self._own.add(transaction)
        if self.log is not None and at is not None:
            self.log.note(at.history, transaction, changes)

    @property
    def proves(self) -> bool:
        """Whether a mark of another process can be judged by what was heard here."""
        return self.mode == "tracked" or (self.mode == "watched" and self.log is not None)

    def mark(self, raw: Any) -> SnapshotMark | None:
        """Return what this DBAPI connection sees before its next query, None if that is not known.

        A standby's snapshot leaves out what runs on the primary, and another timeline numbers
        other transactions.
        """
        at = self._at
        if at is None:
            return None
        cursor = raw.cursor()
        try:
            cursor.execute(MARK)
            snapshot, timeline = cursor.fetchone()
        finally:
            cursor.close()
        return self.understood(str(snapshot), timeline or "")

    def early(self, mark: SeenMark) -> Sequence[Change] | None:
        """Return what was told of already and this reader does not see; None if it is not known."""
        if not self.source.early or self.mode != "tracked" or not isinstance(mark, SnapshotMark):
            return ()
        return self._window.since(mark)

    def understood(self, snapshot: str, timeline: str) -> SnapshotMark | None:
        """Return the mark of a snapshot, None if it was taken on a server we do not hear."""
        at = self._at
        if at is None or not timeline or timeline != self.link.timeline:
            self.link.suspect |= bool(timeline) and timeline != self.link.timeline
            return None
        return SnapshotMark.parse(FEED, at.history, snapshot)

    def since(self, mark: SeenMark) -> Sequence[Change] | None:
        """Return all changes after the mark up to the last look, None if that cannot be told.

        What was heard lately is remembered: the database is asked only for what is older.
        """
        found, at = self._installed, self._at
        if not isinstance(mark, SnapshotMark) or found is None or not self.proves:
            return None
        if at is None or mark.history != at.history:
            return None
        told = self._window.since(mark)
        if told is not None or not (found.tracked and self.source.remembers):
            return told
        return self._asked_since(mark)

    def _asked_since(self, mark: SnapshotMark) -> Sequence[Change] | None:
        with self._lock:
            found, at, wire = self._installed, self._at, self.link.ready()
            if found is None or at is None or wire is None:
                return None
            try:
                seen = look(wire, mark, outbox=True, defined=self._defined_at)
                if not self._continues(seen, mark) or self._redefined(seen):
                    return None
                told = read_changes(wire, seen, mark, found.tables, self._limit)
            except (ConnectionFailedError, ValueError) as error:
                self.link.failed(error)
                return None
            return None if told is None else [*told, *map(Change, sorted(found.untracked))]

    def wait(self, stop: Event, interval: float, bound: float) -> bool:
        """Wait for a writer's notification, where they notify, or for the interval."""
        found = self._installed
        # a server is asked by many processes, over a network: not as often as a file
        pause = max(interval, min(bound / 20, _PAUSE))
        if found is None or self.mode != "tracked":
            return stop.wait(pause)
        return self.source.wait(self.link.parameters, found, stop, pause, bound)

    def close(self) -> None:
        """Close the connections; every later poll says False."""
        with self._lock:
            self._closed, self._at, self.link.trouble = True, None, "it is closed"
            self.source.close()
            self.link.drop()

    # -- tracking, on a connection of its own

    def install(self, tables: Sequence[str] | None = None, readers: Sequence[str] = ()) -> Tracking:
        """Track these tables, or all; see `postgres_tracking.Ways.install`."""
        with self._maintenance() as wire:
            return self.source.tracking.install(wire, tables, readers)

    def plan(self, tables: Sequence[str] | None = None, readers: Sequence[str] = ()) -> list[str]:
        """Return the SQL that `install` would run; see `postgres_tracking.Ways.plan`."""
        with self._maintenance() as wire:
            return self.source.tracking.plan(wire, tables, readers)

    def remove(self) -> Tracking:
        """Stop tracking; see `postgres_tracking.Ways.remove`."""
        with self._maintenance() as wire:
            return self.source.tracking.remove(wire)

    def status(self) -> Tracking:
        """Return what is tracked; see `postgres_tracking.Ways.status`."""
        with self._maintenance() as wire:
            return self.source.tracking.status(wire)

    def announce(self, tables: Sequence[str] | None = None) -> list[str]:
        """Tell every process that these tables changed; see `postgres_tracking.Ways.announce`."""
        with self._maintenance() as wire:
            return self.source.tracking.announce(wire, tables)

    def prune(self, keep_rows: int) -> int:
        """Delete all but about the latest changes; see `postgres_tracking.Ways.prune`."""
        with self._maintenance() as wire:
            return self.source.tracking.prune(wire, keep_rows)

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[Wire]:
        try:
            with self.link.maintenance() as wire:
                yield wire
        finally:
            self.poll()

    # -- what is tracked; all of this under the lock

    def _know(self, wire: Wire) -> None:
        """Begin anew on another server, or one that may have lost commits: all is unproven."""
        numbering = (self.link.base, self.link.timeline)
        if self._at is None or numbering != self._numbering:
            before, self._numbering = self._at, numbering
            self._learn(wire)
            if before is not None:
                self._publisher.report([Change(None)])

    def _learn(self, wire: Wire) -> None:
        """Read what is tracked, and take what is committed now for the beginning."""
        nothing = SnapshotMark(FEED, "", 0, 0)
        first = look(wire, nothing, outbox=False, defined="")
        self._installed = self.source.begin(wire, self.link.parameters)
        if self.source.early:  # what it tells of begins after this
            first = look(wire, nothing, outbox=False, defined="")
        again = look(wire, nothing, outbox=False, defined="")
        if again.definitions != first.definitions:
            raise ConnectionFailedError("the schema is being changed just now")
        self._definitions, self._defined = first.definitions, time.monotonic()
        self._defined_at = str(first.snapshot)
        name = self._installed.outbox or "-"
        history = f"{self.link.base}/{name}/{self._definitions}"
        self._at = replace(first.snapshot, history=history)
        self._window.begin(self._at)
        if self.log is not None:
            self.log.begin()

    # -- looking

    def _look(self, wire: Wire, definitions: float) -> bool:
        at, found = self._at, self._installed
        assert at is not None and found is not None  # noqa: S101, PT018
        started = time.monotonic()
        asked = started >= self._defined + definitions
        defined = self._defined_at if asked else None
        try:
            seen = self.source.look(wire, at, found, defined)
        except ConnectionFailedError:
            if wire.closed:
                raise
            return self._begin_anew(wire, f"the {self.source.means} cannot be read")  # it is gone
        if not seen.timeline or seen.timeline != self.link.timeline:
            raise ConnectionFailedError("it is a standby now, or was promoted")
        if self._redefined(seen):
            return self._begin_anew(wire, "the schema, or who may read it, has changed")
        if asked:
            self._defined, self._defined_at = started, str(seen.snapshot)
        now = replace(seen.snapshot, history=at.history)
        if not found.tracked:
            self._tell_of_any(wire, at, now, seen)
        elif not self._continues(seen, at):
            self._lose(now, "rows are missing from the outbox")
        else:
            self._tell(wire, at, now, seen, found)
        self._at = now
        # of a copy: who commits adds to it meanwhile
        self._own -= {number for number in tuple(self._own) if number < seen.snapshot.xmin}
        return True

    def _redefined(self, seen: Look) -> bool:
        return seen.definitions is not None and seen.definitions != self._definitions

    def _begin_anew(self, wire: Wire, reason: str) -> bool:
        """Read the schema again; plans are void, and what was kept is of the one before."""
        self._learn(wire)
        self.link.trouble = reason
        self._publisher.report([Change(None)])
        return True

    def _continues(self, seen: Look, since: SnapshotMark) -> bool:
        found = self._installed
        if not self.source.remembers:
            return True  # what has lost something says so
        same = found is not None and seen.outbox == found.outbox
        return same and seen.pruned <= since.xmin

    def _tell(
        self, wire: Wire, at: SnapshotMark, now: SnapshotMark, seen: Look, found: Installed
    ) -> None:
        told = self.source.changes(wire, seen, at, found, self._limit)
        if told is None:
            self._lose(now, f"the {self.source.means} tells of a table that is not known")
            return
        if found.untracked and self._foreign(wire, at, seen):
            told += [Change(name) for name in sorted(found.untracked)]
        if told:
            self._window.add(told, now)
            self._publisher.report(told)

    def _lose(self, now: SnapshotMark, reason: str) -> None:
        self._window.begin(now)
        self._publisher.lost(reason)

    def _tell_of_any(self, wire: Wire, at: SnapshotMark, now: SnapshotMark, seen: Look) -> None:
        """Tell what is known of the transactions that have ended, or that something is not."""
        ended = self._ended(at, seen)
        noted = {} if ended is None or self.log is None else self.log.find(at.history, ended)
        if ended is None or self._committed(wire, ended - noted.keys() - self._own):
            self._lose(now, "another connection or process committed to the database")
            return
        told = [change for number in noted for change in noted[number]]
        if ended - noted.keys():  # of ours, which Redis could not be told: marks cannot be judged
            self._window.begin(now)
        else:
            self._window.add(told, now)
        theirs = [change for change in told if change.sequence not in self._own]
        if theirs:
            self._publisher.report(theirs)

    def _foreign(self, wire: Wire, at: SnapshotMark, seen: Look) -> bool:
        """Whether any transaction that others committed has become visible."""
        ended = self._ended(at, seen)
        return ended is None or self._committed(wire, ended - self._own)

    def _ended(self, at: SnapshotMark, seen: Look) -> set[int] | None:
        """Return the transactions that have become visible, None for very many."""
        if (seen.snapshot.xmax, seen.snapshot.running) == (at.xmax, at.running):
            return set()
        return moved(at, seen.snapshot)

    def _committed(self, wire: Wire, ended: set[int]) -> bool:
        """Whether any of these transactions was not rolled back."""
        if not ended or len(ended) > _STATUSES:
            return bool(ended)
        numbers = ", ".join(f"'{number}'" for number in ended)
        answer = wire.rows(
            "SELECT coalesce(bool_or(coalesce(pg_xact_status(x), 'committed') <> 'aborted'), false)"
            f" FROM unnest(ARRAY[{numbers}]::xid8[]) x"
        )
        return answer[0][0] == "t"


def _read_only(found: Installed, name: str) -> bool:
    """Whether a table holds no rows that a statement writes to by itself: a foreign one may."""
    return any(t.canonical == name and t.kind == "m" for t in found.tables.values())


def _after_fork() -> None:
    for watch in list(_watches):
        watch.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
