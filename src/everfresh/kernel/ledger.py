"""The fill protocol as steps: pure, without threads, clock or I/O.

The ledger knows what is kept, what is being computed and what is being committed. Each method is
one atomic step; the engine calls them under its one writers' lock, and
`tests/protocol/test_interleavings.py` enumerates every order of them. The rules are those of
Dogpile-style get-or-create with "delete on write" made safe: a fill is registered with its sources
before it reads, every change is announced before it commits (flux) and a fill that a change touches
in between is void: its caller gets the value, nobody else does (compare the leases of R. Nishtala
et al., "Scaling Memcache at Facebook", NSDI 2013).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from everfresh.kernel.change import Change
from everfresh.kernel.entry import STALE, UNPROVEN, Entry, enter_flux, leave_flux
from everfresh.kernel.index import ChangeIndex
from everfresh.kernel.mark import SeenMark, meet
from everfresh.kernel.plan import Source
from everfresh.kernel.ports import Lease, Mark

__all__ = ["Fill", "Flux", "Ledger"]


@dataclass(slots=True, eq=False)
class Fill:
    """Hold one computation in progress. ``void`` says why its value must not be kept.

    ``recalled`` is the stored entry that it found instead of computing, ``held`` the right to
    compute that it holds over processes, if any.

    ``dependents`` are computations that wait for this one: they use its value, so what voids it
    voids them in the same step, or somebody could join them after the change.
    """

    key: str
    sources: list[Source] = field(default_factory=list)
    parents: dict[Entry, None] = field(default_factory=dict)  # in the order they were read
    lease: Lease | None = None
    mark: Mark | None = None
    seen: SeenMark | None = None
    void: str | None = None
    change: Change | None = None
    recalled: Entry | None = None
    held: object = None
    dependents: list[Fill] = field(default_factory=list)
    done: bool = False


@dataclass(slots=True, eq=False)
class Flux:
    """Hold one commit in progress: what it will change and the entries that wait for its end."""

    changes: Sequence[Change]
    entries: list[Entry] = field(default_factory=list)


class Ledger:
    """Decide what may be kept and what may be served while data changes."""

    def __init__(self) -> None:
        self.running: dict[str, Fill] = {}
        self._index: ChangeIndex = ChangeIndex()
        self._flux: set[Flux] = set()

    # fills ------------------------------------------------------------------

    def start(self, fill: Fill) -> None:
        """Register a fill before it reads anything; void at once if its sources are in flux."""
        self._void_if_in_flux(fill, fill.sources)
        if fill.void is None:
            self.running[fill.key] = fill
            self._index.add(fill, fill.sources)

    def observe(self, fill: Fill, parent: Entry) -> None:
        """Let a running fill depend on the sources of an entry it has just read."""
        if fill.void is not None or fill.done:
            return
        if parent.state < 0:
            self.void(fill, f"{parent.label or parent.key} changed while it was being used")
            return
        if parent in fill.parents:
            return
        alone = not fill.parents and not fill.sources
        fill.seen = parent.seen if alone else meet(fill.seen, parent.seen)
        fill.parents[parent] = None
        fill.sources.extend(parent.sources)
        self._index.discard(fill)
        self._index.add(fill, fill.sources)
        self._void_if_in_flux(fill, parent.sources)

    def finish(self, fill: Fill, entry: Entry | None) -> bool:
        """End a fill; return whether its entry may be kept (it is then listened for)."""
        fill.done = True
        fill.dependents.clear()
        self._index.discard(fill)
        if self.running.get(fill.key) is fill:
            del self.running[fill.key]
        if entry is None or fill.void is not None:
            return False
        self._index.add(entry, entry.sources)
        return True

    def void(self, fill: Fill, reason: str, change: Change | None = None) -> None:
        """Forbid keeping the fill's value; whoever asks from now on starts anew."""
        open_ends = [fill]
        while open_ends:
            voided = open_ends.pop()
            if voided.void is None:
                voided.void, voided.change = reason, change
                open_ends.extend(voided.dependents)
            if self.running.get(voided.key) is voided:
                del self.running[voided.key]

    def _void_if_in_flux(self, fill: Fill, sources: Iterable[Source]) -> None:
        for flux in self._flux:
            for change in flux.changes:
                if any(source.touched_by(change) for source in sources):
                    self.void(fill, "a commit that touches it is in progress", change)
                    return

    # changes ----------------------------------------------------------------

    def begin(self, changes: Sequence[Change]) -> Flux:
        """Put what these changes touch in flux, before they are committed."""
        flux = Flux(tuple(changes))
        touched: set[Entry] = set()
        for item, change in self._touched(changes):
            if isinstance(item, Fill):
                self.void(item, "its source changed while it was being computed", change)
            else:
                touched.add(item)
        for entry in touched:
            enter_flux(entry)
        flux.entries = list(touched)
        self._flux.add(flux)
        return flux

    def end(
        self, flux: Flux, *, committed: bool, changes: Sequence[Change] | None = None
    ) -> list[tuple[Entry, Change]]:
        """Lift a flux; return the entries that its commit made stale, each with what touched it."""
        self._flux.discard(flux)
        for entry in flux.entries:
            leave_flux(entry)
        if not committed:
            return []
        return self.apply(flux.changes if changes is None else changes)

    def apply(self, changes: Sequence[Change], *, lost: bool = False) -> list[tuple[Entry, Change]]:
        """Make stale what these changes touched; return it, each with its first change.

        What was made of parts and has no touched source of its own is unproven instead. ``lost``:
        it is not known what has changed, rather than known that anything has.
        """
        stale: dict[Entry, Change] = {}
        for item, change in self._touched(changes):
            if isinstance(item, Fill):
                self.void(item, "its source changed while it was being computed", change)
            else:
                stale.setdefault(item, change)
        for entry in stale:
            self._index.discard(entry)
            if entry.state >= 0 and entry.upstream and not _own_touched(entry, changes, lost=lost):
                entry.state = UNPROVEN
                self._index.add(entry, entry.own)
            else:
                entry.state = STALE
        return list(stale.items())

    def drop(self, entry: Entry, state: int) -> None:
        """Stop listening for an entry that went for another reason than a change."""
        entry.state = state
        self._index.discard(entry)

    def _touched(self, changes: Iterable[Change]) -> Iterable[tuple[Fill | Entry, Change]]:
        for change in changes:
            for item in self._index.touched(change):
                # heard late: it was computed from what the change had made already
                if item.seen is None or not item.seen.includes(change):
                    yield item, change


def _own_touched(entry: Entry, changes: Iterable[Change], *, lost: bool) -> bool:
    if lost:
        return bool(entry.own)
    return any(
        change.table is None or any(source.touched_by(change) for source in entry.own)
        for change in changes
    )
