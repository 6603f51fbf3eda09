"""Marks in a database's own history: what a late change may and may not touch."""

from hypothesis import given
from hypothesis import strategies as st

from everfresh.kernel.change import Change
from everfresh.kernel.entry import FRESH, STALE, Entry
from everfresh.kernel.ledger import Fill, Ledger
from everfresh.kernel.mark import HistoryMark, SnapshotMark, meet
from everfresh.kernel.plan import TableSource


def kept(ledger, seen, parent=None):
    fill = Fill("k", [] if parent else [TableSource("t")], seen=seen)
    ledger.start(fill)
    if parent:
        ledger.observe(fill, parent)
    entry = Entry("k", 1, sources=tuple(fill.sources), seen=fill.seen)
    assert ledger.finish(fill, entry)
    return entry


def foreign(sequence, history="a"):
    return Change("t", history=history, sequence=sequence)


def test_a_change_that_was_read_already_touches_nothing_when_it_is_heard_late():
    ledger = Ledger()
    entry = kept(ledger, HistoryMark("outbox", "a", 7))
    assert ledger.apply([foreign(7)]) == []
    assert entry.state == FRESH
    ledger.apply([foreign(8)])
    assert entry.state == STALE


def test_a_change_of_another_history_and_one_of_this_process_touch_it_whatever_the_number():
    for change in (foreign(1, "b"), Change("t", position=1)):
        ledger = Ledger()
        entry = kept(ledger, HistoryMark("outbox", "a", 7))
        ledger.apply([change])
        assert entry.state == STALE


def test_what_is_made_of_others_has_seen_what_all_of_them_had():
    ledger = Ledger()
    seven = kept(ledger, HistoryMark("outbox", "a", 7))
    nine = kept(ledger, HistoryMark("outbox", "a", 9))
    fill = Fill("made")
    ledger.start(fill)
    ledger.observe(fill, nine)
    assert fill.seen == nine.seen
    ledger.observe(fill, seven)
    assert fill.seen == seven.seen
    ledger.observe(fill, kept(ledger, None))
    assert fill.seen is None
    ledger.observe(fill, kept(ledger, HistoryMark("outbox", "a", 9)))
    assert fill.seen is None


def test_a_reader_of_its_own_sources_has_no_mark_from_its_parts_alone():
    ledger = Ledger()
    part = kept(ledger, HistoryMark("outbox", "a", 7))
    fill = Fill("made", [TableSource("u")])
    ledger.start(fill)
    ledger.observe(fill, part)
    assert fill.seen is None


def test_marks_of_two_histories_have_nothing_in_common():
    assert meet(HistoryMark("outbox", "a", 7), HistoryMark("outbox", "b", 7)) is None


def test_a_snapshot_of_another_history_includes_nothing():
    mark = SnapshotMark("outbox", "one", 5, 9, frozenset({6}))
    assert mark.includes(Change("t", history="one", sequence=7))
    assert not mark.includes(Change("t", history="two", sequence=7))
    assert not mark.includes(Change("t", history="one", sequence=6))


@given(st.data())
def test_the_meet_of_snapshots_sees_what_both_see(data):
    def snapshot():
        xmax = data.draw(st.integers(1, 20))
        running = data.draw(st.frozensets(st.integers(1, xmax - 1) if xmax > 1 else st.nothing()))
        return SnapshotMark("outbox", "h", min(running, default=xmax), xmax, running)

    one, other = snapshot(), snapshot()
    both = meet(one, other)
    for number in range(1, 22):
        assert both.sees(number) == (one.sees(number) and other.sees(number))
    assert SnapshotMark.parse("outbox", "h", str(both)) == both
