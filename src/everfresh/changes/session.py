"""The feed of what this process commits through one SQLAlchemy engine, without any lag.

SQLAlchemy's ``commit`` event fires before the driver's commit, and not at all for raw
connections, AUTOCOMMIT and a textual COMMIT. So the engine's dialect is wrapped where it talks to
the driver: `wrap` puts the functions in place, this module says what happens around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from everfresh.changes.commits import Commits
from everfresh.changes.connections import Connections
from everfresh.changes.pending import Pending
from everfresh.changes.postgres_pending import SharedSchema
from everfresh.changes.postgres_watch import PostgresWatch
from everfresh.changes.publisher import Publisher, SessionMark
from everfresh.changes.statements import Statement, Statements
from everfresh.changes.watching import Mode
from everfresh.changes.wrap import Answering, Call, Wrapping
from everfresh.changes.writers import watch
from everfresh.connect.description import DatabaseSchema
from everfresh.errors import ConfigurationError
from everfresh.kernel.change import Change
from everfresh.kernel.mark import SeenMark
from everfresh.kernel.ports import Listener
from everfresh.kernel.sqltext import classify

__all__ = ["SessionFeed"]

T = TypeVar("T")

Settings = tuple[tuple[str, str], ...]

_KNOWN_STATEMENTS = 4096
"""Texts remembered with what they do; then all are forgotten at once."""


class SessionFeed:
    """Hear every commit of one engine, on SQLite row by row; a `kernel.ports.ChangeFeed`.

    ``row_limit`` is the number of rows of one table in one transaction above which the whole
    table counts as changed; ``slot``: others' commits to PostgreSQL are heard through a replication
    slot. An engine can be watched by one feed at a time: a second one raises
    `ConfigurationError` until the first is closed. An AsyncEngine is watched as its sync_engine.
    """

    name = "session"

    def __init__(self, engine: Engine, *, row_limit: int = 1000, slot: bool = False) -> None:
        engine = getattr(engine, "sync_engine", engine)
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"changes of {engine.dialect.name} databases cannot be heard here: "
                "use SQLite or PostgreSQL"
            )
        self._engine = engine
        self._publisher = Publisher(self.name)
        self._on_begin: Callable[[object], None] | None = None
        self._on_closed: Callable[[object], None] | None = None
        self._schema_version = 0
        self._stamp: tuple[int, ...] = ()
        self.session: Settings | None = None  # that the answers are made with; None before any is
        self._settled: dict[int, object] = {}  # what a reader found out of a connection's session
        self._stirred: set[int] = set()  # connections whose open transaction may have changed it
        self._differ = False  # whether any statement may have changed its session
        self._called: frozenset[str] = frozenset()  # functions of which that is not known yet
        self._shared = SharedSchema(self._schema_changed)
        self._statements = Statements(classify, engine.dialect.name, _KNOWN_STATEMENTS)
        self.watch = watch(engine, self._publisher, row_limit, slot=slot)
        self._connections = Connections(engine, self._shared, row_limit, self.watch)
        self._commits = Commits(engine, self._publisher, self.watch)
        self._wrapping = Wrapping(engine.dialect, self)
        self._connections.watch = self._wrapping.watch_driver
        self._listen(event.listen)
        self._closed = False

    # -- the feed

    def subscribe(self, listener: Listener) -> None:
        """Report every change from now on to this listener."""
        self._publisher.subscribe(listener)

    def mark(self) -> SessionMark:
        """Return what a reader that starts now will have seen at least."""
        return self._publisher.mark()

    def close(self) -> None:
        """Stop hearing, and give the engine its own functions back."""
        if self._closed:
            return
        self._closed = True
        self._listen(event.remove)
        self._wrapping.undo()
        self._commits.close()
        self._connections.close()
        if self.watch is not None:
            self.watch.close()

    # -- other writers; ``watch`` is None where there are none that could be heard

    @property
    def mode(self) -> Mode:
        """How commits of other connections and processes are heard."""
        return "none" if self.watch is None else self.watch.mode

    @property
    def proves(self) -> bool:
        """Whether a mark that was taken in another process can be judged by what is heard here."""
        watch = self.watch
        return watch.proves if isinstance(watch, PostgresWatch) else self.mode == "tracked"

    def poll(self, definitions: float = 0.0) -> bool:
        """Report what others committed before now; return whether that is certain.

        What tables and grants are is looked at too, if that was longer than ``definitions`` seconds
        ago.
        """
        return self.watch is None or self.watch.poll(definitions)

    def history_mark(self, dbapi_connection: object) -> SeenMark | None:
        """Return how much of the database's own history this DBAPI connection sees.

        None where none is kept, and in a transaction that has written.
        """
        raw = getattr(dbapi_connection, "dbapi_connection", dbapi_connection)
        if self.watch is None or self.watch.mode != "tracked" or self.uncommitted(raw):
            return None
        return self.watch.mark(raw)

    def understood(self, snapshot: str, timeline: str) -> SeenMark | None:
        """Return the mark of a PostgreSQL snapshot, None if it is of a server not heard here."""
        watch = self.watch
        return watch.understood(snapshot, timeline) if isinstance(watch, PostgresWatch) else None

    def early(self, mark: SeenMark) -> Sequence[Change] | None:
        """Return what was told of already and a reader with this mark does not see.

        None where that is not known; nothing where what is told of is seen by everybody later.
        """
        watch = self.watch
        return watch.early(mark) if isinstance(watch, PostgresWatch) else ()

    def since(self, mark: SeenMark) -> Sequence[Change] | None:
        """Return all changes after the mark up to now, None if that cannot be told."""
        return None if self.watch is None else self.watch.since(mark)

    # -- what the engine of the cache asks

    @property
    def schema_version(self) -> int:
        """A number that grows when DDL was run, and when it was committed.

        Plans made before are void. It grows before the flux of that commit is lifted.
        """
        return self._schema_version + self._publisher.upheavals

    @property
    def temporary_names(self) -> frozenset[str]:
        """Names of the temporary tables made through this engine; a name may mean one of them."""
        return frozenset(self._shared.temporary)

    def uncommitted(self, dbapi_connection: object) -> bool:
        """Whether this DBAPI connection, or its pool's proxy, has written and not committed."""
        raw = getattr(dbapi_connection, "dbapi_connection", dbapi_connection)
        pending = self._connections.get(raw)
        # One that was checked out before the feed was there may have written anything.
        return pending is None or pending.written()

    def on_begin(self, begun: Callable[[object], None], closed: Callable[[object], None]) -> None:
        """Call these with a DBAPI connection when a transaction begins on it, and when it closes.

        SQLAlchemy's own ``begin`` event would cost every statement some 6 µs.
        """
        self._on_begin, self._on_closed = begun, closed

    def open_transaction(self, dbapi_connection: object) -> bool | None:
        """Whether the driver has a transaction open; None if it has written, or is a stranger."""
        pending = self._connections.get(dbapi_connection)
        if pending is None or not (pending.quiet() or not pending.written()):
            return None
        return pending.in_transaction()

    @property
    def sessions_differ(self) -> bool:
        """Whether a statement may have changed the settings of some session.

        Functions of the database's own may call set_config.
        """
        schema = self._shared.known
        if self._called and schema is not None:
            self._differ = self._differ or bool(self._called & schema.writing_functions())
            self._called = frozenset()
        return self._differ or bool(self._called)

    def settled(self, dbapi_connection: object) -> object:
        """Return what `settle` was told, None once a statement may have changed the session."""
        return self._settled.get(id(dbapi_connection))

    def settle(self, dbapi_connection: object, found: object) -> None:
        """Note what was found out of a session.

        It holds until a statement may change that; where one has in the open transaction, no longer
        than this is open, as its end may undo it.
        """
        self._settled[id(dbapi_connection)] = found

    def reads(self, text: str) -> bool:
        """Whether a text is known to be a query that changes nothing; learns what is new."""
        return text in self._statements.idle or self._statements.learn(text).effect.kind == "read"

    def answer_reads(self, answer: Answering | None) -> None:
        """Let this function run what `reads`, in place of the driver; None takes it off again."""
        self._wrapping.answering = answer

    def writing(self) -> bool:
        """Whether any connection of the engine has written and not committed."""
        return self._connections.writing()

    def written(self, connection: Connection) -> bool:
        """Whether this Connection has written in its open transaction."""
        return self.uncommitted(connection.connection.dbapi_connection)

    def know(self, schema: DatabaseSchema, session: Settings = ()) -> None:
        """Take a schema that was just described, and the settings of the session it was read in."""
        self.session = session
        self._stamp = schema.stamp[:-1]  # without that of the temporary schema
        if schema.dialect == "postgresql":
            self._shared.know(schema)

    # -- called by the wrapped dialect, and by the pool

    def execute(self, run: Callable[[], None], call: Call) -> None:
        """Run a statement that is not known to be a mere read."""
        statement = self._statements.learn(call.text)
        pending = self._connections.adopt(call.raw)
        pending.direct = False
        if statement.changes_session:
            self._differ = True
            self._stir(call.raw)
        elif statement.selects:
            self._called |= statement.calls
            self._stir(call.raw)
        if statement.verb is not None and not statement.several:
            self._control(run, statement, pending)
        elif not statement.idle:
            self._write(run, statement, pending, call)
        else:
            run()
            if statement.effect.kind == "setting" and "temp_store" in call.text.lower():
                pending.schema_changed()  # this PRAGMA drops all that is temporary

    def harmless(self, text: str) -> bool:
        """Whether a text is known to change nothing."""
        return text in self._statements.idle

    def handed_out(self, raw: Any) -> None:
        """Suppose that an asyncio driver's own connection writes anything until the next end."""
        self._connections.adopt(raw).suspect()
        self._differ = True
        self._stir(raw)

    def unheard(self, run: Callable[[], T]) -> T:
        """Run a function of the cache's own, whose statements only read."""
        return self._wrapping.inside(run)

    def _stir(self, raw: object) -> None:
        """Forget what was found out of a session: a SET, or a function, may have changed it."""
        self._settled.pop(id(raw), None)
        self._stirred.add(id(raw))

    def began(self, raw: Any) -> None:
        """Note that SQLAlchemy uses this connection: it was not checked out for raw use."""
        pending = self._connections.get(raw)
        if pending is not None:
            pending.direct = False
        if id(raw) in self._stirred:  # what was set in the last transaction may have gone with it
            self._stirred.discard(id(raw))
            self._settled.pop(id(raw), None)
        if self._on_begin is not None:
            self._on_begin(raw)

    def commit(self, run: Callable[[], None], raw: Any) -> None:
        """Run the driver's commit."""
        pending = self._connections.adopt(raw, suspicious=True)
        self._commits.settle(pending)
        self._commits.commit(run, pending)

    def rollback(self, run: Callable[[], None], raw: Any) -> None:
        """Run the driver's rollback; the pool calls it at check-in too."""
        pending = self._connections.get(raw)
        if pending is not None:
            self._commits.overtaken(pending)
        run()
        if pending is not None:
            self._commits.settle(pending, final=True)
            direct = pending.direct  # if it wrote behind our back, that is told at check-in
            pending.ended()
            pending.direct = direct

    def only_read(self, raw: Any) -> bool:
        """Whether the end of this connection's transaction has nothing to tell anybody."""
        pending = self._connections.get(raw)
        return pending is not None and self._commits.idle(pending)

    def prepare(self, run: Callable[[], None], raw: Any, gid: str) -> None:
        """Run the first phase of a two-phase commit."""
        self._commits.prepare(run, self._connections.adopt(raw), gid)

    def finish(self, run: Callable[[], None], raw: Any, gid: str, *, committed: bool) -> None:
        """Run the second phase of a two-phase commit."""
        self._commits.finish(run, self._connections.adopt(raw), gid, committed=committed)

    def copying(self, call: Call) -> AbstractContextManager[None]:
        """Return a context to run psycopg's COPY in."""
        statement = self._statements.learn(call.text)
        if statement.idle:
            return nullcontext()
        pending = self._connections.adopt(call.raw)
        pending.direct = False
        return self._writing(statement, pending, call)

    # -- statements

    def _write(
        self, run: Callable[[], None], statement: Statement, pending: Pending, call: Call
    ) -> None:
        with self._writing(statement, pending, call):
            self._run(run, pending)

    @contextmanager
    def _writing(self, statement: Statement, pending: Pending, call: Call) -> Iterator[None]:
        self._commits.settle(pending)
        self._commits.overtaken(pending)
        alone = pending.alone(statement)
        pending.before(statement)
        with self._noting_ddl(statement):
            if alone:
                with self._commits.alone(statement, pending, call):
                    yield
                return
            failed = True
            try:
                yield
                failed = False
            finally:
                pending.after(statement, call.cursor, failed=failed)
        if not pending.in_transaction():
            self._commits.late(pending)  # the driver, or a procedure, committed it after all

    def _run(self, run: Callable[[], None], pending: Pending) -> None:
        try:
            run()
        except BaseException as error:
            if not pending.retry(error):
                raise
            run()

    def _control(self, run: Callable[[], None], statement: Statement, pending: Pending) -> None:
        self._commits.settle(pending)
        verb = statement.verb
        if verb == "commit" or (verb == "release" and self._engine.dialect.name == "sqlite"):
            self._commits.commit(run, pending, surely=verb == "commit")
            if verb == "release":
                pending.savepoint(statement)
        elif verb == "rollback":
            self.rollback(run, pending.raw)
        elif verb == "prepare":
            self._commits.prepare(run, pending, statement.name)
        elif verb in ("commit prepared", "rollback prepared"):
            committed = verb == "commit prepared"
            self._commits.finish(run, pending, statement.name, committed=committed)
        else:
            self._begin(run, statement, pending)

    def _begin(self, run: Callable[[], None], statement: Statement, pending: Pending) -> None:
        run()
        if statement.verb == "attach":
            self._schema_changed()
            pending.schema_changed()
        else:
            pending.savepoint(statement)

    @contextmanager
    def _noting_ddl(self, statement: Statement) -> Iterator[None]:
        if statement.effect.temporary:
            self._shared.temporary |= {name for _, name in statement.effect.tables or ()}
        try:
            yield
        finally:
            if statement.alters:
                self._schema_changed()

    def _schema_changed(self) -> None:
        self._schema_version += 1

    # -- the pool; a listener for an event of connections would slow every statement by 6 µs

    def _listen(self, attach: Callable[..., Any]) -> None:
        attach(self._engine, "connect", self._on_connect)
        attach(self._engine, "checkout", self._on_checkout)
        attach(self._engine, "checkin", self._on_checkin)
        attach(self._engine, "close", self._on_close)
        attach(self._engine, "close_detached", self._on_close_detached)

    def _on_connect(self, raw: Any, record: object) -> None:
        self._connections.adopt(raw, known=True)

    def _on_checkout(self, raw: Any, record: object, fairy: object) -> None:
        self._connections.adopt(raw, known=True).direct = True

    def _on_checkin(self, raw: Any, record: object) -> None:
        pending = self._connections.get(raw)
        if pending is not None and not self._commits.idle(pending):
            self._commits.settle(pending, final=True)
            self._commits.overtaken(pending)
            if pending.direct and self._stamp and pending.altered(self._stamp):
                pending.schema_changed()
                self._publisher.report([Change(None)])
            self._commits.report_foreign(pending)

    def _on_close_detached(self, raw: Any) -> None:
        """Forget a connection that will not come back to the pool: no other event tells."""
        self._on_checkin(raw, None)
        self._on_close(raw, None)

    def _on_close(self, raw: Any, record: object) -> None:
        if self._on_closed is not None:
            self._on_closed(raw)
        self._settled.pop(id(raw), None)
        self._stirred.discard(id(raw))
        pending = self._connections.discard(raw)
        if pending is not None:
            self._commits.settle(pending, final=True)
