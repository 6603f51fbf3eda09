"""Reads, adjusts, refreshes, commits, cancellations and errors in any order, against an oracle.

The event loop is driven by hand. Every query of the table stops before it reads and after it has
read, until the machine lets it go on, fails it or cancels the task it is in. The oracle keeps the
history of every row: what a read returned must have been true at some moment after it started.
"""

import asyncio
import os

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import everfresh
from everfresh.errors import AbortedError
from everfresh.tables import (
    AttributeIndexes,
    ByAttributes,
    CachedTable,
    PrimaryKeyIndexes,
    SqlAlchemyAccess,
    cached_table,
)
from everfresh.tables.local import LocalStorageTable
from everfresh.tables.local import table as local_table
from surfaces.tables import Plain, Source

LAST = 4
KEYS = st.integers(1, LAST)
SOME = st.sets(KEYS, max_size=LAST)
VALUES = st.integers(0, 3)
SOAK = bool(os.environ.get("EVERFRESH_SOAK"))
SETTINGS = settings(
    max_examples=3000 if SOAK else 100,
    stateful_step_count=60 if SOAK else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class History:
    """Remember what every row was, and since when."""

    def __init__(self):
        self.now = 0
        self.states = {key: [(0, None)] for key in range(1, LAST + 1)}

    def write(self, key, value):
        self.now += 1
        self.states[key].append((self.now, value))

    def at(self, key):
        return self.states[key][-1][1]

    def since(self, key, start):
        """Return the values a row had from a moment on."""
        before = [value for at, value in self.states[key] if at <= start][-1:]
        return before + [value for at, value in self.states[key] if at > start]


class Query:
    """One stop of a query."""

    def __init__(self, loop):
        self.go = loop.create_future()


class Machine(RuleBasedStateMachine):
    """What both machines share."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.history = History()
        self.stops = []
        self.tasks = []
        self.checked = 0

    # -- the loop

    async def stop(self):
        query = Query(self.loop)
        self.stops.append(query)
        try:
            await query.go
        finally:
            if query in self.stops:
                self.stops.remove(query)

    def settle(self):
        async def turns():
            for _ in range(60):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        self.collect()

    def start(self, call, check=None):
        task = self.loop.create_task(call)
        self.tasks.append((task, check, self.history.now))
        self.settle()

    def collect(self):
        for entry in list(self.tasks):
            task, check, start = entry
            if not task.done():
                continue
            self.tasks.remove(entry)
            if task.cancelled():
                continue
            error = task.exception()
            if error is not None:
                assert isinstance(error, (ConnectionError, AbortedError)), repr(error)
            elif check is not None:
                check(task.result(), start)
                self.checked += 1

    # -- what a read must have returned

    def check_keys(self, keys):
        def check(found, start):
            seen = {record["id"]: record["v"] for record in found}
            assert len(seen) == len(found), "a row came twice"
            assert seen.keys() <= set(keys)
            for key in keys:
                allowed = self.allowed(key, start)
                assert seen.get(key) in allowed, (key, seen.get(key), allowed)

        return check

    def check_range(self, low, high):
        def check(found, start):
            seen = {record["id"]: record["v"] for record in found}
            assert len(seen) == len(found), "a row came twice"
            for key in range(1, LAST + 1):
                allowed = self.allowed(key, start)
                inside = [v is not None and low <= v < high for v in allowed]
                if key in seen:
                    assert seen[key] in allowed, (key, seen[key], allowed)
                    assert low <= seen[key] < high
                else:
                    assert not all(inside), (key, allowed)

        return check

    def allowed(self, key, start):
        return self.history.since(key, start)

    # -- rules

    @precondition(lambda self: self.stops)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def let_go(self, data, fails):
        query = data.draw(st.sampled_from(self.stops))
        if fails:
            query.go.set_exception(ConnectionError("lost"))
        else:
            query.go.set_result(None)
        self.settle()

    @precondition(lambda self: self.stops)
    @rule()
    def let_all_go(self):
        self.finish()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from([task for task, _, _ in self.tasks])).cancel()
        self.settle()

    @rule()
    def abort(self):
        self.table.abort()
        self.settle()

    @rule()
    def refresh(self):
        self.start(self.table.refresh_invalid())

    @invariant()
    def only_what_is_covered_is_kept(self):
        snapshot = getattr(self.table.storage_table, "snapshot", None)
        if snapshot is not None:
            assert all(self.indexes.covers_record(record) for record in snapshot.records())

    def finish(self):
        for _ in range(300):
            if not self.tasks and not self.stops:
                return
            for query in list(self.stops):
                query.go.set_result(None)
            self.settle()
        raise AssertionError(f"{len(self.tasks)} tasks hang")

    def close(self):
        self.loop.run_until_complete(self.table.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class Stopping(Source):
    """Stops each query before and after it reads."""

    def __init__(self, machine):
        super().__init__()
        self.machine = machine

    async def get_records(self, records_spec):
        await self.machine.stop()
        rows = [dict(row) for row in self._meant(records_spec)]
        await self.machine.stop()
        for row in rows:
            yield row


class ByHand(Machine):
    """Nothing is followed: who writes a covered row invalidates it.

    A row that is not covered cannot be invalidated. If it is written while an adjustment that
    would cover it is under way, its writer does it when that has ended.
    """

    storage = LocalStorageTable

    def __init__(self):
        super().__init__()
        self.source = Stopping(self)
        self.indexes = PrimaryKeyIndexes(lambda record: record["id"], "all", "some")
        self.table = CachedTable(self.indexes, self.source, self.storage(self.indexes))
        self.owed = set()
        for key in range(1, LAST + 1):
            self.source.put(id=key, v=0)
            self.history.write(key, 0)
        self.start(self.table.load("primary_key", 1, 2, 3))
        self.finish()

    def allowed(self, key, start):
        if key in self.owed:
            return [value for _, value in self.history.states[key]]
        return super().allowed(key, start)

    def spec(self, *keys):
        return self.indexes.IndexSpec("primary_key", *keys)

    @rule(key=KEYS, value=st.none() | VALUES)
    def write(self, key, value):
        self.source.rows.pop(key, None)
        if value is not None:
            self.source.put(id=key, v=value)
        self.history.write(key, value)
        self.owed.add(key)
        self.pay()

    @invariant()
    def pay(self):
        for key in list(self.owed):
            if self.indexes.covers(self.spec(key)):
                self.table.invalidate_records([self.spec(key)], [self.spec(key)])
                self.owed.discard(key)
            elif not self.table._upkeep.lock.locked():
                self.owed.discard(key)

    @rule(keys=SOME)
    def read(self, keys):
        self.start(self.table.get_records_list("primary_key", *keys), self.check_keys(keys))

    @rule(keys=SOME)
    def iterate(self, keys):
        async def story():
            return [record async for record in self.table.get_records("primary_key", *keys)]

        self.start(story(), self.check_keys(keys))

    @rule(keys=SOME)
    def many(self, keys):
        async def story():
            return list((await self.table.get_many(keys)).values())

        self.start(story(), self.check_keys(keys))

    @rule(key=KEYS)
    def get(self, key):
        record = self.table.get(key)
        if record is not None:
            self.check_keys([key])([record], self.history.now)

    @rule(keys=SOME)
    def adjust(self, keys):
        self.start(self.table.adjust("primary_key", *keys))

    @rule()
    def adjust_to_all(self):
        self.start(self.table.adjust("primary_key", all_primary_keys=True))

    def teardown(self):
        self.finish()
        self.pay()
        self.start(
            self.table.get_records_list("primary_key", *range(1, LAST + 1)),
            self.check_keys(range(1, LAST + 1)),
        )
        self.finish()
        self.close()


class ByHandPlain(ByHand):
    storage = Plain


class Following(Machine):
    """The table follows a cache over SQLite: nobody invalidates anything."""

    def __init__(self):
        super().__init__()
        self.cache = everfresh.open("sqlite://")
        with self.cache.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
            for key in range(1, LAST + 1):
                connection.execute(sa.text(f"INSERT INTO t VALUES ({key}, 0)"))
                self.history.write(key, 0)
        machine = self

        class StoppingAccess(SqlAlchemyAccess):
            async def get_records_list(self, records_spec):
                await machine.stop()
                records = await machine.read_now(self, records_spec)
                await machine.stop()
                return records

        self.indexes = AttributeIndexes(
            "SELECT * FROM t", "id", dialect="sqlite", by_v=ByAttributes("v")
        )
        self.table = CachedTable(
            self.indexes,
            StoppingAccess(self.cache.engine),
            LocalStorageTable(self.indexes),
            cache=self.cache,
        )
        # what looks at the schema runs in threads, which the machine does not drive
        self.loop.run_until_complete(self.table._follower.prepare())
        self.start(self.table.load("by_v", ge=0, lt=3))
        self.finish()

    async def read_now(self, access, records_spec):
        """Read without a thread, in one step of the loop."""
        from everfresh.tables.sqlalchemy_access import _statement

        columns, rows = access._blocking(*_statement(records_spec.query, records_spec.args))
        return access._make(columns, rows)

    def commit(self, *statements):
        with self.cache.engine.begin() as connection:
            for statement, parameters in statements:
                connection.execute(sa.text(statement), parameters)

    @rule(key=KEYS, value=VALUES)
    def write(self, key, value):
        self.commit(
            (
                "INSERT INTO t VALUES (:k, :v) ON CONFLICT (id) DO UPDATE SET v = :v",
                {"k": key, "v": value},
            )
        )
        self.history.write(key, value)

    @rule(key=KEYS)
    def delete(self, key):
        self.commit(("DELETE FROM t WHERE id = :k", {"k": key}))
        self.history.write(key, None)

    @rule(key=KEYS, first=VALUES, second=VALUES)
    def write_twice_in_one_commit(self, key, first, second):
        statement = "INSERT INTO t VALUES (:k, :v) ON CONFLICT (id) DO UPDATE SET v = :v"
        self.commit((statement, {"k": key, "v": first}), (statement, {"k": key, "v": second}))
        self.history.write(key, second)

    @rule(one=KEYS, other=KEYS)
    def change_a_key(self, one, other):
        if self.history.at(one) is not None and self.history.at(other) is None:
            self.commit(("UPDATE t SET id = :o WHERE id = :k", {"k": one, "o": other}))
            value = self.history.at(one)
            self.history.write(one, None)
            self.history.write(other, value)

    @rule(key=KEYS, value=VALUES)
    def roll_back(self, key, value):
        with self.cache.engine.connect() as connection:
            connection.execute(sa.text("UPDATE t SET v = :v WHERE id = :k"), {"k": key, "v": value})
            connection.rollback()

    @rule()
    def lose(self):
        self.cache.feed._publisher.lost("the feed was interrupted")

    @rule(key=KEYS)
    def get(self, key):
        record = self.table.get(key)
        if record is not None:
            self.check_keys([key])([record], self.history.now)

    @rule(low=VALUES, width=st.integers(0, 3))
    def peek(self, low, width):
        found = self.table.peek("by_v", ge=low, lt=low + width)
        if found is not None:
            self.check_range(low, low + width)(found, self.history.now)

    @rule(keys=SOME)
    def read(self, keys):
        spec = self.indexes.IndexSpec("primary_key", primary_keys=tuple(keys))
        self.start(self.table.get_records_list(spec), self.check_keys(keys))

    @rule(low=VALUES, width=st.integers(0, 3))
    def read_range(self, low, width):
        read = self.table.get_records_list("by_v", ge=low, lt=low + width)
        self.start(read, self.check_range(low, low + width))

    @rule(low=VALUES, width=st.integers(0, 4))
    def adjust(self, low, width):
        self.start(self.table.adjust("by_v", ge=low, lt=low + width))

    @rule(keys=SOME)
    def adjust_to_keys(self, keys):
        self.start(self.table.adjust("primary_key", primary_keys=tuple(keys)))

    @rule()
    def adjust_to_all(self):
        self.start(self.table.adjust("primary_key"))

    def teardown(self):
        self.finish()
        self.start(self.table.get_records_list("by_v", ge=0, lt=5), self.check_range(0, 5))
        self.finish()
        self.close()
        self.cache.close()


class Admitting(Following):
    """As `Following`, but what a read finds missing is kept, within a limit of a few records."""

    def __init__(self):
        super().__init__()
        self.table._reads._admit = True
        pieces = self.table._pieces
        pieces.max_bytes = 900
        add = pieces.add
        # what goes is decided by what a fetch took: always the same, so that a run can be repeated
        pieces.add = lambda specs, records, seconds: add(specs, records, 1.0)


@pytest.mark.parametrize("machine", [ByHand, ByHandPlain, Following, Admitting])
def test_nothing_outdated_is_served_in_any_order(machine, monkeypatch):
    monkeypatch.setattr(local_table, "_SLICE", -1.0)  # other tasks run after every step of a draft
    monkeypatch.setattr(cached_table, "_PAUSE", 1e6)  # nothing is tried again by the clock
    run_state_machine_as_test(machine, settings=SETTINGS)
