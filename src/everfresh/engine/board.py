"""The shared state of a cache and the steps that change it, each under one lock.

What is kept, what is running and what is in flux are decided by `kernel.ledger`; the board adds
the store, the shortcuts of the hit path, the memory of what went, and the counters. It is the
listener of the change feeds. Hits look into shortcuts and at an entry's state, and take no lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

from everfresh.catalogue.recorder import Recorder
from everfresh.engine.receipts import describe_change
from everfresh.engine.request import Request
from everfresh.engine.stats import Counters, Stats, figures
from everfresh.errors import ClosedError, ValueTooLargeError
from everfresh.kernel.change import Change
from everfresh.kernel.entry import DROPPED, UNPROVEN, Entry, Past
from everfresh.kernel.ledger import Fill, Flux, Ledger
from everfresh.kernel.ports import Clock, Mark
from everfresh.leases.local import LocalLease, LocalLeases
from everfresh.stores.memory import MemoryStore

__all__ = ["Board"]

_HISTORY = 10_000  # entries that went and are remembered: a few hundred bytes each
_LABEL = 500  # characters of the statement that are remembered
_SHORTCUTS = 8  # ways of asking for one entry that are kept as shortcuts


class Board:
    """Hold what a cache knows; every method is one atomic step."""

    def __init__(self, store: MemoryStore, mark: Callable[[], Mark], clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.counters = Counters()
        self.closed = False
        self.recorder: Recorder | None = None
        self._mark = mark
        self._lock = Lock()
        self._ledger = Ledger()
        self._history: OrderedDict[str, Past] = OrderedDict()
        self._leases = LocalLeases()

    # fills ------------------------------------------------------------------

    def claim(
        self, request: Request, mine: frozenset[LocalLease], outer: Fill | None = None
    ) -> Entry | Fill | LocalLease:
        """Return the kept entry, or the right to fill, or the lease of who is filling already.

        ``mine`` are the leases the caller holds: it never waits for one that waits for them.
        ``outer`` is the computation that asks: from here on it depends on what it gets.
        """
        with self._lock:
            self.check_open()
            entry = self.store.get(request.key)
            if entry is not None and request.takes(entry, self.clock()):
                self._add_shortcut(entry, request)
                if outer is not None:
                    self._depend(outer, entry)
                return entry
            running = self._ledger.running.get(request.key)
            lease = running.lease if running is not None else None
            if isinstance(lease, LocalLease):
                if request.alone:
                    return self._solitary(request, outer)
                if lease.leads_to(mine):
                    return self._solitary(request, outer)
                if outer is not None and running is not None:
                    running.dependents.append(outer)
                for held in mine:
                    held.waits_for.append(lease)
                lease.join()  # under the lock: the fill cannot end before
                return lease
            return self._start(request, outer)

    def _depend(self, outer: Fill, entry: Entry) -> None:
        self._ledger.observe(outer, entry)

    def _start(self, request: Request, outer: Fill | None) -> Fill:
        fill = Fill(request.key, list(request.sources), lease=self._leases.issue(request.key))
        fill.mark = self._mark()
        request.fill = fill
        if request.current is not None and not request.current():
            fill.void = "the schema of the database changed meanwhile"
        else:
            self._ledger.start(fill)
        self._hold(outer, fill)
        return fill

    def _solitary(self, request: Request, outer: Fill | None) -> Fill:
        lease = self._leases.issue(request.key)
        fill = Fill(request.key, lease=lease, void="two computations would wait for each other")
        request.fill = fill
        self._hold(outer, fill)
        return fill

    def _hold(self, outer: Fill | None, inner: Fill) -> None:
        if outer is None:
            return
        inner.dependents.append(outer)
        if inner.void is not None:
            self._ledger.void(outer, f"it used an answer that was not kept: {inner.void}")

    def observe(self, fill: Fill, parent: Entry | None, reason: str) -> None:
        """Let a running fill depend on an entry it read; without one it is not kept."""
        with self._lock:
            if parent is None:
                self._ledger.void(fill, reason)
            else:
                self._ledger.observe(fill, parent)

    def publish(self, fill: Fill, entry: Entry, request: Request) -> str | None:
        """Keep the entry of a fill; return why it was not kept, None if it was."""
        keep = not entry.error or request.keep_errors is not None
        with self._lock:
            self.counters.errors += entry.error
            if not self._ledger.finish(fill, entry if keep and not self.closed else None):
                entry.state = DROPPED
                self.counters.voided += fill.void is not None
                return fill.void or (
                    "the cache was closed" if self.closed else "errors are not kept"
                )
            try:
                self._store(entry)
            except ValueTooLargeError as error:
                self._ledger.drop(entry, DROPPED)
                return str(error)
            if entry.state == DROPPED:
                return "everything kept is worth more per byte"
            self._add_shortcut(entry, request)
            if fill.recalled is not None:
                entry.origin, entry.reason = fill.recalled.origin, fill.recalled.reason
                self.counters.cutoffs += fill.recalled.known
                self.counters.recalled += not fill.recalled.known
            else:
                self._describe_origin(entry, self._history.get(entry.key))
            if self.recorder is not None:
                self.recorder.filled(entry, entry.origin)
        return None

    def filling(self, key: str) -> bool:
        """Whether this key is being computed now."""
        with self._lock:
            return key in self._ledger.running

    def waited(self, mine: frozenset[LocalLease], lease: LocalLease) -> None:
        """Note that the holder of these leases waits no longer for that one."""
        with self._lock:
            for held in mine:
                held.waits_for.remove(lease)

    def abandon(self, fill: Fill) -> None:
        """End a fill that has no answer."""
        with self._lock:
            self._ledger.finish(fill, None)

    def _store(self, entry: Entry) -> None:
        old = self.store.get(entry.key)
        evicted = self.store.put(entry)
        if old is not None:
            self._retire(old, "it ran out", None)
        for gone in evicted:
            self._retire(gone, "it was evicted for room", None)
        self.counters.evicted += len(evicted)

    def _describe_origin(self, entry: Entry, past: Past | None) -> None:
        if past is None:
            entry.origin, entry.reason = "fill", "asked for the first time"
            self.counters.fills += 1
            return
        cause = describe_change(past.change) if past.change is not None else past.reason
        entry.origin, entry.reason = "refresh", f"the earlier answer was outdated by {cause}"
        if past.change is None:
            entry.reason = f"the earlier answer had gone: {past.reason}"
        self.counters.refreshes += 1

    # changes: the listener of the feeds ---------------------------------------

    def begin(self, changes: Sequence[Change]) -> Flux:
        """Put what these changes touch in flux, before they are committed."""
        with self._lock:
            return self._ledger.begin(changes)

    def end(
        self, token: object, *, committed: bool, changes: Sequence[Change] | None = None
    ) -> None:
        """Lift a flux; what its commit touched is stale from here on."""
        assert isinstance(token, Flux)  # noqa: S101 - only `begin` makes tokens
        with self._lock:
            self._make_stale(self._ledger.end(token, committed=committed, changes=changes))

    def lost(self, reason: str) -> None:
        """Make everything stale: the feed cannot say what has changed."""
        with self._lock:
            self._make_stale(self._ledger.apply([Change(None)], lost=True), reason)

    def _make_stale(self, touched: Iterable[tuple[Entry, Change]], reason: str = "") -> None:
        for entry, change in touched:
            if self.store.get(entry.key) is entry and entry.state != UNPROVEN:
                self.store.discard(entry.key)
            if entry.known:
                continue  # it was unproven before
            entry.known = True
            self._remember(entry, reason or describe_change(change), change)
            self.counters.invalidated += 1

    # forgetting ---------------------------------------------------------------

    def invalidate(self, keys: Iterable[str], reason: str = "it was invalidated by hand") -> int:
        """Drop the entries with these keys and void what is computing them; return how many."""
        count = 0
        with self._lock:
            for key in keys:
                fill = self._ledger.running.get(key)
                if fill is not None:
                    self._ledger.void(fill, reason)
                entry = self.store.discard(key)
                if entry is not None:
                    self._retire(entry, reason, None)
                    count += 1
        return count

    def drop(self, entries: Iterable[Entry], reason: str) -> int:
        """Let go of those of these entries that are still kept; return how many.

        Unlike `invalidate` it leaves alone what is being computed under their keys.
        """
        with self._lock:
            kept = [entry for entry in entries if self.store.get(entry.key) is entry]
            for entry in kept:
                self.store.discard(entry.key)
                self._retire(entry, reason, None)
        return len(kept)

    def apply(self, changes: Sequence[Change]) -> int:
        """Take changes for committed; return how many entries they touched."""
        with self._lock:
            touched = self._ledger.apply(changes)
            self._make_stale(touched)
        return len(touched)

    def touches(self) -> list[tuple[str, int, float]]:
        """Return key, hits and rank of what is kept."""
        with self._lock:
            return [(e.key, e.hits, e.standing.rank) for e in self.store.entries()]

    def close(self, *, stored: bool = False) -> None:
        """Refuse every request from now on and let go of what is kept, unless it is ``stored``."""
        with self._lock:
            self.closed = True
            if stored:
                self.recorder = None
            for entry in self.store.entries():
                self._retire(entry, "the cache was closed", None)
            self.store.close()

    def check_open(self) -> None:
        """Raise `ClosedError` if the cache was closed."""
        if self.closed:
            raise ClosedError("this cache was closed: open another with everfresh.open(…)")

    def _retire(self, entry: Entry, reason: str, change: Change | None) -> None:
        self._ledger.drop(entry, DROPPED)
        if not entry.known:  # it is remembered already for what made it unproven
            self._remember(entry, reason, change)

    def _remember(self, entry: Entry, reason: str, change: Change | None) -> None:
        for shortcuts, probe in entry.shortcuts:
            if shortcuts.get(probe) is entry:
                del shortcuts[probe]
        entry.shortcuts.clear()
        self.counters.retired_hits += entry.hits
        self.counters.retired_seconds_saved += entry.hits * entry.cost
        before = self._history.pop(entry.key, None)
        past = self._history[entry.key] = Past(
            key=entry.key,
            kind=entry.kind,
            label=entry.label[:_LABEL],
            reason=reason,
            change=change,
            at=self.clock(),
            cost=entry.cost,
            hits=entry.hits + (before.hits if before else 0),
            fills=1 + (before.fills if before else 0),
        )
        if self.recorder is not None:
            self.recorder.gone(past)
        if len(self._history) > _HISTORY:
            self._history.popitem(last=False)

    def _add_shortcut(self, entry: Entry, request: Request) -> None:
        shortcuts, probe = request.shortcuts, request.probe
        if shortcuts is not None and probe is not None and len(entry.shortcuts) < _SHORTCUTS:
            entry.shortcuts.append((shortcuts, probe))
            shortcuts[probe] = entry

    def shorten(self, entry: Entry, shortcuts: dict[object, Entry], probe: object) -> None:
        """Let a hit path find an entry that is still kept."""
        with self._lock:
            kept = self.store.get(entry.key) is entry
            if kept and shortcuts.get(probe) is not entry and len(entry.shortcuts) < _SHORTCUTS:
                entry.shortcuts.append((shortcuts, probe))
                shortcuts[probe] = entry

    # looking ------------------------------------------------------------------

    def peek(self, key: str) -> Entry | None:
        """Return the entry a reader may be given now, without counting it as asked for."""
        with self._lock:
            entry = self.store.get(key)
            return entry if entry is not None and entry.usable(self.clock()) else None

    def unproven(self, key: str) -> Entry | None:
        """Return what is kept under a key although its parts have changed."""
        with self._lock:
            entry = self.store.get(key)
            return entry if entry is not None and entry.state == UNPROVEN else None

    def past(self, key: str) -> Past | None:
        """Return what is remembered of an entry that went."""
        with self._lock:
            return self._history.get(key)

    def entries(self) -> list[Entry]:
        """Return what is kept now and may serve."""
        with self._lock:
            return [entry for entry in self.store.entries() if entry.state >= 0]

    def stats(self) -> Stats:
        """Return the figures since the cache was opened."""
        with self._lock:
            return figures(self.counters, list(self.store.entries()), self.store.max_bytes)
