"""Sessions that read, write, roll back and nest at random: cached against uncached, and a stress."""

import os
import random
import threading
import time

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
from sqlalchemy.orm import Session, selectinload

import everfresh
from everfresh import orm

from .orm_models import Address, Animal, Base, Dog, Seat, User, fill

SOAK = bool(os.environ.get("EVERFRESH_SOAK"))
USERS, SEATS = st.integers(1, 11), st.tuples(st.integers(0, 2), st.sampled_from("abc"))


def user_of(user):
    return None if user is None else (user.id, user.username, user.views)


class Sessions(RuleBasedStateMachine):
    """Two sessions of a watched engine; what each sees is asked on its own connection, uncached."""

    engine = None
    writes = 0

    def __init__(self):
        super().__init__()
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
        with Session(self.engine) as session:
            fill(session)
        self.sessions = [Session(self.engine), Session(self.engine)]
        self.writer = None  # SQLite has one at a time, and a test must not wait
        self.nested = []
        self.number = 100

    def teardown(self):
        for session in self.sessions:
            session.close()

    # -- writing

    def _may_write(self, n):
        return self.writer in (None, n)

    def _writing(self, n):
        self.writer = n
        return self.sessions[n]

    @rule(n=st.integers(0, 1), pk=USERS, views=st.integers(0, 3))
    def set_views(self, n, pk, views):
        if self._may_write(n):
            user = self._writing(n).get(User, pk)
            if user is not None:
                user.views = views

    @rule(n=st.integers(0, 1), views=st.integers(0, 3))
    def bulk_update(self, n, views):
        if self._may_write(n):
            self._writing(n).execute(
                sa.update(User).where(User.views == views).values(views=views + 1)
            )

    @rule(n=st.integers(0, 1), kind=st.integers(0, 3))
    def add(self, n, kind):
        if self._may_write(n):
            session, self.number = self._writing(n), self.number + 1
            k = self.number
            if kind == 0:
                session.add(User(id=k, username=f"n{k}", email=f"{k}@example.org", views=k % 3))
            elif kind == 1:
                owner = session.scalars(sa.select(User).order_by(User.id)).first()
                if owner is not None:
                    owner.addresses.append(Address(id=k, town="Oslo"))
            elif kind == 2:
                session.add(Dog(id=k, name=f"d{k}", tricks=k % 4))
            else:
                session.add(Seat(row=k, place="a", facts={"k": k}))

    @rule(n=st.integers(0, 1), pk=USERS)
    def delete(self, n, pk):
        if self._may_write(n):
            session = self._writing(n)
            user = session.get(User, pk)
            if user is not None:
                session.flush()
                session.expire(user)  # its addresses are looked at anew, or one is left behind
                session.delete(user)
                session.flush()

    @rule(n=st.integers(0, 1), key=SEATS, value=st.integers(0, 9))
    def set_seat(self, n, key, value):
        if self._may_write(n):
            seat = self._writing(n).get(Seat, key)
            if seat is not None:
                seat.facts = {"value": value}

    @precondition(lambda self: self.writer is not None)
    @rule()
    def begin_nested(self):
        if len(self.nested) < 3:
            self.nested.append(self.sessions[self.writer].begin_nested())

    @precondition(lambda self: self.nested)
    @rule(keep=st.booleans())
    def end_nested(self, keep):
        nested = self.nested.pop()
        if nested.is_active:
            nested.commit() if keep else nested.rollback()

    @rule(n=st.integers(0, 1), keep=st.booleans())
    def end(self, n, keep):
        session = self.sessions[n]
        if self.writer == n:
            self.writer = None
            self.nested.clear()
            type(self).writes += keep
        session.commit() if keep else session.rollback()

    @rule(n=st.integers(0, 1))
    def renew(self, n):
        if self.writer != n:
            self.sessions[n].close()
            self.sessions[n] = Session(self.engine)

    # -- reading: each compared with the same question that reaches the database

    def _both(self, n, ask, plainly):
        session = self.sessions[n]
        cached = ask(session)
        with session.no_autoflush:
            assert cached == plainly(session)

    def _plain(self, session, statement):
        return session.execute(statement, execution_options={"everfresh": False})

    @rule(n=st.integers(0, 1), pk=USERS)
    def get(self, n, pk):
        columns = sa.select(User.id, User.username, User.views).where(User.id == pk)
        self.sessions[n].flush() if self.writer == n else None
        self.sessions[n].expire_all()
        self._both(
            n,
            lambda s: user_of(User.cache.using(s).get(pk)),
            lambda s: (lambda r: r and tuple(r))(self._plain(s, columns).one_or_none()),
        )

    @rule(n=st.integers(0, 1), views=st.integers(0, 4), desc=st.booleans())
    def listed(self, n, views, desc):
        order = User.id.desc() if desc else User.id
        columns = sa.select(User.id).where(User.views == views).order_by(order)
        self._both(
            n,
            lambda s: [
                u.id for u in User.cache.using(s).filter("desc" if desc else "asc", views=views)
            ],
            lambda s: self._plain(s, columns).scalars().all(),
        )

    @rule(n=st.integers(0, 1), pks=st.lists(USERS, max_size=4))
    def several(self, n, pks):
        columns = sa.select(User.id).where(User.id.in_(pks))
        self._both(
            n,
            lambda s: {u.id for u in User.cache.using(s).get_many(pks) if u is not None},
            lambda s: set(self._plain(s, columns).scalars()),
        )

    @rule(n=st.integers(0, 1))
    def joined(self, n):
        columns = sa.select(User.id, Address.id).join(User.addresses).order_by(User.id, Address.id)
        self._both(
            n,
            lambda s: [tuple(r) for r in s.execute(columns)],
            lambda s: [tuple(r) for r in self._plain(s, columns)],
        )

    @rule(n=st.integers(0, 1))
    def eager(self, n):
        columns = sa.select(User.id, Address.id).join(User.addresses).order_by(User.id, Address.id)
        self.sessions[n].flush() if self.writer == n else None
        self.sessions[n].expire_all()
        self._both(
            n,
            lambda s: sorted(
                (u.id, a.id)
                for u in s.scalars(sa.select(User).options(selectinload(User.addresses)))
                for a in u.addresses
            ),
            lambda s: [tuple(r) for r in self._plain(s, columns)],
        )

    @rule(n=st.integers(0, 1))
    def animals(self, n):
        every, dogs = Animal.__table__, Dog.__table__
        columns = (
            sa.select(every.c.id, dogs.c.tricks)
            .select_from(every.outerjoin(dogs, dogs.c.id == every.c.id))
            .order_by(every.c.id)
        )
        self._both(
            n,
            lambda s: [
                (a.id, getattr(a, "tricks", None))
                for a in s.scalars(sa.select(Animal).order_by(Animal.id))
            ],
            lambda s: [tuple(r) for r in self._plain(s, columns)],
        )

    @rule(n=st.integers(0, 1), key=SEATS)
    def seat(self, n, key):
        columns = sa.select(Seat.facts).where(Seat.row == key[0], Seat.place == key[1])
        self.sessions[n].flush() if self.writer == n else None
        self.sessions[n].expire_all()
        self._both(
            n,
            lambda s: (lambda f: f and f.facts)(Seat.cache.using(s).get(key)),
            lambda s: self._plain(s, columns).scalar(),
        )

    @rule(n=st.integers(0, 1))
    def count(self, n):
        columns = sa.select(sa.func.count()).select_from(User)
        self._both(
            n, lambda s: User.cache.using(s).count(), lambda s: self._plain(s, columns).scalar()
        )

    @invariant()
    def nobody_has_written_twice(self):
        assert self.writer in (None, 0, 1)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_sessions_at_random(database, request, tmp_path):
    if database == "sqlite":
        url = f"sqlite:///{tmp_path}/machine.db"
    else:
        url = request.getfixturevalue("postgres_url").replace(
            "postgresql://", "postgresql+psycopg://"
        )
    engine = sa.create_engine(url)
    if database == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with everfresh.open(engine) as cache:
        orm.install(cache, engine)
        machine = type("Machine", (Sessions,), {"engine": engine, "writes": 0})
        for _ in range(5):  # Hypothesis leaves out rules by whole examples: a run may write nothing
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=600 if SOAK else 40,
                    stateful_step_count=60 if SOAK else 40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            if machine.writes and cache.stats().hits > 20:
                break
        figures = cache.stats()
        assert figures.hits > 20
        assert machine.writes > 0
    engine.dispose()


# the stress -----------------------------------------------------------------------------------


LEVELS = ["READ COMMITTED", "REPEATABLE READ"]


@pytest.mark.parametrize("level", LEVELS)
def test_stress_on_postgresql(level, postgres_url):
    """Two writers, four readers, delays of 0 to 3 ms: no hit may be stale."""
    wanted = 50_000 if SOAK else 1_000
    engine = sa.create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"), pool_size=8
    )
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        fill(session)
    reading = engine.execution_options(isolation_level=level)
    truth = dict.fromkeys((1, 2, 3), 0)  # what was committed last, once commit has returned
    stale, hits, stop, lock = [], [0], threading.Event(), threading.Lock()

    def write(seed):
        dice, pk = random.Random(seed), seed
        while not stop.is_set():
            # now and then a rest, or a snapshot would never be the newest
            time.sleep(0.04 if dice.random() < 0.1 else dice.uniform(0, 0.003))
            with Session(engine) as session:
                session.execute(sa.update(User).where(User.id == pk).values(views=truth[pk] + 1))
                time.sleep(dice.uniform(0, 0.003))
                if dice.random() < 0.2:
                    session.rollback()
                    continue
                session.commit()
            truth[pk] += 1

    def read(seed):
        dice = random.Random(seed)
        while not stop.is_set():
            time.sleep(dice.uniform(0, 0.0005))
            pk = dice.choice((1, 2, 3))
            with orm.asked() as seen, Session(reading) as session:
                if dice.random() < 0.3:
                    session.scalars(sa.select(Address.town)).all()  # takes a snapshot
                    time.sleep(dice.uniform(0, 0.003))
                least = truth[pk] if not seen else None
                if dice.random() < 0.5:
                    found = session.get(User, pk).views
                else:
                    found = User.cache.using(session).get(pk).views
                again = session.scalar(
                    sa.select(User.views).where(User.id == pk),
                    execution_options={"everfresh": False},
                )
            with lock:
                hits[0] += seen[-1].status == "hit"
                if least is not None and found < least:
                    stale.append(("older than committed", pk, found, least))
                if level == "REPEATABLE READ" and found != again:
                    stale.append(("not of the snapshot", pk, found, again))

    with Session(engine) as session:
        session.execute(sa.update(User).values(views=0))
        session.commit()
    with everfresh.open(engine) as cache:
        orm.install(cache, engine)
        threads = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
        threads += [threading.Thread(target=read, args=(n,)) for n in (11, 12, 13, 14)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + (1800 if SOAK else 6)
        while hits[0] < wanted and time.monotonic() < ends and not stale:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(30)
    engine.dispose()
    assert stale == []
    assert hits[0] > 5  # a busy machine: REPEATABLE READ is answered only if nothing was committed
    assert min(truth[1], truth[2]) > 20
