"""Every interleaving of fill, commit, rollback, invalidate and evict, enumerated.

Each actor is a generator whose steps are atomic in the engine. After every step of every schedule,
whatever may be served must be what the database holds. The last tests take a guard out of the
ledger and see the same enumeration find the fault: the check can fail.
"""

from itertools import combinations_with_replacement
from math import factorial, prod

import pytest

from everfresh.kernel.change import Change
from everfresh.kernel.entry import DROPPED, STALE, UNPROVEN, Entry, Part
from everfresh.kernel.ledger import Fill, Ledger
from everfresh.kernel.mark import HistoryMark
from everfresh.kernel.plan import TableSource

CHANGE = Change("t")


def answer(version):
    """What a query makes of the row: every second change leaves it as it was."""
    return version // 2


class World:
    """One row of one table, one key, one ledger."""

    def __init__(self, ledger=Ledger):
        self.ledger = ledger()
        self.version = 0  # what the database holds, committed
        self.heard = 0  # as far as changes have been told: older must not be served
        self.sequence = self.told = 0  # of what other processes committed
        self.store = {}  # key → entry

    def check(self):
        for entry in self.store.values():
            if entry.usable(0.0):
                floor, top = self.heard, self.version
                if entry.key == "made":
                    floor, top = answer(floor), answer(top)
                assert floor <= entry.value <= top, f"serves {entry.value} of {floor}"

    # actors: a yield is the end of an atomic step ----------------------------

    def fill(self, key="k"):
        fill = Fill(key, [TableSource("t")])
        self.ledger.start(fill)
        yield
        value = self.read(fill)
        yield
        self.publish(fill, Entry(key, value, sources=tuple(fill.sources), seen=fill.seen))
        yield

    def read(self, fill):
        """The query's snapshot, and how much of the history is in it."""
        fill.seen = HistoryMark("outbox", "h", self.sequence)
        return self.version

    def foreign(self):
        """Another process commits; it is heard when it is asked for."""
        self.version += 1
        self.sequence += 1
        yield
        changes = [
            Change("t", history="h", sequence=n) for n in range(self.told + 1, self.sequence + 1)
        ]
        self.ledger.apply(changes)
        self.told, self.heard = self.sequence, self.version
        yield

    def recall(self):
        """A stored answer is taken if the history shows no change since its mark."""
        fill = Fill("k", [TableSource("t")])
        self.ledger.start(fill)
        yield
        own = self.version > self.sequence  # own commits are in the history too
        if self.sequence > 0 or own:
            value = self.read(fill)
        else:
            value, fill.seen = 0, HistoryMark("outbox", "h", 0)
        yield
        self.publish(fill, Entry("k", value, sources=tuple(fill.sources), seen=fill.seen))
        yield

    def cutoff(self):
        """A computation whose kept value is unproven is published anew if its part is the same."""
        fill = Fill("made")
        self.ledger.start(fill)
        yield
        part = self.store.get("k")
        if part is None or not part.usable(0.0):
            yield from self.fill()
            part = self.store.get("k")
        if part is None:
            self.ledger.finish(fill, None)
            return
        self.ledger.observe(fill, part)
        yield
        old, digest = self.store.get("made"), str(answer(part.value))
        same = old is not None and old.state == UNPROVEN and old.upstream[0].digest == digest
        value = old.value if same and fill.void is None else answer(part.value)
        entry = Entry("made", value, sources=tuple(fill.sources), seen=fill.seen)
        entry.upstream = (Part("k", digest, lambda: None),)
        self.publish(fill, entry)
        yield

    def derived(self):
        """A computation that reads a kept answer, then is kept itself."""
        fill = Fill("derived")
        self.ledger.start(fill)
        yield
        parent = self.store.get("k")
        if parent is None or not parent.usable(0.0):
            self.ledger.finish(fill, None)
            return
        value = parent.value
        yield
        self.ledger.observe(fill, parent)
        yield
        self.publish(fill, Entry("derived", value, sources=tuple(fill.sources), seen=fill.seen))
        yield

    def publish(self, fill, entry):
        if self.ledger.finish(fill, entry):
            old = self.store.get(entry.key)
            if old is not None and old.state >= 0:
                self.ledger.drop(old, DROPPED)
            self.store[entry.key] = entry

    def commit(self):
        flux = self.ledger.begin([CHANGE])
        yield
        self.version += 1
        self.heard = self.version
        yield
        self.ledger.end(flux, committed=True)
        yield

    def coarse_commit(self):
        """What is announced is less than what happens: the end says the rest."""
        flux = self.ledger.begin([])
        yield
        # a foreign key's cascade that was found only while draining: told before commit returns
        self.version += 1
        self.ledger.end(flux, committed=True, changes=[CHANGE])
        self.heard = self.version
        yield

    def rollback(self):
        flux = self.ledger.begin([CHANGE])
        yield
        self.ledger.end(flux, committed=False)
        yield

    def invalidate(self):
        running = self.ledger.running.get("k")
        if running is not None:
            self.ledger.void(running, "by hand")
        self.drop("k")
        yield

    def evict(self):
        self.drop("k")
        yield

    def drop(self, key):
        entry = self.store.pop(key, None)
        if entry is not None and entry.state >= 0:
            self.ledger.drop(entry, DROPPED)


STEPS = {
    "fill": 3,
    "derived": 4,
    "commit": 3,
    "coarse_commit": 2,
    "rollback": 2,
    "invalidate": 1,
    "evict": 1,
    "foreign": 2,
    "recall": 3,
    "cutoff": 6,
}


def schedules(counts):
    """Yield every order of the steps of actors that have these many."""
    if not any(counts):
        yield ()
        return
    for actor, left in enumerate(counts):
        if left:
            rest = (*counts[:actor], left - 1, *counts[actor + 1 :])
            for tail in schedules(rest):
                yield (actor, *tail)


def run(names, order, ledger=Ledger, prefilled=True):
    world = World(ledger)
    if prefilled:
        for _ in world.fill():
            pass
    actors = [getattr(world, name)() for name in names]
    for actor in order:
        next(actors[actor], None)
        world.check()
    for actor in actors:
        for _ in actor:
            world.check()
    return world


def enumerate_all(names, **options):
    count = 0
    for order in schedules(tuple(STEPS[name] for name in names)):
        run(names, order, **options)
        count += 1
    return count


def expected(names):
    steps = [STEPS[name] for name in names]
    return factorial(sum(steps)) // prod(map(factorial, steps))


PAIRS = list(combinations_with_replacement(STEPS, 2))
TRIPLES = [
    t
    for t in combinations_with_replacement(STEPS, 3)
    if {"fill", "derived", "recall"} & set(t) and "cutoff" not in t
]
TRIPLES += [  # its six steps make many orders
    ("commit", "commit", "cutoff"),
    ("commit", "foreign", "cutoff"),
    ("evict", "commit", "cutoff"),
    ("foreign", "foreign", "cutoff"),
]


@pytest.mark.parametrize("prefilled", [True, False])
@pytest.mark.parametrize("names", PAIRS + TRIPLES, ids="-".join)
def test_nothing_outdated_may_be_served_in_any_order(names, prefilled):
    assert enumerate_all(names, prefilled=prefilled) == expected(names)


def test_after_a_rollback_what_was_kept_is_served_again():
    for order in schedules((STEPS["rollback"],)):
        world = run(("rollback",), order)
        assert world.store["k"].usable(0.0)


def test_two_commits_at_once_leave_flux_only_when_both_have_ended():
    world = World()
    for _ in world.fill():
        pass
    first, second = world.ledger.begin([CHANGE]), world.ledger.begin([CHANGE])
    world.ledger.end(first, committed=False)
    assert not world.store["k"].usable(0.0)
    world.ledger.end(second, committed=False)
    assert world.store["k"].usable(0.0)


def test_stale_is_absorbing():
    """A rollback that ends after another commit must not make the entry fresh again."""
    world = World()
    for _ in world.fill():
        pass
    entry = world.store["k"]
    first, second = world.ledger.begin([CHANGE]), world.ledger.begin([CHANGE])
    world.ledger.end(first, committed=True)
    world.ledger.end(second, committed=False)
    assert entry.state == STALE


# --- the enumeration finds the fault when a guard is taken out -------------------


class NoVoid(Ledger):
    """A change does not void running fills: the classic stale fill."""

    def void(self, fill, reason, change=None):
        pass


class NoFlux(Ledger):
    """Entries are made stale at the end only; fills may start during a commit."""

    def begin(self, changes):
        flux = super().begin(())
        flux.changes = tuple(changes)
        return flux

    def _void_if_in_flux(self, fill, sources):
        pass


class LeavesFresh(Ledger):
    """The end of a commit forgets to make entries stale."""

    def end(self, flux, *, committed, changes=None):
        return super().end(flux, committed=False, changes=changes)


class NoParents(Ledger):
    """A computation does not depend on what it read."""

    def observe(self, fill, parent):
        pass


class HearsNothingTwice(Ledger):
    """A fill is taken to have seen all that was committed before it was published."""

    def finish(self, fill, entry):
        if entry is not None and entry.seen is not None:
            entry.seen = HistoryMark("outbox", "h", 99)
        return super().finish(fill, entry)


class TrustsParts(Ledger):
    """What is made of parts stays fresh when they change."""

    def apply(self, changes, *, lost=False):
        return [(e, c) for e, c in super().apply(changes, lost=lost) if not self.keep(e)]

    @staticmethod
    def keep(entry):
        if entry.state == UNPROVEN:
            entry.state = 0
            return True
        return False


@pytest.mark.parametrize(
    ("mutant", "names"),
    [
        (NoVoid, ("fill", "commit")),
        (NoFlux, ("fill", "commit")),
        (LeavesFresh, ("fill", "commit")),
        (NoParents, ("derived", "commit")),
        (NoVoid, ("fill", "foreign")),
        (NoVoid, ("recall", "commit")),
        (HearsNothingTwice, ("fill", "foreign")),
        (TrustsParts, ("cutoff", "commit", "commit")),
    ],
)
def test_a_ledger_without_its_guard_is_caught(mutant, names):
    with pytest.raises(AssertionError, match="serves"):
        enumerate_all(names, ledger=mutant)
