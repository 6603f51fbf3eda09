"""The in-process store, bounded by bytes; every other store is held to its behaviour."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count

from everfresh.errors import ConfigurationError, ValueTooLargeError
from everfresh.kernel.entry import Entry, Standing
from everfresh.kernel.score import HalfLife, Policy

__all__ = ["MemoryStore"]

_TOUCH_LOG = 4096  # at a half-life of 1,000 touches older ones weigh under 6 %


class MemoryStore:
    """Keep entries in memory, at most ``max_bytes`` of them; the policy says which go first.

    Writers must hold one lock; readers need none. A hit calls `touched(entry.standing)`, an append
    to a bounded log, which the next `put` turns into ranks: no hit changes an order others read.

    >>> store = MemoryStore(max_bytes=100)
    >>> store.put(Entry("a", "first", bytes=60))
    []
    >>> [gone.key for gone in store.put(Entry("b", "second", bytes=60))]
    ['a']
    """

    def __init__(self, max_bytes: int = 256 << 20, policy: Policy | None = None) -> None:
        if max_bytes < 1:
            raise ConfigurationError(f"max_bytes must be at least 1 byte, not {max_bytes}")
        self.max_bytes = max_bytes
        self._policy: Policy = policy or HalfLife()
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._touches = 0
        self._log: deque[Standing] = deque(maxlen=_TOUCH_LOG)
        self._heap: list[tuple[float, int, str, Standing]] = []
        self._order = count()
        self.touched = self._log.append
        self.get = self._entries.get

    def put(self, entry: Entry) -> Sequence[Entry]:
        """Keep an entry in place of the one with its key; return those that went for room."""
        if entry.bytes > self.max_bytes:
            raise ValueTooLargeError(
                f"{entry.label or entry.key} takes {entry.bytes:,} bytes, over this store's limit "
                f"of {self.max_bytes:,}: raise max_bytes, or ask for less"
            )
        self._rank_touched()
        self.discard(entry.key)
        self._entries[entry.key] = entry
        self._bytes += entry.bytes
        entry.standing.kept = True
        self._touch(entry.standing)
        self._push(entry.key, entry.standing)
        return self._make_room()

    def discard(self, key: str) -> Entry | None:
        """Forget a key; return what was kept."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.bytes
            entry.standing.kept = False
        return entry

    def clear(self) -> None:
        """Forget everything."""
        for entry in self._entries.values():
            entry.standing.kept = False
        self._entries.clear()
        self._heap.clear()
        self._log.clear()
        self._bytes = 0

    def entries(self) -> Iterable[Entry]:
        """Yield what is kept, as it was when asked."""
        return iter(tuple(self._entries.values()))

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Forget everything; a closed memory store is an empty one."""
        self.clear()

    def score(self, entry: Entry) -> float:
        """Return the entry's rank now: what has the lowest goes first."""
        self._rank_touched()
        return entry.standing.rank

    def _touch(self, standing: Standing) -> None:
        self._touches += 1
        self._policy.touch(standing, self._touches)

    def _rank_touched(self) -> None:
        log = self._log
        while log:
            try:
                standing = log.popleft()
            except IndexError:  # a reader's append to the full log pushed it out first
                return
            if standing.kept:
                self._touch(standing)

    def _push(self, key: str, standing: Standing) -> None:
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [record for record in self._heap if record[3].kept]
            heapify(self._heap)
        heappush(self._heap, (standing.rank, next(self._order), key, standing))

    def _make_room(self) -> list[Entry]:
        gone: list[Entry] = []
        while self._bytes > self.max_bytes:
            rank, _, key, standing = heappop(self._heap)
            if not standing.kept:
                continue
            if standing.rank != rank:
                self._push(key, standing)
                continue
            self._policy.evicted(standing)
            gone.append(self._entries[key])
            self.discard(key)
        return gone
