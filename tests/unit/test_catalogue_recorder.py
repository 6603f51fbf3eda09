"""What is written behind the answers, in how many statements, and what nobody waits for."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest
import sqlalchemy as sa

from everfresh.catalogue import Catalogue, Pace, Recorder, audits, entry, listed, totals
from everfresh.kernel.change import Change
from everfresh.kernel.entry import Entry, Past
from everfresh.kernel.plan import TableSource
from everfresh.stores.codec import MessagePackCodec

SLOW = Pace(interval=3600, batch=10**9)


class Request:
    def __init__(self, detail):
        self.detail = detail


class JuneSource(TableSource):
    def __str__(self):
        return f"{self.table} WHERE month = 6"


@pytest.fixture
def kept():
    return []


@pytest.fixture
def recorder(catalogue, kept):
    made = Recorder(
        catalogue,
        lambda: [(e.key, e.hits, e.standing.rank) for e in kept],
        database="db1",
        pace=SLOW,
        clock=lambda: 100.0,
        wall=lambda: 5000.0,
    )
    yield made
    made.close()


def past(key, hits=0, change=None, reason="evicted", at=100.0):
    return Past(key, "sql", "L", reason, change, at, 1.0, hits, 1)


def counted(catalogue):
    seen = []
    sa.event.listen(catalogue.engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    return seen


def test_a_fill_and_all_that_is_known_of_it(catalogue, recorder):
    filled = Entry(
        "k",
        object(),
        kind="sql",
        label="SELECT\0 'é'\ud800",
        sources=(JuneSource("main.flights"), TableSource("main.planes"), TableSource(None)),
        filled_at=90.0,
        cost=0.5,
        bytes=300,
        deadline=120.0,
        parents=("p1",),
        reason="asked for the first time",
        request=Request({"m": 6}),
    )
    filled.standing.rank = 3.5
    recorder.filled(filled, "fill", digest="ab12")
    assert recorder.flush()
    found = entry(catalogue, "k")
    assert (found.kind, found.label, found.database) == ("sql", "SELECT\ufffd 'é'?", "db1")
    assert (found.filled_at, found.deadline, found.updated_at) == (4990.0, 5020.0, 4990.0)
    assert (found.cost, found.bytes, found.digest, found.score) == (0.5, 300, "ab12", 3.5)
    assert (found.state, found.origin, found.reason) == ("fresh", "fill", filled.reason)
    assert (found.hits, found.fills, found.change) == (0, 1, None)
    assert MessagePackCodec().decode(found.detail) == {"m": 6}
    assert [(d.table_name, d.condition, d.parent) for d in found.dependencies] == [
        ("main.flights", "month = 6", None),
        ("main.planes", "", None),
        (None, "", None),
        (None, "", "p1"),
    ]


def test_a_request_that_is_no_plain_data_is_left_out(catalogue, recorder):
    recorder.filled(Entry("k", 1, request=Request(object())), "fill")
    recorder.flush()
    assert entry(catalogue, "k").detail is None


def test_stale_dropped_and_filled_again(catalogue, recorder):
    change = Change("main.flights", key=(7,))
    recorder.filled(Entry("k", 1, sources=(TableSource("main.a"),)), "fill")
    recorder.gone(past("k", change=change, reason="UPDATE of flights 7", at=101.0))
    recorder.flush()
    found = entry(catalogue, "k")
    assert (found.state, found.reason) == ("stale", "UPDATE of flights 7")
    assert (found.change, found.updated_at) == ("main.flights 7", 5001.0)
    recorder.filled(Entry("k", 1, sources=(TableSource("main.b"),)), "refresh")
    recorder.flush()
    found = entry(catalogue, "k")
    assert (found.state, found.origin, found.fills) == ("fresh", "refresh", 2)
    assert found.change == "main.flights 7"  # what made it stale last
    assert [d.table_name for d in found.dependencies] == ["main.b"]
    recorder.gone(past("k", reason="it was evicted for room"))
    recorder.flush()
    found = entry(catalogue, "k")
    assert (found.state, found.reason) == ("dropped", "it was evicted for room")


def test_in_one_batch_the_last_says_what_is(catalogue, recorder):
    for _ in range(3):
        recorder.filled(Entry("k", 1), "fill")
        recorder.gone(past("k", change=Change(None)))
    recorder.filled(Entry("k", 1), "refresh")
    recorder.flush()
    found = entry(catalogue, "k")
    assert (found.state, found.fills, found.change) == ("fresh", 4, "the whole database")


def test_hits_are_gathered_and_counted_once(catalogue, recorder, kept):
    one = Entry("k", 1)
    kept.append(one)
    recorder.filled(one, "fill")
    one.hits = 5
    recorder.flush()
    recorder.flush()
    assert entry(catalogue, "k").hits == 5
    one.hits = 7
    kept.clear()
    recorder.gone(past("k", hits=7, change=Change(None)))
    two = Entry("k", 2)
    two.hits = 2
    kept.append(two)
    recorder.filled(two, "refresh")
    recorder.flush()
    assert entry(catalogue, "k").hits == 9
    recorder.gone(past("k", hits=10))
    kept.clear()
    recorder.flush()
    assert entry(catalogue, "k").hits == 10
    recorder.gone(past("k", hits=1))  # the history before was forgotten: it counts from 0
    recorder.flush()
    assert entry(catalogue, "k").hits == 11


def test_a_batch_takes_a_constant_number_of_statements(catalogue, recorder, kept):
    catalogue.check()
    taken = []
    for count in (1, 400):
        seen = counted(catalogue)
        kept.clear()
        for n in range(count):
            filled = Entry(f"{count}-{n}", 1, sources=(TableSource("main.t"),), parents=("p",))
            filled.hits = 3
            kept.append(filled)
            recorder.filled(filled, "fill")
            recorder.gone(past(f"other {count}-{n}"))
        recorder.audited(5, 0)
        recorder.flush()
        taken.append([text.split()[0] for text in seen if not text.startswith("BEGIN")])
    verbs = ["INSERT", "DELETE", "INSERT", "UPDATE", "UPDATE", "INSERT"]
    assert taken == [verbs, verbs]
    assert totals(catalogue).hits == 3 * 401
    assert [(a.at, a.checked) for a in audits(catalogue)] == [(5000.0, 5)] * 2


def test_hits_alone_are_one_statement(catalogue, recorder, kept):
    for n in range(100):
        kept.append(Entry(f"k{n}", 1))
        recorder.filled(kept[-1], "fill")
    recorder.flush()
    for one in kept:
        one.hits = 4
        one.standing.rank = 8.5
    seen = counted(catalogue)
    recorder.flush()
    assert len([text for text in seen if not text.startswith("BEGIN")]) == 1
    assert totals(catalogue).hits == 400
    assert entry(catalogue, "k5").score == 8.5


def test_the_thread_writes_by_itself_and_no_value_is_kept_alive(catalogue):
    class Value:
        pass

    written = threading.Event()
    sa.event.listen(catalogue.engine, "commit", lambda connection: written.set())
    catalogue.check()
    written.clear()
    recorder = Recorder(catalogue, pace=Pace(interval=3600, batch=3))
    value = Value()
    alive = weakref.ref(value)
    recorder.filled(Entry("a", value), "fill")
    del value
    gc.collect()
    assert alive() is None
    assert not written.is_set()
    for key in "bcd":
        recorder.filled(Entry(key, 1), "fill")
    assert written.wait(10)
    recorder.close()
    assert len(listed(catalogue)) == 4


def test_closing_writes_and_nothing_is_noted_after(catalogue):
    recorder = Recorder(catalogue, pace=SLOW)
    recorder.filled(Entry("a", 1), "fill")
    recorder.close()
    recorder.close()
    assert entry(catalogue, "a") is not None
    assert not any(thread.name == "everfresh-recorder" for thread in threading.enumerate())


def test_hits_that_cannot_be_counted_stop_nothing(catalogue, caplog):
    recorder = Recorder(catalogue, lambda: 1 / 0, pace=SLOW)
    recorder.filled(Entry("a", 1), "fill")
    assert recorder.flush()
    recorder.close()
    assert entry(catalogue, "a") is not None
    assert "hits could not be counted" in caplog.text


def test_what_is_noted_last_is_written_when_the_interpreter_ends(tmp_path):
    url = f"sqlite:///{tmp_path}/catalogue.db"
    code = (
        "import sys; from everfresh.catalogue import Catalogue, Recorder, Pace\n"
        "from everfresh.kernel.entry import Entry\n"
        "r = Recorder(Catalogue(sys.argv[1]), pace=Pace(interval=3600))\n"
        "r.filled(Entry('k', 1), 'fill')"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
    assert done.stderr == ""
    with Catalogue(url) as catalogue:
        assert entry(catalogue, "k") is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_writes_what_is_its_own(catalogue, recorder):
    recorder.filled(Entry("parent", 1), "fill")
    catalogue.check()
    pool = catalogue.engine.pool
    child = os.fork()
    if child == 0:
        code = 1
        try:
            recorder.filled(Entry("child", 1), "fill")
            own = catalogue.engine.pool is not pool
            code = 0 if recorder.flush() and own and recorder.dropped == 0 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert [row.key for row in listed(catalogue)] == ["child"]
    recorder.flush()
    assert sorted(row.key for row in listed(catalogue)) == ["child", "parent"]
