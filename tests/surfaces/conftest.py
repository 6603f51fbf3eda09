"""A database that counts what it is asked, gates that hold it, a clock that is set by hand."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import everfresh
import everfresh.orm
from everfresh.engine.attaching import cache_of
from everfresh.micro import QueryCache


class Gate:
    """Holds a computation until it is opened, and tells when it was reached."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self):
        self.reached.set()
        assert self.opened.wait(10)


class Recorded:
    """An object with `one` and `all`: answers with what it was asked, and remembers it."""

    def __init__(self):
        self.asked = []
        self.error = None
        self.gates = {}

    def _answer(self, form, sql, params):
        self.asked.append((form, sql, params))
        if sql in self.gates:
            self.gates[sql].wait()
        if self.error is not None:
            raise self.error
        return {"form": form, "sql": sql, "params": params, "n": len(self.asked)}

    def one(self, sql, params=None):
        return self._answer("one", sql, params)

    def all(self, sql, params=None):
        return [self._answer("all", sql, params)]


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def db():
    return Recorded()


@pytest.fixture
def make(db, now):
    """Make micro-caches with the clock of the test; they are closed after it."""
    made = []

    def make(database=db, threshold=5, **options):
        if "cache" not in options:
            options.setdefault("clock", lambda: now[0])
        made.append(QueryCache(database, threshold, **options))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def in_threads(count, call):
    barrier = threading.Barrier(count)

    def run(n):
        barrier.wait(10)
        return call(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.fixture
def in_redis(valkey):
    """Make tables in Redis of records with these attributes."""
    from surfaces.tables import redis_storage

    return redis_storage(valkey.url, ("id", "city", "price", "v"))


# the ORM cache --------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def orm_engine(request, tmp_path):
    """An engine with the tables and rows of `orm_models`."""
    from . import orm_models

    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/orm.db"
    else:
        url = request.getfixturevalue("postgres_url").replace(
            "postgresql://", "postgresql+psycopg://"
        )
    engine = sa.create_engine(url)
    if request.param == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # readers and a writer at once
    orm_models.Base.metadata.drop_all(engine)
    orm_models.Base.metadata.create_all(engine)
    with Session(engine) as session:
        orm_models.fill(session)
    yield engine
    with engine.connect() as connection:
        cache = cache_of(connection)
    if cache is not None:
        cache.close()
    engine.dispose()


@pytest.fixture
def orm_cache(orm_engine):
    """The cache of that engine, with every SELECT answered where it can be."""
    with everfresh.open(orm_engine) as cache:
        everfresh.orm.install(cache, orm_engine)
        yield cache
