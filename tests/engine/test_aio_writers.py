"""Other writers of a SQLite file, and answers that outlive their process, from asyncio."""

import asyncio
import sqlite3
import threading

import pytest

import everfresh
from everfresh.errors import ConfigurationError

from .aio import SQLITE, run

COUNT = "SELECT count(*) AS n FROM flights WHERE month = :m"


@pytest.fixture(params=SQLITE)
def both(request, url):
    return url.replace("sqlite", request.param, 1)


@pytest.fixture
def other(url):
    """Somebody else's connection to the file."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    yield connection
    connection.close()


def test_strict_hears_what_others_committed(both, other):
    async def main():
        async with everfresh.open_async(both, freshness="strict") as cache:
            assert (await cache.sql(COUNT, m=6)).scalar() == 4
            assert (await cache.sql(COUNT, m=6)).receipt.status == "hit"
            other.execute("DELETE FROM flights WHERE month = 6")
            assert (await cache.sql(COUNT, m=6)).scalar() == 0

    run(main())


def test_strict_for_one_question_and_one_function(both, other):
    slow = {"poll_interval": 1000.0, "freshness": everfresh.bounded(1000.0)}

    async def main():
        async with everfresh.open_async(both, **slow) as cache:

            @cache.cached(freshness="strict")
            async def count():
                return (await cache.sql(COUNT, m=6)).scalar()

            assert await count() == 4
            other.execute("DELETE FROM flights WHERE month = 6")
            assert (await cache.sql(COUNT, m=6)).scalar() == 4  # within the bound
            assert await count() == 0
            other.execute("INSERT INTO flights (month) VALUES (6)")
            assert (await cache.using(freshness="strict").sql(COUNT, m=6)).scalar() == 1

    run(main())


def test_looking_at_the_file_never_blocks_the_event_loop(both):
    async def main():
        async with everfresh.open_async(both, freshness="strict") as cache:
            await cache.sql(COUNT, m=6)
            looked, poll = [], cache.blocking.feed.poll
            cache.blocking.feed.poll = lambda *age: (
                looked.append(threading.get_ident()) or poll(*age)
            )
            await cache.sql(COUNT, m=6)
            assert looked
            assert threading.get_ident() not in looked

    run(main())


def test_tracking_is_asked_for_and_ended(both, other):
    async def main():
        async with everfresh.open_async(both, freshness="strict") as cache:
            await cache.track(["flights"])
            assert "flights" in str(await cache.tracking())
            june = await cache.sql(COUNT, m=6)
            await cache.sql(COUNT, m=5)
            other.execute("DELETE FROM flights WHERE month = 5")
            assert (await cache.sql(COUNT, m=5)).scalar() == 0
            assert (await cache.sql(COUNT, m=6)).receipt.status == "hit"  # heard row by row
            assert june.receipt.proof == "session feed, change table"
            await cache.untrack()
        async with everfresh.open_async(both.partition(":")[0] + "://") as memory:
            with pytest.raises(ConfigurationError, match="SQLite file"):
                await memory.track()

    run(main())


def test_answers_outlive_the_cache(both, tmp_path):
    store = f"sqlite:///{tmp_path}/answers.db"

    async def asked():
        async with everfresh.open_async(both, store=store) as cache:
            await cache.track()
            rows = await cache.sql(COUNT, m=6)
            assert rows.scalar() == 4
            return rows.receipt.status, cache.stats().fills

    assert run(asked()) == ("fill", 1)
    assert run(asked()) == ("hit", 0)


def test_what_has_aged_is_made_anew_by_a_task(both):
    now = [0.0]
    aging = {"ttl": 5, "stale_while_revalidate": 10, "clock": lambda: now[0]}

    async def main():
        async with everfresh.open_async(both, freshness=everfresh.ttl(100), **aging) as cache:
            await cache.sql(COUNT, m=6)
            now[0] = 6.0
            assert (await cache.sql(COUNT, m=6)).receipt.status == "hit"
            while cache.stats().fills + cache.stats().refreshes < 2:
                await asyncio.sleep(0)
            assert (await cache.sql(COUNT, m=6)).receipt.age == 0.0

    run(main())
