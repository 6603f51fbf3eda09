"""A store in a SQLite file, which outlives its process and is shared by many."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from everfresh.errors import (
    EverfreshError,
)
from everfresh.kernel.closing import Closing
from everfresh.kernel.entry import Entry
from everfresh.kernel.ports import Clock, Codec
from everfresh.kernel.score import HalfLife, Policy
from everfresh.stores.choice import ChoosingCodec
from everfresh.stores.limits import check_limit, check_size
from everfresh.stores.packing import checksum, pack, read, unpack
from everfresh.stores.sqlite_file import SqliteFile
from everfresh.stores.sqlite_pool import Ranking, Shared

__all__ = ["SqliteStore"]

_TOUCH_LOG = 4096  # as in memory: at a half-life of 1,000 touches older ones weigh under 6 %
_PAGE = 100  # entries read at once by `entries`

_GET = "SELECT checksum, body FROM body WHERE key = ?"
_PAGE_OF = "SELECT key, checksum, body FROM body WHERE key > ? ORDER BY key LIMIT ?"
_RANKED = "SELECT key, bytes, cost, hits FROM kept ORDER BY rank, key"
_FIGURES = "SELECT bytes, entries FROM pool"
_DIGEST = "SELECT digest FROM kept WHERE key = ?"


class SqliteStore(Closing):
    """Keep entries in a SQLite file, at most ``max_bytes`` of them over all processes.

    ``path`` is made if it does not exist. ``policy`` says which entries go first; its ranks lie
    in the file and are made anew when it is opened with another. Values go through ``codec``.
    ``busy``: seconds to wait for another process's lock. Safe to use from any number of threads.
    A got entry has no ``sources``: who asks knows them.

    A cache part never fails its caller: `get` gives None when the file cannot be read, and what
    is damaged counts as absent. `put`, `discard` and `clear` raise `StoreUnavailableError`, and
    nothing else, when the file cannot be written; then nothing has changed, and `trouble` says
    why. A file that failed is tried again after a second. Raises `ConfigurationError` at
    construction for a database that is no store, or one of a newer everfresh.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SqliteStore(folder + "/store.db") as store:
    ...         _ = store.put(Entry("a", [1, 2], bytes=60))
    ...     with SqliteStore(folder + "/store.db") as again:
    ...         print(again.get("a").value)
    [1, 2]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = 1 << 30,
        policy: Policy | None = None,
        codec: Codec | None = None,
        *,
        busy: float = 0.5,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        check_limit(max_bytes)
        self.max_bytes = max_bytes
        self.damaged = 0
        self.unreadable = 0
        self._ranking = Ranking(policy or HalfLife())
        self._codec: Codec = codec or ChoosingCodec()
        self._clock, self._wall = clock, wall
        self._log: deque[str] = deque(maxlen=_TOUCH_LOG)
        self._process = os.getpid()
        self._touched = self._log.append
        self._file = SqliteFile(path, busy, clock)

    # reading ------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """Return the entry, None if it is absent, damaged or cannot be read; never raises.

        The access is counted in memory, and written with the next `put` or `flush`.
        """
        file, now = self._file, self._clock()
        if now >= file.glance_at:
            file.glance()
        idle = file.idle
        try:
            connection = idle.pop() if idle else file.open()
        except IndexError:  # another thread was faster
            return self.get(key)
        except EverfreshError:
            return None
        try:
            row = connection.execute(_GET, (key,)).fetchone()
        except sqlite3.Error as error:
            file.failed(connection, error)
            return None
        idle.append(connection)
        if row is None:
            return None
        entry = self._entry(key, row[0], row[1], now)
        if entry is not None:
            self._log.append(key)
        return entry

    def entries(self) -> Iterable[Entry]:
        """Yield what is kept, as far as it can be read."""
        last = ""
        while page := self._read(_PAGE_OF, (last, _PAGE)):
            last = page[-1][0]
            for key, proof, body in page:
                entry = self._entry(key, proof, body, self._clock())
                if entry is not None:
                    yield entry

    def digest(self, key: str) -> str | None:
        """Return the digest of an entry's encoded value, None if it is absent."""
        rows = self._read(_DIGEST, (key,))
        return str(rows[0][0]) if rows else None

    @property
    def bytes(self) -> int:
        """Bytes held now, by the entries' own count; 0 when the file cannot be read."""
        rows = self._read(_FIGURES)
        return int(rows[0][0]) if rows else 0

    def __len__(self) -> int:
        rows = self._read(_FIGURES)
        return int(rows[0][1]) if rows else 0

    @property
    def trouble(self) -> str | None:
        """Why the file could not be used when it was last tried, None if it could."""
        return self._file.trouble

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        file = self._file
        file.glance()
        idle = file.idle
        try:
            connection = idle.pop() if idle else file.open()
        except IndexError:
            return self._read(statement, values)
        except EverfreshError:
            return []
        try:
            rows = connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            file.failed(connection, error)
            return []
        idle.append(connection)
        return rows

    def _entry(self, key: str, proof: int, body: Any, now: float) -> Entry | None:
        """Return a row as an entry; a damaged row is let go of."""
        if type(body) is not bytes or proof != checksum(key, body):
            self.damaged += 1
            self._forget(key, proof)
            return None
        try:
            packed = read(body)
            value = self._codec.decode(packed.data)
        except Exception:  # whole, but not for this process: another codec, an unknown class
            self.unreadable += 1
            return None
        return unpack(key, packed, value, now, self._wall() - now)

    def _forget(self, key: str, proof: int) -> None:
        """Let a damaged row go, unless it has been replaced meanwhile."""
        with suppress(EverfreshError), self._write() as (connection, shared):
            found = connection.execute(_GET, (key,)).fetchone()
            if found is not None and found[0] == proof:
                shared.remove(key)

    # writing ------------------------------------------------------------------

    def put(self, entry: Entry) -> Sequence[Entry]:
        """Keep an entry in place of the one with its key; return those that went for room.

        Those come without their values. Raises `ValueTooLargeError`, `CodecError` for a value the
        codec does not carry, and `StoreUnavailableError`; nothing has changed then.
        """
        check_size(entry, self.max_bytes)
        now = self._clock()
        to_wall = self._wall() - now
        digest, body = pack(entry, self._codec, to_wall)
        with self._write() as (_, shared):
            shared.insert(entry, digest, checksum(entry.key, body), body)
            gone = shared.make_room(entry.key, self.max_bytes, now, to_wall)
        return [entry if past.key == entry.key else past for past in gone]

    def discard(self, key: str) -> Entry | None:
        """Forget a key; return what was kept. Raises `StoreUnavailableError`."""
        with self._write() as (connection, shared):
            found = connection.execute(_GET, (key,)).fetchone()
            shared.remove(key)
        if found is None or type(found[1]) is not bytes or found[0] != checksum(key, found[1]):
            return None
        return self._entry(key, found[0], found[1], self._clock())

    def clear(self) -> None:
        """Forget every key. Raises `StoreUnavailableError`."""
        with self._write() as (_, shared):
            shared.clear()

    def shrink(self, max_bytes: int) -> Sequence[Entry]:
        """Let the lowest ranks go until this many bytes are left; return them, without values.

        Raises `StoreUnavailableError`.
        """
        now = self._clock()
        with self._write() as (_, shared):
            return shared.make_room("", max_bytes, now, self._wall() - now)

    def cheapest(self, max_bytes: int) -> Sequence[Entry]:
        """Return what `shrink` would let go, without values."""
        over, found = self.bytes - max_bytes, []
        for key, size, cost, hits in self._read(_RANKED) if over > 0 else ():
            if over <= 0:
                break
            found.append(Entry(key, None, bytes=size, cost=cost, hits=hits))
            over -= size
        return found

    def flush(self) -> None:
        """Write down which entries were asked for; forget it if that cannot be done."""
        if self._log:
            with suppress(EverfreshError), self._write():
                pass

    def close(self) -> None:
        """Write down what was asked for and let go of the file; what is kept stays in it."""
        self.flush()
        self._file.close()

    @contextmanager
    def _write(self) -> Iterator[tuple[sqlite3.Connection, Shared]]:
        """Yield a write transaction, in which the accesses so far are written down."""
        with self._file.write() as connection, Shared.of(connection, self._ranking) as shared:
            shared.touch(self._asked_for())
            yield connection, shared

    def _asked_for(self) -> Iterator[str]:
        log = self._log
        if self._process != os.getpid():  # a forked child: its parent writes what it inherited
            self._process = os.getpid()
            log.clear()
        with suppress(IndexError):  # a reader's append to the full log pushed the last one out
            while log:
                yield log.popleft()
