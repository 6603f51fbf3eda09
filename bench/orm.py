"""The ORM cache beside plain queries and SQLAlchemy's dogpile recipe, with a Session each time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import everfresh
from bench.measure import Result, medians
from bench.peers.dogpile_recipe import FromRegion, RegionCache
from everfresh import orm
from everfresh.testing.servers import postgres_server

SIZES = (1, 10, 100, 1000)


class Base(DeclarativeBase):
    pass


class Person(orm.CacheableMixin, Base):
    """Eight columns."""

    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    team: Mapped[int] = mapped_column(index=True)
    name: Mapped[str] = mapped_column(sa.String(40))
    email: Mapped[str] = mapped_column(sa.String(80))
    town: Mapped[str] = mapped_column(sa.String(40))
    score: Mapped[float]
    active: Mapped[bool]
    notes: Mapped[str] = mapped_column(sa.String(80))


def run(rounds: int) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        yield from on(f"sqlite:///{folder}/orm.db", "SQLite", rounds)
    with postgres_server() as server:
        url = server.fresh_database().replace("postgresql://", "postgresql+psycopg://")
        yield from on(url, "PostgreSQL", rounds)


def on(url: str, where: str, rounds: int) -> Iterator[Result]:
    plain, watched = sa.create_engine(url), sa.create_engine(url)
    Base.metadata.create_all(plain)
    with Session(plain) as session:
        session.add_all(people())
        session.commit()
    with everfresh.open(watched) as cache:
        orm.install(cache, watched)
        yield from getting(plain, watched, where, rounds)
        for size in SIZES:
            yield from listing(plain, watched, where, size, rounds)
        yield from uncacheable(plain, watched, where, rounds)
        yield from writing(plain, watched, where, rounds)
    plain.dispose()
    watched.dispose()


def people():
    """Each team has as many members as its number."""
    n = 0
    for team in SIZES:
        for _ in range(team):
            n += 1
            yield Person(
                id=n,
                team=team,
                name=f"name {n}",
                email=f"p{n}@example.org",
                town="Oslo",
                score=n / 3,
                active=True,
                notes="some words",
            )


def getting(plain, watched, where, rounds):
    def session_get(engine=plain):
        with Session(engine) as session:
            return session.get(Person, 7)

    def cached():
        with Session(watched) as session:
            return Person.cache.using(session).get(7)

    def only_a_session():
        with Session(watched):
            pass

    cached()
    assert cached().email == session_get().email
    calls = {"get": session_get, "cached": cached, "session": only_a_session}
    taken = medians(calls, 1000, rounds)
    goal = 1 / 12 if where == "PostgreSQL" else 1 / 4
    yield Result(
        f"Model.cache.get / session.get, {where}", taken["cached"], taken["get"], "µs", goal
    )
    beyond = taken["cached"] - taken["session"]
    yield Result(f"Model.cache.get beyond its session / 15 µs, {where}", beyond, 15.0, "µs", 1.0)


def recipe(engine, statement, backend):
    """SQLAlchemy's dogpile_caching example, from memory or from pickles."""
    maker = sessionmaker(engine)
    RegionCache(backend).listen_on(maker)
    chosen = statement.options(FromRegion())

    def call():
        with maker() as session:
            return session.scalars(chosen).all()

    return call


def listing(plain, watched, where, size, rounds):
    statement = sa.select(Person).where(Person.team == size).order_by(Person.id)

    def query(engine):
        with Session(engine) as session:
            return session.scalars(statement).all()

    def listed():
        with Session(watched) as session:
            return Person.cache.using(session).all(team=size)

    def structs():
        with Session(watched) as session:
            return Person.cache.using(session).structs(team=size)

    calls = {
        "plain": lambda: query(plain),
        "transparent": lambda: query(watched),
        "listed": listed,
        "structs": structs,
        "memory": recipe(plain, statement, "dogpile.cache.memory"),
        "pickles": recipe(plain, statement, "dogpile.cache.memory_pickle"),
    }
    for call in calls.values():
        call()
        assert [one.email for one in call()] == [one.email for one in query(plain)]
    taken = medians(calls, max(10, 1500 // (size + 5)), rounds)
    name = f"{size} object{'s' * (size > 1)}, {where}"
    of = {"listed": "cached list", "structs": "read-only objects", "transparent": "transparent hit"}
    goals = [
        ("listed", "memory", "the recipe from memory", 1 / 2),
        ("listed", "pickles", "the recipe from pickles", 1 / 5),
        ("listed", "plain", "the plain query", 1.0),
        ("structs", "plain", "the plain query", 1 / 10 if size == 100 else 1.0),
        (
            "transparent",
            "plain",
            "the plain query",
            1 / 2 if where == "PostgreSQL" and size <= 10 else 1.0,
        ),
    ]
    for ours, peer, words, goal in goals:
        yield Result(f"{of[ours]} / {words}, {name}", taken[ours], taken[peer], "µs", goal)


def uncacheable(plain, watched, where, rounds):
    statement = sa.select(Person).where(Person.team == 10).order_by(sa.func.random())

    def query(engine):
        with Session(engine) as session:
            return session.scalars(statement).all()

    taken = medians({"ours": lambda: query(watched), "plain": lambda: query(plain)}, 300, rounds)
    yield Result(
        f"a statement that cannot be cached / without the cache, {where}",
        taken["ours"],
        taken["plain"],
        "µs",
        1.05,
    )


def writing(plain, watched, where, rounds):
    def flush(engine):
        with Session(engine) as session:
            session.add_all(
                Person(
                    id=100_000 + n,
                    team=0,
                    name="n",
                    email="e",
                    town="t",
                    score=1.0,
                    active=False,
                    notes="",
                )
                for n in range(1000)
            )
            session.flush()
            session.rollback()

    taken = medians({"ours": lambda: flush(watched), "plain": lambda: flush(plain)}, 1, rounds)
    yield Result(
        f"a flush of 1,000 rows / without the cache, {where}",
        taken["ours"] / 1000,
        taken["plain"] / 1000,
        "ms",
        1.15,
    )
