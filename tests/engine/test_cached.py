"""cache.cached: keys of calls, dependencies found by themselves, options, bad input."""

import threading

import pytest
import sqlalchemy as sa

import everfresh
from everfresh.errors import ConfigurationError, NotKeptError, UnkeyableError

from .conftest import JUNE, make_flights, write


def test_what_it_reads_is_what_it_depends_on(cache):
    calls = []

    @cache.cached
    def worst(month):
        calls.append(month)
        return max(row.delay for row in cache.sql(JUNE, m=month))

    june, may = worst(6), worst(5)
    assert (worst(6), worst(5), calls) == (june, may, [6, 5])
    write(cache, "UPDATE flights SET arr_delay = 1000 WHERE id = 5")
    assert worst(5) == may
    assert worst(6) > june
    assert calls == [6, 5, 6]
    receipt = worst.receipt(6)
    assert receipt.status == "refresh"
    assert receipt.sources == ("flights WHERE month = 6",)
    assert receipt.parents == (cache.sql(JUNE, m=6).receipt.key,)
    assert "row (5,)" in str(cache.why((worst, 6)))


def test_dependencies_go_through_other_cached_functions(cache):
    @cache.cached
    def inner(month):
        return len(cache.sql(JUNE, m=month))

    @cache.cached
    def outer():
        return inner(5) + inner(6)

    @cache.cached
    def top():
        return outer() * 10

    assert (inner(6), outer(), top()) == (1, 2, 20)
    write(cache, "INSERT INTO flights VALUES (100, 6, 'ZZ', 0)")
    assert (top(), outer()) == (30, 3)
    assert inner.receipt(5).status == "hit"


def test_a_change_between_a_read_and_the_end_is_not_missed(cache):
    """The parent goes stale after it was read: the computation is void."""

    @cache.cached
    def slow():
        n = cache.sql("SELECT count(*) FROM flights").scalar()
        if n == 48:
            write(cache, "DELETE FROM flights WHERE id = 0")
        return n

    assert slow() == 48
    assert slow() == 47
    assert slow.receipt().status in ("fill", "hit")


def test_what_used_a_bypassed_answer_is_not_kept(cache):
    calls = []

    @cache.cached
    def lucky():
        calls.append(1)
        return cache.sql("SELECT random() AS r").scalar()

    lucky()
    lucky()
    assert len(calls) == 2
    with pytest.raises(NotKeptError, match="call it first"):
        lucky.receipt()


def test_what_used_another_cache_is_not_kept(cache, tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    make_flights(engine)
    with everfresh.open(engine) as other:

        @cache.cached
        def both():
            return other.sql("SELECT count(*) FROM flights").scalar()

        assert both() == 48
        write(other, "DELETE FROM flights WHERE id = 1")
        assert both() == 47
    engine.dispose()


def test_depends_on_names_tables_read_in_other_ways(cache):
    @cache.cached(depends_on=["flights"])
    def count():
        with cache.engine.connect() as connection:
            return connection.execute(sa.text("SELECT count(*) FROM flights")).scalar()

    assert count() == 48
    write(cache, "DELETE FROM flights WHERE id = 1")
    assert count() == 47

    @cache.cached(depends_on="nowhere")
    def wrong():
        return 1

    with pytest.raises(ConfigurationError, match="no table 'nowhere'"):
        wrong()


def test_ways_of_passing_the_same_arguments_are_one_call(cache):
    calls = []

    @cache.cached
    def f(a, b=2, *rest, key=None, **more):
        calls.append((a, b, rest, key, more))
        return len(calls)

    assert f(1) == f(1, 2) == f(a=1) == f(b=2, a=1) == f(1, b=2, key=None) == 1
    assert f(1, 2, 3) == 2
    assert f(1, key="x") == 3
    assert f(1, other=1) == 4
    assert f.key(1) == f.key(a=1, b=2)


@pytest.mark.parametrize(
    ("left", "right"), [(1, 1.0), (1, True), (1, "1"), ((1,), (1.0,)), (0.0, -0.0), ([1], (1,))]
)
def test_arguments_of_different_types_are_different_calls(cache, left, right):
    @cache.cached
    def kind(x):
        return repr(x)

    for _ in range(2):
        assert kind(left) == repr(left)
        assert kind(right) == repr(right)


def test_unhashable_arguments_are_keyed_by_content(cache):
    calls = []

    @cache.cached
    def total(numbers, options):
        calls.append(1)
        return sum(numbers)

    assert total([1, 2], {"a": {3}}) == total([1, 2], {"a": {3}}) == 3
    assert total([1, 3], {"a": {3}}) == 4
    assert len(calls) == 2


def test_two_functions_never_share(cache):
    def make(n):
        @cache.cached
        def f(x):
            return x + n

        return f

    one, two = make(1), make(2)
    assert (one(1), two(1)) == (2, 3)
    lists = [[1], [1]]  # equal now, not for ever

    def total(numbers):
        @cache.cached
        def f():
            return id(numbers)

        return f

    assert total(lists[0])() != total(lists[1])()
    captured = [threading.Lock(), threading.Lock()]

    def hold(lock):
        @cache.cached
        def f():
            return id(lock)

        return f

    assert hold(captured[0])() != hold(captured[1])()


def test_values_are_handed_out_by_reference_or_copied_on_request(cache):
    @cache.cached
    def shared():
        return [1]

    @cache.cached(copy=True)
    def copied():
        return [1]

    assert shared() is shared()
    copied().append(2)
    assert copied() == [1]


def test_options_and_misuse(cache):
    with pytest.raises(ConfigurationError, match="generator"):

        @cache.cached
        def numbers():
            yield 1

    with pytest.raises(ConfigurationError, match="ttl"):
        cache.cached(ttl=0)
    with pytest.raises(TypeError):
        cache.cached(wrong=1)

    @cache.cached
    def f(x):
        """Say it."""
        return x

    assert (f.__name__, f.__doc__) == ("f", "Say it.")
    assert f.__wrapped__(3) == 3
    with pytest.raises(UnkeyableError, match="'x'"):
        f(object())
    with pytest.raises(TypeError, match="missing"):
        f()
    with pytest.raises(NotKeptError, match="never called"):
        f.receipt(9)


def test_invalidate_one_call(cache):
    @cache.cached
    def f(x):
        return object()

    one, two = f(1), f(2)
    assert f.invalidate(1) == 1
    assert f.invalidate(1) == 0
    assert f(1) is not one
    assert f(2) is two


def test_what_is_made_of_a_short_lived_answer_lives_no_longer(url):
    now = [0.0]
    with everfresh.open(url, clock=lambda: now[0]) as cache:

        @cache.cached
        def count():
            return cache.using(ttl=5).sql("SELECT count(*) FROM flights").scalar()

        count()
        now[0] = 4.0
        assert count.receipt().status == "fill"
        now[0] = 5.0
        with pytest.raises(NotKeptError):
            count.receipt()


def test_methods_work_when_their_object_can_be_keyed(cache):
    class Report:
        def __init__(self, month):
            self.month = month

        def __everfresh_key__(self):
            return self.month

        @cache.cached
        def size(self):
            return len(cache.sql(JUNE, m=self.month))

    assert Report(6).size() == Report(6).size() == 1
