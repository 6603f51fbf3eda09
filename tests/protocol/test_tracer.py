"""The tracer: a PostgreSQL fill, a materialised query's fill and a task's call, one set of Protocols.

Toys on purpose: each brings its own way to compute and its own mark, and all go through the same
Entry, Mark, Change, Lease and Store, with the ledger deciding.
"""

from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from everfresh.kernel.change import Change
from everfresh.kernel.entry import Entry
from everfresh.kernel.keys import digest
from everfresh.kernel.ledger import Fill, Ledger
from everfresh.kernel.plan import TableSource
from everfresh.kernel.ports import Mark, Store
from everfresh.leases.local import LocalLeases
from everfresh.stores.memory import MemoryStore


@dataclass(frozen=True)
class SnapshotMark:
    """What a PostgreSQL reader had seen: transactions its snapshot shows."""

    feed: str
    position: int  # xmax
    running: frozenset[int] = frozenset()

    def includes(self, change):
        return change.position < self.position and change.position not in self.running


@dataclass(frozen=True)
class CodeMark:
    """What a task's call was made with: the version of its code."""

    feed: str
    position: int

    def includes(self, change):
        return change.position <= self.position


class Engine:
    """The smallest thing that fills: claims, computes, publishes."""

    def __init__(self):
        self.ledger, self.store, self.leases = Ledger(), MemoryStore(), LocalLeases()

    def fill(self, key, sources, mark, compute):
        kept = self.store.get(key)
        if kept is not None and kept.usable(0.0):
            return kept
        fill = Fill(key, list(sources), lease=self.leases.issue(key), mark=mark)
        self.ledger.start(fill)
        entry = Entry(key, compute(), sources=tuple(sources), mark=mark, bytes=100)
        if self.ledger.finish(fill, entry):
            self.store.put(entry)
        fill.lease.release()
        return entry

    def change(self, change):
        for entry, _ in self.ledger.apply([change]):
            self.store.discard(entry.key)


@pytest.fixture
def connection(postgres_url):
    engine = sa.create_engine(postgres_url)
    with engine.connect() as opened:
        opened.execute(sa.text("CREATE TEMP TABLE flights (month INTEGER, delay FLOAT)"))
        opened.execute(sa.text("INSERT INTO flights VALUES (6, 10), (6, 20)"))
        yield opened
    engine.dispose()


def snapshot(connection):
    text = connection.execute(sa.text("SELECT pg_current_snapshot()::text")).scalar()
    _, top, running = text.split(":")
    return SnapshotMark("outbox", int(top), frozenset(map(int, filter(None, running.split(",")))))


def test_three_kinds_of_fill_fit_the_same_protocols(connection):
    engine = Engine()
    assert isinstance(engine.store, Store)
    flights = TableSource("public.flights")
    code = TableSource("code:report")

    def average():
        return connection.execute(sa.text("SELECT avg(delay) FROM flights")).scalar()

    def materialise():
        connection.execute(sa.text("DROP TABLE IF EXISTS stored"))
        connection.execute(sa.text("CREATE TEMP TABLE stored AS SELECT * FROM flights"))
        return "stored"

    keys = [digest(kind, name="delay") for kind in ("sql", "query", "task")]
    query = engine.fill(keys[0], [flights], snapshot(connection), average)
    table = engine.fill(keys[1], [flights], snapshot(connection), materialise)
    # the task read the query's answer: it depends on what that depends on, and on its own code
    call = engine.fill(
        keys[2], [code, *query.sources], CodeMark("code", 1), lambda: f"{query.value} minutes"
    )
    assert (query.value, table.value, call.value) == (15.0, "stored", "15.0 minutes")
    assert all(isinstance(entry.mark, Mark) for entry in (query, table, call))
    assert len(engine.store) == 3

    xid = int(connection.execute(sa.text("SELECT pg_current_xact_id()::text")).scalar())
    connection.execute(sa.text("INSERT INTO flights VALUES (6, 30)"))
    committed = Change("public.flights", new={"month": 6}, position=xid)
    assert not snapshot(connection).includes(Change("public.flights", position=xid + 1))
    engine.change(committed)
    assert len(engine.store) == 0
    assert engine.fill(keys[0], [flights], snapshot(connection), average).value == 20.0

    engine.fill(keys[2], [code], CodeMark("code", 1), lambda: "old code")
    engine.change(Change("code:report", position=2))
    assert engine.fill(keys[2], [code], CodeMark("code", 2), lambda: "new code").value == "new code"
    assert CodeMark("code", 2).includes(Change("code:report", position=2))


def test_a_lease_has_a_key_and_a_growing_token():
    leases = LocalLeases()
    first, second = leases.issue("k"), leases.issue("k")
    assert first.key == "k"
    assert second.token > first.token
    waited = first.join()
    first.release()
    first.release()
    assert waited.result() is None
