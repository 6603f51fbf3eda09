"""Follow a cache's change feed: which records a commit touches, and what they are now.

The listener is called by whoever commits, in any thread. It only marks; records are put in place
by a refresh. While a commit is under way the records it touches are served from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from everfresh.engine import following
from everfresh.engine.aio import AsyncCache
from everfresh.engine.cache import Cache
from everfresh.engine.following import PackedMark, Subject
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from everfresh.kernel.freshness import Freshness, freshness_of
from everfresh.kernel.predicate import ABSENT as UNREAD
from everfresh.tables.db import DbAccess
from everfresh.tables.indexes import Indexes, UnsupportedIndexOperation
from everfresh.tables.local.snapshot import ABSENT, Snapshot
from everfresh.tables.marks import UNKNOWN, Batch
from everfresh.tables.sqlalchemy_access import SqlAlchemyAccess
from everfresh.tables.types import PrimaryKey, Score
from everfresh.tables.validity import Validity

__all__ = ["Follower"]


@dataclass
class Effect:
    """Gather what changes do to records: what they are now by key, or that anything may be."""

    everything: bool = False
    images: dict[PrimaryKey, Any] = field(default_factory=dict)
    specs: list[Any] = field(default_factory=list)

    def note(self, key: PrimaryKey, image: Any) -> None:
        """Note a record's state; of two states in one commit neither is believed."""
        self.images[key] = UNKNOWN if key in self.images else image

    def __bool__(self) -> bool:
        return bool(self.everything or self.images or self.specs)


@dataclass(eq=False)
class Flux:
    """Hold what a commit under way touches; ``alone`` as long as no other one overlaps with it."""

    effect: Effect
    batch: Batch
    alone: bool = True


class Follower:
    """Mark what commits change in one table; a `kernel.ports.Listener`.

    ``through`` says which records a row of another table of a join touches: by table, one of its
    columns, and the index that has its values as first attribute. Changes of tables that are
    neither there nor the records' own make all that is covered invalid.
    """

    def __init__(
        self,
        cache: Cache | AsyncCache,
        statement: str | None,
        indexes: Indexes,
        db: DbAccess,
        validity: Validity,
        *,
        keyed: bool,
        freshness: Freshness | str | None = None,
        through: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        found = statement or indexes.everything_statement
        if found is None:
            raise ConfigurationError(
                "a table that follows a cache needs the SELECT of all its records: give statement="
            )
        self.woken: Callable[[], object] = bool  # called in the table's loop when marks came
        self._opened = cache
        self._cache = following.blocking(cache)
        self._statement = found
        self._indexes = indexes
        self._db = db
        self._validity = validity
        self._keyed = keyed  # the storage finds records by key
        self._freshness = None if freshness is None else freshness_of(freshness)
        self._through = dict(through or {})
        self._subject: Subject | None = None
        self._columns: tuple[str, ...] = ()
        self._root: str | None = None
        self._open: list[Flux] = []
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unfollow: Callable[[], None] | None = None

    # set-up -------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Look at the schema, if it has changed since the last time; begin to listen."""
        self._loop = asyncio.get_running_loop()
        if self._unfollow is None:
            self._unfollow = following.follow(self._cache, self)
        if self._current() is not None:
            return
        subject = await following.run(self._opened, following.examine, self._cache, self._statement)
        if isinstance(self._db, SqlAlchemyAccess):
            self._columns = await self._db.columns(self._statement)
        self._root = self._root_of(subject)
        self._check_through(subject)
        self._subject = subject

    def close(self) -> None:
        """Stop listening."""
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    def _current(self) -> Subject | None:
        subject = self._subject
        return subject if subject and subject.version == following.version(self._cache) else None

    def _root_of(self, subject: Subject) -> str | None:
        """Return the table of which each record is a row, by the record's own key."""
        trace, columns = subject.trace, self._indexes.key_columns
        if trace is None:
            return None
        if columns is None:
            only = [name for name in subject.sources if name is not None]
            return only[0] if trace.rowwise and len(only) == 1 and self._columns else None
        origins = [trace.origin(column) for column in columns]
        tables = {origin[0] for origin in origins if origin is not None}
        root = tables.pop() if len(tables) == 1 and None not in origins else None
        return root if root in trace.roots else None

    def _check_through(self, subject: Subject) -> None:
        named: dict[str, tuple[str, str]] = {}
        for table, (column, index) in self._through.items():
            found = [
                one
                for one in subject.sources
                if one is not None and (one == table or one.endswith(f".{table}"))
            ]
            if len(found) != 1 or index not in self._indexes.index_names:
                raise ConfigurationError(
                    f"through={{{table!r}: …}} names a table of the statement, one of its columns "
                    f"and an index: there is no such table or index"
                )
            named[found[0]] = (column, index)
        self._through = named

    async def hear(self) -> bool:
        """Mark all that others have committed before now; return whether that is certain."""
        if following.alone(self._cache):
            return True
        return await asyncio.to_thread(following.hear, self._cache)

    # a copy that outlives the process ---------------------------------------------------------

    @property
    def committing(self) -> bool:
        """Whether a commit of this process that touches the table is under way."""
        return bool(self._open)

    @property
    def identity(self) -> tuple[str, tuple[str, ...]]:
        """The statement and its columns: a copy of other ones is not of this table."""
        return self._statement, self._columns

    async def seen(self) -> PackedMark | None:
        """Return a mark of the database's history up to which all has been marked here."""
        return await following.run(self._opened, following.seen, self._cache)

    async def catch_up(self, mark: PackedMark) -> bool:
        """Mark what was changed since; return whether that could be told."""
        changes = await asyncio.to_thread(following.since, self._cache, mark)
        if changes is None:
            return False
        effect = self._effect(changes)
        if effect:  # what came after may be marked already: rows are read again, not applied
            self._validity.mark_batch(self._batch(effect, images=False))
        return True

    # freshness ------------------------------------------------------------------------------

    def proven(self) -> bool:
        """Whether what is kept may be served without asking the feed first."""
        if self._freshness is not None or self._current() is None:
            return False
        return following.proven(self._cache)

    async def objection(self) -> str | None:
        """Hear other writers where the rule asks for it; return why nothing kept may be served."""
        subject = self._current()
        if subject is None:
            try:
                await self.prepare()
            except ConfigurationError as error:
                return str(error)
            subject = self._current()
        if subject is None:
            return "the schema of the database is changing"
        if self._freshness is None and following.proven(self._cache):
            return None
        return await following.objects(self._cache, self._freshness, subject)

    # the listener -----------------------------------------------------------------------------

    def begin(self, changes: Sequence[Change]) -> object:
        """Serve nothing of what a commit touches until its end."""
        effect = self._effect(changes)
        if not effect:
            return None
        flux = Flux(effect, self._batch(effect, images=False))
        with self._lock:
            for other in self._open:
                other.alone = flux.alone = False
            self._open.append(flux)
        self._validity.begin_flux(flux.batch)
        return flux

    def end(
        self, token: object, *, committed: bool, changes: Sequence[Change] | None = None
    ) -> None:
        """Mark what a commit has changed."""
        flux = token if isinstance(token, Flux) else Flux(Effect(), Batch())
        happened = flux.effect if changes is None else self._effect(changes)
        # images in the order of commits only: where two commits overlap, rows are read again
        subject = self._subject
        images = flux.alone and subject is not None and subject.ordered
        marks = self._batch(happened, images=images) if committed and happened else None
        with self._lock:
            known = flux in self._open
            if known:
                self._open.remove(flux)
        if known:
            self._validity.end_flux(flux.batch, marks)
        elif marks is not None:
            self._validity.mark_batch(marks)
        if marks is not None:
            self._wake()

    def lost(self, reason: str) -> None:
        """Mark everything."""
        self._validity.mark_everything()
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(self.woken)

    # from changes to records --------------------------------------------------------------------

    def _effect(self, changes: Iterable[Change]) -> Effect:
        subject = self._current()
        if subject is None:
            return Effect(everything=True)
        try:
            return self._effect_on(subject, changes)
        except Exception:
            return Effect(everything=True)

    def _effect_on(self, subject: Subject, changes: Iterable[Change]) -> Effect:
        effect = Effect()
        once = frozenset[str]() if subject.trace is None else subject.trace.once
        for change in changes:
            if effect.everything or not subject.touched(change):
                continue
            if change.table is None or change.whole_table:
                effect.everything = True
            elif change.table in self._through and change.table in once:
                self._joined(change, effect)
            elif change.table == self._root:
                self._rows(change, effect, subject)
            else:
                effect.everything = True
        return effect

    def _joined(self, change: Change, effect: Effect) -> None:
        column, index = self._through[change.table or ""]
        images = [image for image in (change.old, change.new) if image is not None]
        if any(column not in image for image in images):
            effect.everything = True
            return
        make: Any = self._indexes.IndexSpec
        effect.specs += [make(index, value) for value in {image[column] for image in images}]

    def _rows(self, change: Change, effect: Effect, subject: Subject) -> None:
        old = ABSENT if change.old is None else self._key(change.old, subject)
        new = ABSENT if change.new is None else self._key(change.new, subject)
        if old is UNKNOWN or new is UNKNOWN:
            effect.everything = True
            return
        if old is not ABSENT and old != new:
            effect.note(old, ABSENT if subject.trace and subject.trace.rowwise else UNKNOWN)
        if new is not ABSENT and change.new is not None:
            effect.note(new, self._record(change.new, subject))

    def _key(self, image: Mapping[str, object], subject: Subject) -> Any:
        """Return the key of the record that a row is in, `UNKNOWN` if that cannot be told."""
        trace, columns = subject.trace, self._indexes.key_columns
        key: Any
        if trace is None:
            return UNKNOWN
        if columns is None:
            row = trace.row(image)
            if row is None:
                return UNKNOWN
            key = self._indexes.primary_key(self._made(row))
        else:
            origins = [trace.origin(column) for column in columns]
            values = tuple(image.get(one[1], UNREAD) if one else UNREAD for one in origins)
            if UNREAD in values:
                return UNKNOWN
            key = values[0] if len(values) == 1 else values
        return key if self._alike(key) else UNKNOWN

    def _alike(self, key: PrimaryKey) -> bool:
        """Whether the feed writes keys as the records have them: no text for a UUID."""
        snapshot = self._validity.snapshot
        known = None if snapshot is None else snapshot.any_key()
        return known is None or _kinds(known) == _kinds(key)

    def _record(self, image: Mapping[str, object], subject: Subject) -> Any:
        """Return the record that a row is now, `ABSENT` if it is none, `UNKNOWN` if not certain."""
        trace = subject.trace
        if trace is None or not trace.rowwise or not self._columns or not subject.ordered:
            return UNKNOWN
        inside = trace.passes(image)
        row = trace.row(image)
        if inside is False:
            return ABSENT
        return UNKNOWN if inside is None or row is None else self._made(row)

    def _made(self, row: tuple[object, ...]) -> Any:
        assert isinstance(self._db, SqlAlchemyAccess)  # noqa: S101 - it told the columns
        return self._db.record_of(self._columns, row)

    def _batch(self, effect: Effect, *, images: bool) -> Batch:
        """Return the marks of an effect, with the records' states or without."""
        batch, names = Batch(), frozenset(self._indexes.index_names)
        if effect.everything:
            batch.add_everything(names)
            return batch
        try:
            for spec in effect.specs:
                batch.add_spec(spec, self._indexes.storage_records_spec(spec), names)
            if effect.images:
                states = effect.images if images else dict.fromkeys(effect.images, UNKNOWN)
                self._check_reachable(states)
                batch.add_keys(states, self._scores(effect.images), names)
        except Exception:
            batch.add_everything(names)
        return batch

    def _check_reachable(self, states: Mapping[PrimaryKey, Any]) -> None:
        """Raise unless records whose state is not known can be asked for, and others be judged."""
        unknown = [key for key, state in states.items() if state is UNKNOWN]
        if unknown:
            self._indexes.key_spec(*unknown)
        if not self._keyed:
            raise UnsupportedIndexOperation("the storage cannot be looked into by key")
        for state in states.values():
            known = state is not UNKNOWN and state is not ABSENT
            if known and self._indexes.covers_record(state) is None:
                raise UnsupportedIndexOperation("what is covered cannot be told of a record")

    def _scores(self, images: Mapping[PrimaryKey, Any]) -> dict[str, list[Score]] | None:
        """Return the scores that these records had and have, None if some are not known."""
        snapshot: Snapshot | None = self._validity.snapshot
        if snapshot is None or any(state is UNKNOWN for state in images.values()):
            return None
        records = [one for state in images.items() for one in (state[1], snapshot.get(state[0]))]
        known = [record for record in records if record is not ABSENT]
        score = self._indexes.score
        return {name: [score(name, one) for one in known] for name in self._indexes.index_names}


def _kinds(key: Any) -> tuple[type, ...]:
    return tuple(map(type, key)) if isinstance(key, tuple) else (type(key),)
