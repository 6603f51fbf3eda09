"""Scores: what is cheapest to make again per byte goes first; the arithmetic never overflows."""

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everfresh.errors import ConfigurationError
from everfresh.kernel.entry import Standing
from everfresh.kernel.score import Gdsf, HalfLife, Lru, make_policy


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20, unique=True), st.integers(5, 500))
def test_half_life_is_the_formula_in_the_log_domain(touches, half_life):
    policy, standing = HalfLife(half_life), Standing(2.5, 640)
    for n in sorted(touches):
        policy.touch(standing, n)
    plain = sum((1 + log(2) / half_life) ** n for n in touches) * 2.5 / 640
    assert exp(standing.rank) == pytest.approx(plain, rel=1e-9)


def test_ten_million_touches_do_not_overflow():
    policy, standing = HalfLife(half_life=1000), Standing(1.0, 1)
    for n in (1, 1_000_000, 10_000_000):
        policy.touch(standing, n)
    assert standing.rank == pytest.approx(10_000_000 * policy.growth, rel=1e-6)


def test_a_touch_is_worth_half_after_a_half_life():
    policy, early, late = HalfLife(half_life=100_000), Standing(1.0, 1), Standing(1.0, 1)
    policy.touch(early, 1)
    policy.touch(late, 100_001)
    assert exp(late.rank - early.rank) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("policy", [HalfLife(), Gdsf(), Lru()])
def test_no_cost_and_no_bytes_are_no_error(policy):
    standing = Standing()
    policy.touch(standing, 1)
    assert standing.rank == standing.rank


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10)), max_size=60))
def test_ranks_only_grow(touches):
    for name in ("half_life", "gdsf", "lru"):
        policy, standings = make_policy(name, 10), [Standing(0.5, 10) for _ in range(4)]
        for n, (which, _) in enumerate(touches, 1):
            before = standings[which].rank if standings[which].weight or n else float("-inf")
            touched_before = standings[which].weight != 0
            policy.touch(standings[which], n)
            if touched_before:
                assert standings[which].rank >= before
            if n % 7 == 0:
                policy.evicted(standings[which])


def test_an_unknown_policy_names_those_there_are():
    with pytest.raises(ConfigurationError, match="half_life, gdsf, lru"):
        make_policy("fifo")
    with pytest.raises(ConfigurationError, match="above 0"):
        make_policy("half_life", 0)
