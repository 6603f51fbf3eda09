"""The in-process store, bounded by bytes; every other store is held to its behaviour."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count

from everfresh.kernel.entry import Entry, Standing
from everfresh.kernel.score import HalfLife, Policy
from everfresh.stores.limits import check_limit, check_size

__all__ = ["MemoryStore"]

_TOUCH_LOG = 4096  # at a half-life of 1,000 touches older ones weigh under 6 %
_GHOSTS = 10_000  # keys whose touches are remembered after they went: some 200 bytes each


class MemoryStore:
    """Keep entries in memory, at most ``max_bytes`` of them; the policy says which go first.

    Writers must hold one lock; readers need none. A hit calls `touched(entry.standing)`, an append
    to a bounded log, which the next `put` turns into ranks: no hit changes an order others read.
    An entry is admitted only if it is worth more than each of those it would push out; the touches
    of what went are remembered, so that what is filled again does not begin at nothing.

    >>> store = MemoryStore(max_bytes=100)
    >>> store.put(Entry("a", "first", bytes=60))
    []
    >>> [gone.key for gone in store.put(Entry("b", "second", bytes=60))]
    ['a']
    """

    def __init__(self, max_bytes: int = 256 << 20, policy: Policy | None = None) -> None:
        check_limit(max_bytes)
        self.max_bytes = max_bytes
        self._policy: Policy = policy or HalfLife()
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._touches = 0
        self._log: deque[Standing] = deque(maxlen=_TOUCH_LOG)
        self._heap: list[tuple[float, int, str, Standing]] = []
        self._order = count()
        self._ghosts: OrderedDict[str, float] = OrderedDict()
        self.touched = self._log.append
        self.get = self._entries.get

    def put(self, entry: Entry) -> Sequence[Entry]:
        """Keep an entry in place of the one with its key; return those that went for room."""
        check_size(entry, self.max_bytes)
        self._rank_touched()
        self.discard(entry.key)
        self._entries[entry.key] = entry
        self._bytes += entry.bytes
        standing = entry.standing
        standing.kept = True
        standing.weight = self._ghosts.pop(entry.key, 0.0)
        self._touch(standing)
        self._push(entry.key, standing)
        return self._make_room(entry) if self._bytes > self.max_bytes else []

    def discard(self, key: str) -> Entry | None:
        """Forget a key; return what was kept."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.bytes
            entry.standing.kept = False
            self._ghosts[key] = entry.standing.weight
            if len(self._ghosts) > _GHOSTS:
                self._ghosts.popitem(last=False)
        return entry

    def clear(self) -> None:
        """Forget everything."""
        for entry in self._entries.values():
            entry.standing.kept = False
        self._entries.clear()
        self._heap.clear()
        self._log.clear()
        self._ghosts.clear()
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

    def _make_room(self, new: Entry) -> list[Entry]:
        victims = self._cheapest(self._bytes - self.max_bytes)
        if new in victims:  # those that are worth less would go for nothing
            for entry in victims:
                self._push(entry.key, entry.standing)
            victims = [new]
        for entry in victims:
            self._policy.evicted(entry.standing)
            self.discard(entry.key)
        return victims

    def _cheapest(self, size: int) -> list[Entry]:
        """Take the entries of the lowest ranks off the heap until they hold this many bytes."""
        found: list[Entry] = []
        while size > 0:
            rank, _, key, standing = heappop(self._heap)
            if not standing.kept:
                continue
            if standing.rank != rank:
                self._push(key, standing)
                continue
            entry = self._entries[key]
            found.append(entry)
            size -= entry.bytes
        return found
