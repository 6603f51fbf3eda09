"""What surfaces that go by age ask of the engine."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

import everfresh
from everfresh.engine.request import Request
from everfresh.engine.timed import timed
from everfresh.settings import Settings


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def fills(now):
    return timed(Settings(clock=lambda: now[0]))


def asked(max_age=None):
    return Request("k", "value", "k", max_age=max_age)


def test_whoever_asks_says_how_old_an_answer_may_be(fills, now):
    fills.answer(asked(), lambda: "old")
    now[0] = 5.0
    assert fills.answer(asked(6.0), lambda: "new").value() == "old"
    assert fills.answer(asked(), lambda: "new").value() == "old"
    assert fills.answer(asked(5.0), lambda: "new").value() == "new"
    assert fills.answer(asked(0.1), lambda: "newer").status == "hit"


def test_dropping_an_entry_leaves_its_successor_and_its_refill_alone(fills):
    fills.answer(asked(), lambda: "old")
    [old] = fills.board.entries()
    reached, opened = Event(), Event()

    def slow():
        reached.set()
        assert opened.wait(10)
        return "new"

    with ThreadPoolExecutor(1) as pool:
        refill = pool.submit(fills.answer, asked(0.0), slow)
        assert reached.wait(10)
        assert fills.board.drop([old], "it ran out") == 1
        assert fills.board.entries() == []
        opened.set()
        assert refill.result(10).status == "refresh"
    assert fills.board.drop([old], "it ran out") == 0
    assert fills.answer(asked(), lambda: "newer").value() == "new"


def test_an_answer_made_of_others_is_kept_and_taints_whoever_needs_changes_heard(fills, url):
    with everfresh.open(url) as cache:

        def count():
            return cache.sql("SELECT count(*) FROM flights").scalar()

        @cache.cached
        def outer():
            return fills.answer(asked(), count).value()

        assert outer() == 48
        assert fills.answer(asked(), count).status == "hit"
        assert cache.stats().bypasses
