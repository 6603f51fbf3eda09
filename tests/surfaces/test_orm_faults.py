"""Each known fault of earlier ORM caches, on every SELECT and on `Model.cache`."""

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload, with_loader_criteria

import everfresh
from everfresh import orm
from everfresh.orm import asked

from .orm_models import Address, Base, Seat, User, fill, reaching


@pytest.fixture(params=["select", "entity", "list"])
def email(request, orm_engine, orm_cache):
    """Ask for user 1's email in a new session: by a SELECT, an entity, a list of one."""

    def ask(session=None):
        if session is None:
            with Session(orm_engine) as own:
                return ask(own)
        if request.param == "select":
            return session.scalars(sa.select(User).where(User.id == 1)).one().email
        cache = User.cache.using(session)
        found = cache.get(1) if request.param == "entity" else next(cache.filter(id=1))
        return found.email

    return ask


def write(engine, value="new@example.org"):
    with Session(engine) as session:
        session.execute(sa.update(User).where(User.id == 1).values(email=value))
        session.commit()


def elsewhere(act):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result(20)


def between(engine, name, monkeypatch, act, *, after=False):
    """Once, as the driver's own function of this name runs, act in another thread."""
    wrapped = engine.dialect.__dict__[name]
    cell = wrapped.__closure__[wrapped.__code__.co_freevars.index("original")]
    original, done = cell.cell_contents, []

    def acting(*args, **kwargs):
        first = not done
        if first:
            done.append(True)
        if first and not after:
            elsewhere(act)
        result = original(*args, **kwargs)
        if first and after:
            elsewhere(act)
        return result

    monkeypatch.setattr(cell, "cell_contents", acting)


# transactions -------------------------------------------------------------------------


def test_what_is_flushed_is_seen_by_oneself_and_by_nobody_else(orm_engine, email):
    old = email()
    with Session(orm_engine) as writer:
        writer.get(User, 1).email = "mine@example.org"
        writer.flush()
        writer.expire_all()
        assert email(writer) == "mine@example.org"
        if orm_engine.dialect.name == "postgresql":  # a SQLite reader would have to wait
            assert email() == old
        writer.rollback()
        assert email(writer) == old
    assert email() == old


def test_a_fill_between_flush_and_commit_does_not_stay(orm_engine, email):
    with Session(orm_engine) as writer:
        writer.get(User, 1).email = "new@example.org"
        writer.flush()
        assert email() == "u1@example.org"
        writer.commit()
    assert email() == "new@example.org"


def test_a_rollback_drops_nothing(orm_engine, email):
    email()
    with Session(orm_engine) as writer:
        writer.get(User, 1).email = "no@example.org"
        writer.flush()
        writer.rollback()
    with reaching(orm_engine) as seen:
        assert email() == "u1@example.org"
    assert seen == []


def test_a_savepoint_that_is_rolled_back_changes_nothing(orm_engine, email):
    email()
    with Session(orm_engine) as writer:
        writer.get(User, 2).views = 5
        nested = writer.begin_nested()
        writer.get(User, 1).email = "no@example.org"
        writer.flush()
        nested.rollback()
        writer.commit()
    assert email() == "u1@example.org"
    write(orm_engine)
    assert email() == "new@example.org"


# races -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before-the-select", "after-the-select"])
def test_a_commit_while_a_select_runs_voids_it(orm_engine, email, monkeypatch, after):
    """SELECT, then another commits and invalidates, then store."""
    between(orm_engine, "do_execute", monkeypatch, lambda: write(orm_engine), after=after)
    assert email() == ("u1@example.org" if after else "new@example.org")
    assert email() == "new@example.org"


@pytest.mark.parametrize("after", [False, True], ids=["before-the-commit", "after-the-commit"])
def test_a_fill_within_a_commit_does_not_stay(orm_engine, email, monkeypatch, after):
    """A fill between the invalidation and the change becoming visible, and just after it."""
    seen = []
    email()
    between(orm_engine, "do_commit", monkeypatch, lambda: seen.append(email()), after=after)
    write(orm_engine)
    assert seen == ["new@example.org" if after else "u1@example.org"]
    assert email() == "new@example.org"


def test_an_older_fill_does_not_overwrite_a_newer_one(orm_engine, email, monkeypatch):
    """Its SELECT ran before the commit; it ends after another has filled what is new."""
    newer = []

    def meanwhile():
        write(orm_engine)
        newer.append(email())

    between(orm_engine, "do_execute", monkeypatch, meanwhile, after=True)
    assert email() == "u1@example.org"
    assert newer == ["new@example.org"]
    assert email() == "new@example.org"


def test_a_stampede_asks_once(orm_engine, email):
    barrier = threading.Barrier(8)

    def run(_):
        with Session(orm_engine) as session:
            session.connection()
            barrier.wait(10)
            return email(session)

    with reaching(orm_engine) as seen, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(run, range(8))) == {"u1@example.org"}
    reads = [text for text in seen if "email" in text]
    assert len(reads) <= 2  # a SQLite fill may meet the first look at the file


def test_a_fill_from_an_old_snapshot_does_not_stay(orm_engine, email):
    """Under REPEATABLE READ the mark belongs to the snapshot, not to the statement."""
    if orm_engine.dialect.name == "sqlite":
        begin = {"begin": sa.event.listens_for(orm_engine, "begin")}
        begin["begin"](lambda c: c.exec_driver_sql("BEGIN") if c.info.get("snapshot") else None)
    else:
        begin = {}
    with orm_engine.connect() as connection:
        if begin:
            connection.info["snapshot"] = True
            connection.connection.dbapi_connection.execute("PRAGMA journal_mode=WAL")
            connection.connection.dbapi_connection.isolation_level = None
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        reader = Session(connection)
        reader.scalars(sa.select(Address).where(Address.id == 1)).one()  # takes the snapshot
        write(orm_engine)
        assert email(reader) == "u1@example.org"
        assert email() == "new@example.org"
        reader.expire_all()
        assert email(reader) == "u1@example.org"
        reader.close()
        connection.info.pop("snapshot", None)
        if begin:
            connection.connection.dbapi_connection.isolation_level = ""
    assert email() == "new@example.org"


def test_a_snapshot_may_be_answered_by_what_it_sees(orm_engine, email):
    if orm_engine.dialect.name == "sqlite":
        pytest.skip("a SELECT on SQLite begins no transaction by default")
    email()
    with orm_engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        with asked() as seen, Session(connection) as reader:
            assert email(reader) == "u1@example.org"
            write(orm_engine)
            reader.expunge_all()
            assert email(reader) == "u1@example.org"
        assert [one.status for one in seen] == ["hit", "bypass"]


def test_serializable_transactions_reach_the_database(orm_engine, email):
    if orm_engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no such level to ask for")
    email()
    with orm_engine.connect() as connection:
        connection.execution_options(isolation_level="SERIALIZABLE")
        with reaching(orm_engine) as seen, Session(connection) as reader:
            email(reader)
    assert len([text for text in seen if "email" in text]) == 1


def test_eviction_does_not_bring_old_answers_back(orm_engine):
    with everfresh.open(orm_engine, max_bytes=20_000) as cache:
        orm.install(cache, orm_engine)

        def ask(n):
            with Session(orm_engine) as session:
                return session.scalars(sa.select(User.views).where(User.id == n)).one()

        for round_ in range(3):
            for n in range(1, 10):
                ask(n), ask(n)
            with Session(orm_engine) as session:
                session.execute(sa.update(User).values(views=round_ + 10))
                session.commit()
            assert [ask(n) for n in range(1, 10)] == [round_ + 10] * 9
        assert cache.stats().evicted + cache.stats().invalidated > 0


def test_another_process_is_heard(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shared.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        fill(session)
    with everfresh.open(engine, freshness="strict") as cache:
        orm.install(cache, engine)

        def ask():
            with Session(engine) as session:
                return session.get(User, 1).views

        assert (ask(), ask()) == (1, 1)
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
            "c.execute('UPDATE user SET views = 50 WHERE id = 1'); c.commit()"
        )
        subprocess.run([sys.executable, "-c", code, f"{tmp_path}/shared.db"], check=True)
        assert ask() == 50
        with sqlite3.connect(f"{tmp_path}/shared.db") as raw:
            raw.execute("UPDATE user SET views = 51 WHERE id = 1")
        raw.close()
        assert ask() == 51
    engine.dispose()


# the key ---------------------------------------------------------------------------------


def test_values_set_with_params_are_in_the_key(orm_engine, orm_cache):
    statement = sa.select(User.id).where(User.email == sa.bindparam("email"))
    for n in (1, 2, 1, 2):
        with Session(orm_engine) as session:
            chosen = statement.params(email=f"u{n}@example.org")
            assert session.scalars(chosen).all() == [n]
        with Session(orm_engine) as session:
            entities = sa.select(User).where(User.email == sa.bindparam("e"))
            [user] = session.scalars(entities.params(e=f"u{n}@example.org"))
            assert user.id == n


def test_the_engine_is_in_the_key(orm_engine, orm_cache, tmp_path):
    other = sa.create_engine(f"sqlite:///{tmp_path}/second.db")
    Base.metadata.create_all(other)
    with everfresh.open(other) as second:
        orm.install(second, other)
        for _ in range(2):
            with Session(orm_engine) as one, Session(other) as two:
                assert one.get(User, 1).id == 1
                assert two.get(User, 1) is None
            with Session(binds={User: other, Address: orm_engine}) as both:
                assert both.get(User, 1) is None
                assert both.get(Address, 1).id == 1


def test_the_schema_translation_is_in_the_key(orm_engine, orm_cache, tmp_path):
    is_sqlite = orm_engine.dialect.name == "sqlite"
    if is_sqlite:
        pytest.skip("attached files are not kept at all")
    with orm_engine.begin() as connection:
        for name in ("one", "two"):
            connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
            connection.execute(sa.text(f"CREATE SCHEMA {name}"))
            connection.execute(sa.text(f"CREATE TABLE {name}.seat (LIKE public.seat)"))
            connection.execute(
                sa.text(f"INSERT INTO {name}.seat VALUES (7, 'a', 1, '{{\"of\": \"{name}\"}}')")
            )
    for _ in range(3):
        for name in ("one", "two"):
            engine = orm_engine.execution_options(schema_translate_map={None: name})
            with Session(engine) as session:
                assert session.get(Seat, (7, "a")).facts == {"of": name}
            with Session(orm_engine) as session:
                session.connection(execution_options={"schema_translate_map": {None: name}})
                assert session.scalars(sa.select(Seat)).one().facts == {"of": name}


def test_criteria_of_a_later_listener_are_in_the_key(orm_engine, orm_cache):
    visible = [3]

    class Limited(Session):
        pass

    @sa.event.listens_for(Limited, "do_orm_execute")
    def limit(state):
        state.statement = state.statement.options(
            with_loader_criteria(User, User.id <= visible[0], include_aliases=True)
        )

    for count in (3, 5, 3, 9):
        visible[0] = count
        with Limited(orm_engine) as session:
            assert len(session.scalars(sa.select(User)).all()) == count
        with Session(orm_engine) as session:
            assert len(session.scalars(sa.select(User)).all()) == 9


def test_criteria_hold_for_entities_too(orm_engine, orm_cache, monkeypatch):
    class Limited(Session):
        pass

    @sa.event.listens_for(Limited, "do_orm_execute")
    def limit(state):
        state.statement = state.statement.options(with_loader_criteria(User, User.id < 3))

    for _ in range(2):
        with Session(orm_engine) as session:
            assert len(list(User.cache.using(session).filter())) == 9
        with Limited(orm_engine) as session:
            assert [u.id for u in User.cache.using(session).filter()] == [1, 2]


def test_selectinload_options_are_in_the_key(orm_engine, orm_cache):
    for _ in range(2):
        for wanted in ("Oslo", "Rome", "Łódź"):
            with Session(orm_engine) as session:
                only = selectinload(User.addresses.and_(Address.town == wanted))
                users = session.scalars(sa.select(User).options(only)).all()
                towns = {a.town for user in users for a in user.addresses}
                assert towns == {wanted}


@pytest.mark.parametrize("pks", [(0, 1, 2)])
def test_typed_keys_of_entities(orm_engine, orm_cache, pks):
    with Session(orm_engine) as session:
        session.add(User(id=0, username="zero", email="é@example.org", views=1))
        session.commit()
    for _ in range(2):
        with Session(orm_engine) as session:
            cache = User.cache.using(session)
            assert cache.get(0).username == "zero"
            assert cache.get_by(email="é@example.org").id == 0
            assert cache.get_by(email="None") is None
        with Session(orm_engine) as session:
            assert User.cache.using(session).get(1).username == "name1"
    if orm_engine.dialect.name == "sqlite":  # it compares them by its affinity
        with Session(orm_engine) as session:
            assert User.cache.using(session).get("1").id == 1
            assert User.cache.using(session).get(None) is None


# a hit behaves as the query would -------------------------------------------------------------


def test_for_update_is_never_answered_from_memory(orm_engine, orm_cache):
    statement = sa.select(User).where(User.id == 1)
    for _ in range(2):
        with Session(orm_engine) as session:
            session.scalars(statement).one()
    if orm_engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no FOR UPDATE")
    for lock in ({}, {"read": True}, {"nowait": True}, {"skip_locked": True}):
        with reaching(orm_engine) as seen, Session(orm_engine) as session:
            for _ in range(2):
                session.scalars(statement.with_for_update(**lock)).one()
            session.get(User, 1, with_for_update=True)
        assert len(seen) == 3


def test_pending_objects_are_flushed_before_a_hit(orm_engine, email, orm_cache):
    def count(session):
        return session.scalar(sa.select(sa.func.count()).select_from(User))

    email()
    with Session(orm_engine) as session:
        assert (count(session), count(session)) == (9, 9)
    with Session(orm_engine) as session:
        session.add(User(id=50, username="new", email="50@example.org"))
        assert count(session) == 10
        assert User.cache.using(session).count() == 10
        session.get(User, 1).email = "changed@example.org"
        assert email(session) == "changed@example.org"
        session.delete(session.get(User, 50))
        assert count(session) == 9
        assert User.cache.using(session).get(50) is None


def test_a_hit_overwrites_nothing_that_was_modified(orm_engine, email):
    email()
    with Session(orm_engine, autoflush=False) as session:
        user = session.get(User, 1)
        user.email = "mine"
        assert email(session) == "mine"
        assert user.email == "mine"
        assert session.dirty


def test_a_hit_does_not_replace_a_newer_object(orm_engine, email):
    email()
    with Session(orm_engine, expire_on_commit=False) as session:
        user = session.get(User, 1)
        user.email = "newer@example.org"
        session.commit()
        assert email(session) == "newer@example.org"
        assert session.get(User, 1) is user


def test_objects_are_not_shared_between_sessions(orm_engine, email, orm_cache):
    email()
    with Session(orm_engine) as one, Session(orm_engine) as two:
        first, second = one.get(User, 2), two.get(User, 2)
        assert first is not second
        seat, other = (Seat.cache.using(s).get((0, "a")) for s in (one, two))
        seat.facts["p"].append("changed")
        assert other.facts == {"p": [0]}
        one.expire_all()
        assert sa.inspect(second).expired_attributes == set()
    with Session(orm_engine) as three:
        assert Seat.cache.using(three).get((0, "a")).facts == {"p": [0]}
        assert three.scalars(
            sa.select(Seat).where(Seat.row == 0, Seat.place == "a")
        ).one().facts == {"p": [0]}


# lists --------------------------------------------------------------------------------------


def test_a_page_of_misses_is_one_statement(orm_engine, orm_cache):
    orm.FromCache()  # from the first one on sessions are listened to: nothing else is to change
    with reaching(orm_engine) as seen:
        with Session(orm_engine) as session:
            assert len(User.cache.using(session).all(limit=5)) == 5
        assert len(seen) == 1
        with Session(orm_engine) as session:
            found = User.cache.using(session).get_many([1, 2, 99, 3, 1])
            assert [u and u.id for u in found] == [1, 2, None, 3, 1]
        assert len(seen) == 2
        with Session(orm_engine) as session:
            cache = User.cache.using(session)
            assert [cache.get(n).id for n in (1, 2, 3)] == [1, 2, 3]
            assert cache.get(99) is None
            assert [u and u.id for u in cache.get_many([2, 99, 3])] == [2, None, 3]
        assert len(seen) == 2
        with Session(orm_engine) as session:
            assert [u.id for u in User.cache.using(session).get_many([3, 4, 5])] == [3, 4, 5]
        assert len(seen) == 3


def test_what_get_many_kept_is_outdated_one_by_one(orm_engine, orm_cache):
    with Session(orm_engine) as session:
        User.cache.using(session).get_many([1, 2, 77])
    write(orm_engine)
    with Session(orm_engine) as session:
        session.add(User(id=77, username="n", email="77@example.org"))
        session.commit()
    with Session(orm_engine) as session:
        found = User.cache.using(session).get_many([1, 2, 77])
        assert [u.email for u in found] == ["new@example.org", "u2@example.org", "77@example.org"]


def test_listed_rows_are_session_objects_and_deleted_ones_go(orm_engine, orm_cache):
    with Session(orm_engine) as session:
        listed = list(User.cache.using(session).filter())
        assert all(user in session for user in listed)
    with Session(orm_engine) as session:
        session.delete(session.get(User, 9))
        session.commit()
    with Session(orm_engine) as session:
        assert [u.id for u in User.cache.using(session).filter("desc", limit=2)] == [8, 7]


def test_an_assigned_attribute_that_was_expired_leaves_no_old_list(orm_engine, orm_cache):
    def ids(views):
        with Session(orm_engine) as session:
            return [u.id for u in User.cache.using(session).filter(views=views)]

    assert (ids(1), ids(2)) == ([1, 4, 7], [2, 5, 8])
    with Session(orm_engine) as session:
        user = session.get(User, 1)
        session.expire(user)
        user.views = 2  # its history has no old value
        session.commit()
    assert (ids(1), ids(2)) == ([4, 7], [1, 2, 5, 8])


def test_a_negative_entry_does_not_survive_an_autoincrement_insert(orm_engine, orm_cache):
    with Session(orm_engine) as session:
        assert User.cache.using(session).get(10) is None
        assert User.cache.using(session).get_by(email="x@example.org") is None
    with Session(orm_engine) as session:
        if orm_engine.dialect.name == "postgresql":
            session.execute(sa.text("SELECT setval('user_id_seq', 9)"))
        session.add(User(username="x", email="x@example.org"))
        session.commit()
    with Session(orm_engine) as session:
        assert User.cache.using(session).get(10).username == "x"
        assert User.cache.using(session).get_by(email="x@example.org").id == 10


WRITES = {
    "bulk update": lambda s: s.execute(sa.update(User).where(User.id == 1).values(email="w")),
    "bulk update without sync": lambda s: s.execute(
        sa.update(User).where(User.id == 1).values(email="w"),
        execution_options={"synchronize_session": False},
    ),
    "query update": lambda s: s.query(User).filter_by(id=1).update({"email": "w"}),
    "bulk mappings": lambda s: s.execute(sa.update(User), [{"id": 1, "email": "w"}]),
    "Core": lambda s: s.connection().execute(
        User.__table__.update().where(User.__table__.c.id == 1), {"email": "w"}
    ),
    "text": lambda s: s.execute(sa.text("UPDATE \"user\" SET email = 'w' WHERE id = 1")),
    "driver text": lambda s: s.connection().exec_driver_sql(
        "UPDATE \"user\" SET email = 'w' WHERE id = 1"
    ),
    "raw cursor": lambda s: (
        s.connection().connection.cursor().execute("UPDATE \"user\" SET email = 'w' WHERE id = 1")
    ),
}


@pytest.mark.parametrize("how", WRITES)
def test_every_way_of_writing_is_seen(orm_engine, email, how):
    assert email() == "u1@example.org"
    with Session(orm_engine) as session:
        WRITES[how](session)
        session.commit()
    assert email() == "w"


def test_insert_from_select_cascades_and_triggers_are_seen(orm_engine, orm_cache):
    def counts():
        with Session(orm_engine) as session:
            return (
                User.cache.using(session).count(),
                session.scalar(sa.select(sa.func.count()).select_from(Address)),
            )

    with orm_engine.begin() as connection:
        if orm_engine.dialect.name == "sqlite":
            connection.execute(
                sa.text(
                    "CREATE TRIGGER moved AFTER INSERT ON user BEGIN INSERT INTO address "
                    "(user_id, town) VALUES (NEW.id, 'of a trigger'); END"
                )
            )
        else:
            connection.execute(
                sa.text(
                    "CREATE OR REPLACE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS $$ "
                    "BEGIN INSERT INTO address (id, user_id, town) "
                    "VALUES (NEW.id + 1000, NEW.id, 'of a trigger'); RETURN NEW; END $$"
                )
            )
            connection.execute(
                sa.text(
                    'CREATE TRIGGER moved AFTER INSERT ON "user" FOR EACH ROW '
                    "EXECUTE FUNCTION moved()"
                )
            )
    assert (counts(), counts()) == ((9, 12), (9, 12))
    copied = sa.select(User.id + 100, User.username, User.email + "x", User.views)
    with Session(orm_engine) as session:
        session.execute(sa.insert(User).from_select(["id", "username", "email", "views"], copied))
        session.commit()
    assert counts() == (18, 21)
    with Session(orm_engine) as session:
        session.delete(session.get(User, 1))  # with its addresses
        session.commit()
    assert counts() == (17, 18)


def test_texts_and_forms_are_bounded(orm_engine, orm_cache):
    from everfresh.engine import executions
    from everfresh.orm import model_cache

    inner = orm_cache.executions
    for n in range(30):
        with Session(orm_engine) as session:
            session.scalars(sa.select(User.id.label(f"n{n}")).where(User.id == n)).all()
    assert 30 <= len(inner._texts) <= executions._TEXTS
    limit = model_cache._FORMS
    cache = User.cache
    for n in range(limit + 5):
        cache._remember(n, n)
    assert len(cache._forms) <= limit
    cache._forms.clear()


def test_tags_are_bounded(orm_engine, orm_cache):
    inner = orm_cache.executions
    for n in range(5000):
        inner.tag((f"name {n}",), f"key {n}")
    assert len(inner._tags) < 3000


# connections ----------------------------------------------------------------------------------


def test_what_an_unread_cursor_holds_back_does_not_stay(orm_engine, orm_cache):
    """In WAL mode it keeps the snapshot of its connection open for every statement after it."""
    if orm_engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL gives each statement a snapshot of its own")
    statement = sa.select(User.email).where(User.id == 1)
    with orm_engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("SELECT id FROM user")
        cursor.fetchone()
        write(orm_engine)
        assert connection.scalar(statement) == "u1@example.org"
        with Session(orm_engine) as session:
            assert session.scalar(statement) == "new@example.org"
        cursor.close()
    with Session(orm_engine) as session:
        assert session.scalar(statement) == "new@example.org"


def test_who_waits_for_a_fill_that_fails_asks_for_itself(orm_engine, orm_cache, monkeypatch):
    error, waiting = orm_engine.dialect.loaded_dbapi.OperationalError, threading.Event()
    wrapped = orm_engine.dialect.__dict__["do_execute"]
    cell = wrapped.__closure__[wrapped.__code__.co_freevars.index("original")]
    original, first = cell.cell_contents, []

    def failing(*args, **kwargs):
        if not first:
            first.append(True)
            waiting.wait(10)
            raise error("the connection of the one who fills is gone")
        return original(*args, **kwargs)

    def ask():
        with Session(orm_engine) as session:
            return session.get(User, 1).email

    monkeypatch.setattr(cell, "cell_contents", failing)
    with ThreadPoolExecutor(2) as pool:
        filler = pool.submit(ask)
        while not first:
            time.sleep(0.001)
        waiter = pool.submit(ask)
        [fill] = orm_cache.board._ledger.running.values()
        while fill.lease.future is None:  # until somebody waits for it
            time.sleep(0.001)
        waiting.set()
        with pytest.raises(sa.exc.OperationalError):
            filler.result(10)
        assert waiter.result(10) == "u1@example.org"
    assert ask() == "u1@example.org"


def test_a_lost_connection_is_told_as_ever_and_nothing_wrong_is_kept(orm_engine, email):
    if orm_engine.dialect.name != "postgresql":
        pytest.skip("a file has no server to lose")
    email()
    with Session(orm_engine) as session:
        pid = session.scalar(sa.select(sa.func.pg_backend_pid()))
        with orm_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(sa.exc.DBAPIError):
            session.scalars(sa.select(User).with_for_update()).all()
        session.rollback()
        assert email(session) == "u1@example.org"
    write(orm_engine)
    assert email() == "new@example.org"


def test_pages_by_key_turn_through_everything(orm_engine, orm_cache):
    from everfresh.errors import StatementError

    for order in ("asc", "desc", "email", "-views", ["-views", "email"]):
        seen, after = [], None
        with Session(orm_engine) as session:
            cache = User.cache.using(session)
            wanted = [u.id for u in cache.filter(order)]
            while True:
                page = cache.page(order, limit=2, after=after)
                seen += [u.id for u in page.items]
                after = page.next
                if after is None:
                    break
        assert seen == wanted
    with Session(orm_engine) as session:
        cache = User.cache.using(session)
        assert [u.id for u in cache.page(limit=2, views=1).items] == [1, 4]
        for wrong in ("nonsense", "", "W10", 7):
            with pytest.raises(StatementError, match="after="):
                cache.page(limit=2, after=wrong)


def test_read_only_objects_are_shared_and_cannot_be_changed(orm_engine, orm_cache):
    for _ in range(2):
        with Session(orm_engine) as session:
            one = Seat.cache.using(session).struct((0, "a"))
            with pytest.raises(AttributeError):
                one.version = 5
            with pytest.raises(TypeError):
                one.facts["p"] = 1
            assert User.cache.using(session).struct(99) is None
    with Session(orm_engine) as session:
        again = Seat.cache.using(session).structs(row=0)
        assert again is Seat.cache.using(session).structs(row=0)
        assert [s.place for s in again] == ["a", "b"]
    with Session(orm_engine) as session:
        session.get(Seat, (0, "a")).facts = {"p": ["new"]}
        session.commit()
    with Session(orm_engine) as session:
        assert Seat.cache.using(session).struct((0, "a")).facts == {"p": ["new"]}


def test_a_new_object_is_found_before_it_is_flushed(orm_engine, orm_cache):
    def ids(session):
        return [u.id for u in User.cache.using(session).filter(views=2)]

    for _ in range(2):
        with Session(orm_engine) as session:
            assert ids(session) == [2, 5, 8]
    with Session(orm_engine) as session:
        session.add(User(id=50, username="new", email="50@example.org", views=2))
        assert ids(session) == [2, 5, 8, 50]
        session.rollback()
        assert ids(session) == [2, 5, 8]


def test_a_nested_transaction_sees_what_the_one_around_it_wrote(orm_engine, email):
    email(), email()
    with Session(orm_engine) as session:
        session.execute(sa.update(User).where(User.id == 1).values(email="mine"))
        with session.begin_nested():
            assert email(session) == "mine"
            session.expunge_all()
            assert email(session) == "mine"
