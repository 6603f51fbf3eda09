"""Every SELECT from memory: nothing in the application changes."""

import asyncio
import datetime
import decimal
import enum
import uuid

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    contains_eager,
    defer,
    joinedload,
    load_only,
    mapped_column,
    selectinload,
    subqueryload,
    with_loader_criteria,
)

import everfresh
from everfresh import orm
from everfresh.errors import ConfigurationError, NotKeptError
from everfresh.orm import Reading, asked, explain

from .orm_models import Address, Animal, Base, Dog, Seat, User, fill, reaching


def shown(value):
    """A result as plain data, with loaded relationships."""
    if isinstance(value, (list, tuple, sa.Row)):
        return [shown(one) for one in value]
    state = sa.inspect(value, raiseerr=False)
    if state is None or not hasattr(state, "unloaded"):
        return value
    held = {}
    for name in sorted(set(state.mapper.attrs.keys()) - state.unloaded):
        found = state.dict[name]
        if isinstance(found, list) and found and sa.inspect(found[0], raiseerr=False) is not None:
            found = sorted(str(sa.inspect(one).identity) for one in found)
        elif hasattr(found, "_sa_instance_state"):
            found = sa.inspect(found).identity
        held[name] = found
    return type(value).__name__, held


Big = aliased(User)
QUESTIONS = {
    "entities": lambda s: s.scalars(sa.select(User).order_by(User.id)).all(),
    "columns": lambda s: s.execute(sa.select(User.id, User.email).order_by(User.id)).all(),
    "mappings": lambda s: [dict(m) for m in s.execute(sa.select(User.id)).mappings()],
    "scalar": lambda s: s.scalar(sa.select(sa.func.count()).select_from(User)),
    "one": lambda s: s.scalars(sa.select(User).where(User.id == 3)).one(),
    "none": lambda s: s.scalars(sa.select(User).where(User.id == 333)).one_or_none(),
    "get": lambda s: s.get(User, 5),
    "get composite": lambda s: s.get(Seat, (1, "b")),
    "in": lambda s: s.scalars(
        sa.select(User).where(User.id.in_([3, 1, 2])).order_by(User.id)
    ).all(),
    "in none": lambda s: s.scalars(sa.select(User).where(User.id.in_([]))).all(),
    "join": lambda s: s.execute(
        sa.select(User, Address).join(User.addresses).order_by(Address.id)
    ).all(),
    "joinedload": lambda s: (
        s.scalars(sa.select(User).options(joinedload(User.addresses)).order_by(User.id))
        .unique()
        .all()
    ),
    "selectinload": lambda s: s.scalars(
        sa.select(User).options(selectinload(User.addresses)).order_by(User.id)
    ).all(),
    "subqueryload": lambda s: s.scalars(
        sa.select(User).options(subqueryload(User.addresses)).order_by(User.id)
    ).all(),
    "contains_eager": lambda s: (
        s.scalars(
            sa.select(User)
            .join(User.addresses)
            .where(Address.town == "Łódź")
            .options(contains_eager(User.addresses))
            .order_by(User.id)
        )
        .unique()
        .all()
    ),
    "lazy": lambda s: [u.addresses for u in s.scalars(sa.select(User).order_by(User.id))],
    "load_only": lambda s: s.scalars(
        sa.select(User).options(load_only(User.email)).order_by(User.id)
    ).all(),
    "defer": lambda s: [u.email for u in s.scalars(sa.select(User).options(defer(User.email)))],
    "polymorphic": lambda s: s.scalars(sa.select(Animal).order_by(Animal.id)).all(),
    "subclass": lambda s: [d.tricks for d in s.scalars(sa.select(Dog))],
    "polymorphic lazy": lambda s: [
        getattr(a, "tricks", None) for a in s.scalars(sa.select(Animal))
    ],
    "alias": lambda s: s.execute(
        sa.select(User.id, Big.id).join(Big, Big.id > User.id).order_by(User.id, Big.id)
    ).all(),
    "exists": lambda s: s.scalars(
        sa.select(User.id).where(User.addresses.any(Address.town == "Rome")).order_by(User.id)
    ).all(),
    "window": lambda s: s.execute(
        sa.select(User.id, sa.func.row_number().over(order_by=User.id.desc()))
    ).all(),
    "union": lambda s: s.execute(
        sa.union_all(sa.select(User.id), sa.select(Address.id)).order_by("id")
    ).all(),
    "cte": lambda s: s.execute(
        sa.select(sa.select(User.views).cte("v").c.views).order_by("views")
    ).all(),
    "limit": lambda s: s.scalars(sa.select(User).order_by(User.id).limit(2).offset(3)).all(),
    "populate_existing": lambda s: s.scalars(
        sa.select(User).order_by(User.id).execution_options(populate_existing=True)
    ).all(),
    "yield_per": lambda s: list(
        s.scalars(sa.select(User).order_by(User.id).execution_options(yield_per=2))
    ),
    "partitions": lambda s: [
        list(part) for part in s.scalars(sa.select(User.id).order_by(User.id)).partitions(4)
    ],
    "fetchmany": lambda s: [
        (r := s.execute(sa.select(User.id).order_by(User.id))).fetchmany(2),
        r.fetchone(),
        r.fetchall(),
    ],
    "text": lambda s: s.execute(sa.text('SELECT id, email FROM "user" ORDER BY id')).all(),
    "text with a colon": lambda s: s.execute(
        sa.text("SELECT id FROM \"user\" WHERE email <> 'a\\:b' AND id > :n ORDER BY id"), {"n": 2}
    ).all(),
    "from text": lambda s: s.scalars(
        sa.select(User).from_statement(sa.text('SELECT * FROM "user" ORDER BY id'))
    ).all(),
    "core": lambda s: s.connection().execute(sa.select(User.__table__).order_by("id")).all(),
    "criteria": lambda s: s.scalars(
        sa.select(User).options(with_loader_criteria(User, User.views == 2)).order_by(User.id)
    ).all(),
    "legacy query": lambda s: s.query(User).filter_by(views=1).order_by(User.id).all(),
    "json": lambda s: s.scalars(sa.select(Seat.facts).order_by(Seat.row, Seat.place)).all(),
    "like": lambda s: s.scalars(sa.select(User.id).where(User.email.like("u1%"))).all(),
    "percent": lambda s: s.scalars(sa.select(User.id % 3).order_by(User.id)).all(),
    "rowcount": lambda s: len(s.execute(sa.select(User.id)).all()),
    "keys": lambda s: list(s.execute(sa.select(User.id.label("n"), User.views)).keys()),
}
STREAMED = {"yield_per"}


@pytest.mark.parametrize("name", QUESTIONS)
def test_results_are_what_they_were(orm_engine, orm_cache, name):
    ask = QUESTIONS[name]
    plain = sa.create_engine(orm_engine.url)
    with Session(plain) as session:
        wanted = shown(ask(session))
    plain.dispose()
    for _ in range(3):
        with asked() as seen, Session(orm_engine) as session:
            assert shown(ask(session)) == wanted
            assert len(session.identity_map.values()) >= 0
    if name not in STREAMED and name != "in none":
        assert {one.status for one in seen} == {"hit"}
    with Session(orm_engine) as session:
        session.execute(sa.update(User).values(views=8))
        session.execute(sa.update(Address).values(town="Bergen"))
        session.commit()
    plain = sa.create_engine(orm_engine.url)
    with Session(plain) as session, Session(orm_engine) as watched:
        assert shown(ask(watched)) == shown(ask(session))
    plain.dispose()


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class TypesBase(DeclarativeBase):
    pass


class Typed(TypesBase):
    __tablename__ = "typed"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 3))
    f: Mapped[float]
    b: Mapped[bool]
    d: Mapped[datetime.date]
    t: Mapped[datetime.datetime]
    i: Mapped[datetime.timedelta]
    u: Mapped[uuid.UUID]
    e: Mapped[Colour]
    raw: Mapped[bytes]
    j: Mapped[dict] = mapped_column(sa.JSON)
    made: Mapped[str] = mapped_column(server_default="by the server")
    double: Mapped[int] = column_property(id * 2)

    @hybrid_property
    def next(self):
        return self.id + 1


def test_types_defaults_and_hybrids(orm_engine, orm_cache):
    TypesBase.metadata.drop_all(orm_engine)
    TypesBase.metadata.create_all(orm_engine)
    values = {
        "n": decimal.Decimal("1.250"),
        "f": 0.1,
        "b": True,
        "d": datetime.date(2024, 2, 29),
        "t": datetime.datetime(2024, 2, 29, 12, 30, 1, 5),
        "i": datetime.timedelta(days=1, microseconds=3),
        "u": uuid.UUID(int=5),
        "e": Colour.BLUE,
        "raw": b"\0\xff",
        "j": {"a": [1, {"b": None}]},
    }
    with Session(orm_engine) as session:
        session.add(Typed(id=7, **values))
        session.commit()
    for _ in range(3):
        with Session(orm_engine) as session:
            found = session.scalars(sa.select(Typed).where(Typed.next == 8)).one()
            assert {name: getattr(found, name) for name in values} == values
            assert (found.made, found.double, found.next) == ("by the server", 14, 8)
            found.j["a"].append("mine alone")
    for name, value in values.items():
        if name != "j":
            for _ in range(2):
                with Session(orm_engine) as session:
                    query = sa.select(Typed.id).where(getattr(Typed, name) == value)
                    assert session.scalars(query).all() == [7], name
    TypesBase.metadata.drop_all(orm_engine)


def test_events_fire_as_without_it(orm_engine, orm_cache):
    heard = []
    listeners = [
        (User, "load", lambda target, context: heard.append("load")),
        (Session, "loaded_as_persistent", lambda session, target: heard.append("persistent")),
        (orm_engine, "before_cursor_execute", lambda *args: heard.append("cursor")),
    ]
    for target, name, listener in listeners:
        sa.event.listen(target, name, listener)
    with Session(orm_engine) as session:
        session.scalars(sa.select(Address.id)).all()  # the tables are read, through the engine too
    try:
        runs = []
        for _ in range(2):
            heard.clear()
            with Session(orm_engine) as session:
                session.scalars(sa.select(User).where(User.id < 3)).all()
            runs.append(list(heard))
        assert runs[0] == runs[1] == ["cursor", "load", "persistent", "load", "persistent"]
        heard.clear()
        with Session(orm_engine) as session:
            User.cache.using(session).all(id=1)
        assert "load" in heard
    finally:
        for target, name, listener in listeners:
            sa.event.remove(target, name, listener)


def test_version_counters_still_find_conflicts(orm_engine, orm_cache):
    from sqlalchemy.orm.exc import StaleDataError

    for _ in range(2):
        with Session(orm_engine) as session:
            session.get(Seat, (0, "a"))
    with Session(orm_engine) as first, Session(orm_engine) as second:
        one = Seat.cache.using(first).get((0, "a"))
        two = second.get(Seat, (0, "a"))
        two.facts = {"p": [2]}
        second.commit()
        one.facts = {"p": [1]}
        with pytest.raises(StaleDataError):
            first.commit()


def test_refresh_and_expire_read_what_is_true(orm_engine, orm_cache):
    with Session(orm_engine) as session:
        user = session.get(User, 1)
        with Session(orm_engine) as other:
            other.get(User, 1).views = 40
            other.commit()
        session.refresh(user)
        assert user.views == 40
        session.expire(user)
        assert user.views == 40
        session.commit()
        assert user.views == 40


def test_rolling_back_a_session_of_hits_expires_its_objects(orm_engine, orm_cache):
    for _ in range(2):
        with Session(orm_engine) as session:
            user = User.cache.using(session).get(1)
            assert session.in_transaction()
            session.rollback()
            assert sa.inspect(user).expired


# choosing ---------------------------------------------------------------------------------


def statuses(engine, statement, **options):
    with asked() as seen:
        for _ in range(2):
            with Session(engine) as session:
                session.execute(statement, execution_options=options).all()
    return [one.status for one in seen]


def test_statements_opt_out_and_in(orm_engine, orm_cache):
    statement = sa.select(User)
    assert statuses(orm_engine, statement, everfresh=False) == []
    assert statuses(orm_engine, statement) == ["fill", "hit"]
    orm.install(orm_cache, everything=False)
    assert statuses(orm_engine, statement) == ["bypass", "bypass"]
    assert statuses(orm_engine, statement, everfresh=True) == ["hit", "hit"]
    orm.uninstall(orm_cache)
    assert statuses(orm_engine, statement) == []
    assert statuses(orm_engine, statement, everfresh=True) == ["hit", "hit"]


def test_models_opt_out_and_in(orm_engine, orm_cache, monkeypatch):
    monkeypatch.setattr(User, "__everfresh__", False, raising=False)
    orm.install(orm_cache)
    assert statuses(orm_engine, sa.select(User)) == ["bypass", "bypass"]
    assert statuses(orm_engine, sa.select(Address)) == ["fill", "hit"]
    assert statuses(orm_engine, sa.select(Address).join(Address.user)) == ["bypass", "bypass"]
    monkeypatch.setattr(User, "__everfresh__", True)
    orm.install(orm_cache, everything=False)
    assert statuses(orm_engine, sa.select(User)) == ["fill", "hit"]
    assert statuses(orm_engine, sa.select(Address)) == ["bypass", "bypass"]
    assert statuses(orm_engine, sa.select(Address).join(Address.user)) == ["bypass", "bypass"]
    monkeypatch.setattr(User, "__everfresh__", "yes")
    orm.install(orm_cache)
    with pytest.raises(ConfigurationError, match="__everfresh__"):
        statuses(orm_engine, sa.select(User).where(User.id == 4))


def test_max_age_asks_again(orm_engine, tmp_path):
    now = [100.0]
    with everfresh.open(orm_engine, clock=lambda: now[0], freshness=everfresh.ttl(1000)) as cache:
        orm.install(cache, orm_engine, max_age=10)
        statement = sa.select(User)
        assert statuses(orm_engine, statement) == ["fill", "hit"]
        now[0] += 5
        assert statuses(orm_engine, statement, everfresh=Reading(max_age=3)) == ["refresh", "hit"]
        now[0] += 10
        assert statuses(orm_engine, statement) == ["refresh", "hit"]
    with pytest.raises(ConfigurationError, match="max_age"):
        Reading(max_age=-1)


def test_tags_drop_their_answers(orm_engine, orm_cache):
    tagged = {"everfresh": Reading(tags=("front page", "users"))}
    assert statuses(orm_engine, sa.select(User), **tagged) == ["fill", "hit"]
    assert statuses(orm_engine, sa.select(Address)) == ["fill", "hit"]
    assert orm.invalidate(orm_cache, "front page") == 1
    assert orm.invalidate(orm_cache, "front page", "nothing") == 0
    assert statuses(orm_engine, sa.select(User), **tagged) == ["refresh", "hit"]
    assert statuses(orm_engine, sa.select(Address)) == ["hit", "hit"]
    with pytest.raises(ConfigurationError, match="tuple"):
        Reading(tags="users")


def test_only_kept_raises_instead_of_asking(orm_engine, orm_cache):
    with Session(orm_engine) as session, pytest.raises(NotKeptError):
        session.execute(sa.select(User), execution_options={"everfresh": Reading(only_kept=True)})


def test_large_answers_are_streamed_on_and_not_kept(orm_engine, orm_cache):
    orm.install(orm_cache, row_limit=4)
    for _ in range(2):
        with asked() as seen, Session(orm_engine) as session:
            assert session.scalars(sa.select(User.id).order_by(User.id)).all() == [*range(1, 10)]
            result = session.execute(sa.select(User.id).order_by(User.id))
            assert [row.id for row in result] == [*range(1, 10)]
            assert session.scalars(sa.select(User.id).limit(4)).all() == [1, 2, 3, 4]
        assert [one.status for one in seen][:2] == ["bypass", "bypass"]
    assert seen[2].status == "hit"


@pytest.mark.parametrize("row_limit", [0, -1, 1.5, True, None])
def test_a_wrong_limit_is_refused(orm_engine, row_limit):
    with everfresh.open(orm_engine) as cache:
        with pytest.raises(ConfigurationError, match="row_limit"):
            orm.install(cache, row_limit=row_limit)
        with pytest.raises(ConfigurationError, match="another engine"):
            orm.install(cache, sa.create_engine("sqlite://"))
        with pytest.raises(ConfigurationError, match="takes a cache"):
            orm.install(orm_engine)
        with pytest.raises(ConfigurationError, match="takes an engine"):
            orm.install(cache, "sqlite://")


def test_what_asks_whether_the_database_is_there_reaches_it(orm_engine, orm_cache):
    with reaching(orm_engine) as seen:
        for _ in range(3):
            with Session(orm_engine) as session:
                session.execute(sa.text("SELECT 1"))
                session.execute(sa.select(sa.func.now()))
    assert len(seen) == 6


def test_cached_functions_see_what_sessions_read(orm_engine, orm_cache):
    calls = []

    @orm_cache.cached
    def towns():
        calls.append(1)
        with Session(orm_engine) as session:
            return sorted(set(session.scalars(sa.select(Address.town))))

    assert towns() == towns() == ["Oslo", "Rome", "Łódź"]
    with Session(orm_engine) as session:
        session.add(Address(id=90, user_id=1, town="Bergen"))
        session.commit()
    assert "Bergen" in towns()
    assert len(calls) == 2


def test_a_pool_of_one_is_enough(tmp_path, postgres_url):
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=3)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        fill(session)
    with everfresh.open(engine) as cache:
        orm.install(cache, engine)
        for _ in range(2):
            with Session(engine) as session:
                assert len(session.scalars(sa.select(User)).all()) == 9
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE INDEX towns ON address (town)"))
        with Session(engine) as session:
            assert len(session.scalars(sa.select(User)).all()) == 9
            assert session.get(User, 1).addresses is not None
    engine.dispose()


def test_settings_of_a_session_keep_answers_apart(postgres_url):
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for name in ("left_side", "right_side"):
            connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
            connection.execute(sa.text(f"CREATE SCHEMA {name}"))
            connection.execute(sa.text(f"CREATE TABLE {name}.item (id INT PRIMARY KEY, name TEXT)"))
            connection.execute(sa.text(f"INSERT INTO {name}.item VALUES (1, '{name}')"))

    class ItemBase(DeclarativeBase):
        pass

    class Item(orm.CacheableMixin, ItemBase):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    with everfresh.open(engine) as cache:
        orm.install(cache, engine)
        for how in ("SET search_path TO {}", "SELECT set_config('search_path', '{}', false)"):
            for _ in range(2):
                for name in ("left_side", "right_side"):
                    with Session(engine) as session:
                        session.execute(sa.text(how.format(name)))
                        assert session.scalars(sa.select(Item)).one().name == name
                        session.expunge_all()
                        assert Item.cache.using(session).get(1).name == name
                        session.rollback()
    engine.dispose()


def test_settings_made_at_checkout_keep_entities_apart(postgres_url):
    """A tenant's search_path is set when a connection is handed out: entities have to look at it."""
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for name in ("tenant_a", "tenant_b"):
            connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
            connection.execute(sa.text(f"CREATE SCHEMA {name}"))
            connection.execute(
                sa.text(f"CREATE TABLE {name}.thing (id INT PRIMARY KEY, name TEXT)")
            )
            connection.execute(sa.text(f"INSERT INTO {name}.thing VALUES (1, '{name}')"))

    class ThingBase(DeclarativeBase):
        pass

    class Thing(orm.CacheableMixin, ThingBase):
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    tenant = ["tenant_a"]

    def checkout(raw, record, proxy):
        raw.cursor().execute(f"SET search_path TO {tenant[0]}")
        raw.commit()

    with everfresh.open(engine) as cache:
        orm.install(cache, engine)
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER ROLE CURRENT_USER SET search_path TO tenant_a")
            connection.commit()
        engine.dispose()
        try:
            for _ in range(3):  # a first answer, and hits without a connection
                with Session(engine) as session:
                    assert Thing.cache.using(session).get(1).name == "tenant_a"
            sa.event.listen(engine, "checkout", checkout)
            for name in ("tenant_b", "tenant_a", "tenant_b"):
                tenant[0] = name
                with Session(engine) as session:
                    session.scalars(sa.select(Thing)).all()
                with Session(engine) as session:
                    assert Thing.cache.using(session).get(1).name == name
        finally:
            sa.event.contains(engine, "checkout", checkout) and sa.event.remove(
                engine, "checkout", checkout
            )
            with engine.connect() as connection:
                connection.exec_driver_sql("ALTER ROLE CURRENT_USER RESET search_path")
                connection.commit()
    engine.dispose()


# asyncio ----------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg_async"])
def async_url(request, tmp_path):
    if request.param.startswith("sqlite"):
        return f"{request.param}:///{tmp_path}/async.db"
    url = request.getfixturevalue("postgres_url")
    return url.replace("postgresql://", f"{request.param}://")


def test_async_sessions(async_url):
    async def main():
        engine = create_async_engine(async_url)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            await session.run_sync(fill)
        async with everfresh.open_async(engine) as cache:
            orm.install(cache, engine)

            async def ask(n):
                async with AsyncSession(engine) as session:
                    users = await session.scalars(
                        sa.select(User).options(selectinload(User.addresses)).where(User.id == n)
                    )
                    user = users.one()
                    return user.email, len(user.addresses)

            assert (
                await asyncio.gather(*(ask(2) for _ in range(20))) == [("u2@example.org", 3)] * 20
            )
            with asked() as seen:
                assert await ask(2) == ("u2@example.org", 3)
                async with AsyncSession(engine) as session:
                    kept = await session.run_sync(lambda s: User.cache.using(s).get(2))
                    again = await session.run_sync(lambda s: User.cache.using(s).get_many([2, 3]))
                    assert kept is again[0]
            assert [one.status for one in seen][:2] == ["hit", "hit"]
            async with AsyncSession(engine) as session:
                (await session.get(User, 2)).email = "new@example.org"
                await session.commit()
            assert await ask(2) == ("new@example.org", 3)
            async with AsyncSession(engine) as session:
                stream = await session.stream_scalars(sa.select(User.id).order_by(User.id))
                assert [n async for n in stream] == [*range(1, 10)]
        await engine.dispose()

    asyncio.run(main())


# explaining ---------------------------------------------------------------------------------


def test_explain_says_why(orm_engine, orm_cache):
    statement = sa.select(User).where(User.views == 1)
    with Session(orm_engine) as session:
        first = explain(session, statement)
        assert "was not asked before" in first.summary
        assert any("user" in source for source in first.to_dict()["sources"])
        session.scalars(statement).all()
        assert explain(session, statement).summary == "would be answered from memory"
        assert "FOR UPDATE" in str(explain(session, statement.with_for_update())) or (
            orm_engine.dialect.name == "sqlite"
        )
        assert (
            "everfresh=False"
            in explain(session, statement.execution_options(everfresh=False)).summary
        )
        assert "random" in explain(session, statement.order_by(sa.func.random())).summary
        session.execute(sa.update(User).where(User.id == 1).values(views=9))
        assert "has written" in explain(session, statement).summary
        session.commit()
        gone = explain(session, statement)
        assert "the last one has gone" in gone.summary
        assert "UPDATE" in str(gone) or "a change of" in str(gone)
    other = sa.create_engine("sqlite://")
    with Session(other) as session, pytest.raises(ConfigurationError, match="no cache follows"):
        explain(session, sa.select(sa.literal(1)))


def test_repeated_statements_are_spotted(orm_engine, orm_cache):
    with asked() as seen, Session(orm_engine) as session:
        for user in session.scalars(sa.select(User)):
            user.addresses  # noqa: B018 - loads
    [(text, count)] = seen.repeated().items()
    assert count == 9
    assert "address" in text
    assert seen.repeated(least=10) == {}
    assert 'nplusone;desc="9 times' in orm.server_timing(seen)
    with asked() as seen, Session(orm_engine) as session:
        for user in session.scalars(sa.select(User)):
            user.addresses  # noqa: B018
    assert seen.repeated() == {}
    assert seen.hits == len(seen) == 10


def test_starlette_tells_what_a_request_asked(orm_engine, orm_cache):
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def one(request):
        with Session(orm_engine) as session:
            return PlainTextResponse(session.get(User, 1).email)

    told = []
    app = Starlette(routes=[Route("/", one)])
    app.add_middleware(
        orm.ServerTimingMiddleware, seen=lambda scope, q: told.append((scope["path"], q))
    )

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/"), await client.get("/")

    first, second = asyncio.run(main())
    assert first.text == second.text == "u1@example.org"
    assert 'desc="1 statements", cache;desc="0 hits"' in first.headers["server-timing"]
    assert 'db;dur=0.0;desc="0 statements", cache;desc="1 hits"' in second.headers["server-timing"]
    assert [(path, len(q)) for path, q in told] == [("/", 1), ("/", 1)]


# inheritance and several engines ---------------------------------------------------------------


def test_models_with_inheritance_are_loaded_by_the_orm(orm_engine, orm_cache):
    for _ in range(2):
        with Session(orm_engine) as session:
            assert type(Animal.cache.using(session).get(2)) is Dog
            assert Animal.cache.using(session).get(1).name == "Tom"
            assert Animal.cache.using(session).get(9) is None
            assert Dog.cache.using(session).get(2).tricks == 3
            assert Dog.cache.using(session).get(1) is None
            assert [d.id for d in Dog.cache.using(session).filter(tricks=3)] == [2]
            found = Animal.cache.using(session).get_many([2, 1, 7])
            assert [a and a.name for a in found] == ["Rex", "Tom", None]
            assert Animal.cache.using(session).count() == 2
    with asked() as seen, Session(orm_engine) as session:
        Animal.cache.using(session).get(2), Dog.cache.using(session).filter(tricks=3)
    assert {one.status for one in seen} == {"hit"}
    with Session(orm_engine) as session:
        session.get(Dog, 2).tricks = 4
        session.commit()
    with Session(orm_engine) as session:
        assert list(Dog.cache.using(session).filter(tricks=3)) == []
        assert Animal.cache.using(session).get(2).tricks == 4


def test_two_shards_and_a_session_that_chooses(tmp_path):
    from sqlalchemy.ext.horizontal_shard import ShardedSession, set_shard_id

    engines = {}
    for name in ("north", "south"):
        engines[name] = sa.create_engine(f"sqlite:///{tmp_path}/{name}.db")
        Base.metadata.create_all(engines[name])
        with Session(engines[name]) as session:
            session.add(User(id=1, username=name, email=f"{name}@example.org"))
            session.commit()
    caches = [everfresh.open(engine) for engine in engines.values()]
    for cache in caches:
        orm.install(cache)

    def sharded():
        return ShardedSession(
            shards=engines,
            shard_chooser=lambda mapper, instance, clause=None: "north",
            identity_chooser=lambda mapper, pk, **kw: ["north", "south"],
            execute_chooser=lambda context: ["north", "south"],
        )

    class Choosing(Session):
        chosen = "north"

        def get_bind(self, mapper=None, **kw):
            return engines[self.chosen]

    for _ in range(3):
        with sharded() as session:
            assert sorted(session.scalars(sa.select(User.username))) == ["north", "south"]
            found = session.scalars(sa.select(User).options(set_shard_id("south"))).all()
            assert [u.username for u in found] == ["south"]
        for name in ("north", "south"):
            Choosing.chosen = name
            with Choosing() as session:
                assert session.get(User, 1).username == name
            with Choosing() as session:
                assert User.cache.using(session).get(1).username == name
    assert all(cache.stats().hits for cache in caches)
    with Session(engines["south"]) as session:
        session.get(User, 1).username = "deep south"
        session.commit()
    with sharded() as session:
        assert sorted(session.scalars(sa.select(User.username))) == ["deep south", "north"]
    for cache, engine in zip(caches, engines.values(), strict=True):
        cache.close()
        engine.dispose()


def test_an_audit_asks_what_sessions_were_given_again(orm_engine, orm_cache):
    for ask in (QUESTIONS["selectinload"], QUESTIONS["join"], QUESTIONS["get composite"]):
        with Session(orm_engine) as session:
            ask(session)
    found = orm_cache.audit()
    assert (found.checked, found.stale) == (4, 0)
    entry = next(e for e in orm_cache.entries() if "seat" not in e.label)
    entry.value.rows = entry.value.rows[1:]  # as if a change had not been heard
    found = orm_cache.audit()
    assert (found.checked, found.stale, found.stale_keys) == (4, 1, (entry.key,))
