"""Statements: what is known of a text before it runs, and how it is run on the database."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.pool import Pool, StaticPool
from sqlalchemy.sql.elements import TextClause

from everfresh.changes.session import SessionFeed
from everfresh.connect.describe import (
    DatabaseSchema,
    Identity,
    describe,
    describe_unheard,
    identity,
    standing,
)
from everfresh.engine.lineage import Collector, current
from everfresh.engine.rows import Rows, make_rows
from everfresh.errors import ConfigurationError, StatementError
from everfresh.kernel.keys import PLAIN, digest, plain_digest
from everfresh.kernel.mark import SeenMark
from everfresh.kernel.plan import Plan, Source, TableSource
from everfresh.kernel.schema import Table
from everfresh.kernel.sqltext import analyse, only_reads
from everfresh.leases.mutex import Mutex

__all__ = ["Prepared", "Reader", "probe_of"]

# `IN :ids` with a list: SQLAlchemy must be told to write one placeholder per element
_EXPANDING = re.compile(r"\bIN\s*:(\w+)", re.IGNORECASE)
_inherited: list[Pool | None] = []  # closing their connections would be wrong in a child


def probe_of(statement: str, parameters: Mapping[str, object]) -> object:
    """Return what the hit path looks up for these parameters, None if they need a full key."""
    if not all(type(value) in PLAIN for value in parameters.values()):
        return None
    if not parameters:
        return statement
    return (statement, *parameters, *parameters.values(), *map(type, parameters.values()))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Hold a statement that was analysed under one version of the schema."""

    statement: str
    clause: TextClause
    text: str | None  # as the driver takes it, None if it depends on the parameters' values
    order: tuple[str, ...] | None  # of the parameters, None where the driver takes them by name
    names: frozenset[str]
    plan: Plan
    version: int
    digest: str  # of the text and the database: the part of the key that no parameter changes


class Reader:
    """Analyse statements once and run them, on connections of its own or on the caller's."""

    def __init__(self, engine: Engine, feed: SessionFeed, plans: int) -> None:
        self.engine = engine
        self.feed = feed
        self._plans: OrderedDict[str, Prepared] = OrderedDict()
        self._limit = plans
        # an asyncio driver is awaited under it, by greenlets of one thread
        self._lock: Any = Mutex() if engine.dialect.is_async else Lock()
        self._schema: DatabaseSchema | None = None
        self._identity: Identity | None = None
        self._schema_version = -1
        self._is_postgres = engine.dialect.name == "postgresql"
        self._pool = self._own_pool()
        self._process = os.getpid()

    def close(self) -> None:
        """Close the connections of its own."""
        if self._pool is not None:
            self._pool.dispose()

    def prepare(self, statement: str) -> Prepared:
        """Return the statement's plan; it is analysed at most once per version of the schema."""
        prepared = self._plans.get(statement)
        if prepared is not None and prepared.version == self.feed.schema_version:
            return prepared
        with self._lock:
            prepared = self._plans.get(statement)
            if prepared is None or prepared.version != self.feed.schema_version:
                prepared = self._plans[statement] = self._analyse(statement)
                if len(self._plans) > self._limit:
                    self._plans.popitem(last=False)
        return prepared

    def ready(self, statement: object) -> bool:
        """Whether `prepare` would not have to ask the database."""
        prepared = self._plans.get(statement) if isinstance(statement, str) else None
        return prepared is not None and prepared.version == self.feed.schema_version

    def key(self, prepared: Prepared, parameters: Mapping[str, object]) -> str:
        """Return the key of a statement with these parameters on this database."""
        plain = plain_digest(prepared.digest, parameters)
        if plain is not None:
            return plain
        return digest("sql", statement=prepared.digest, parameters=dict(parameters))

    def check(self, prepared: Prepared, parameters: Mapping[str, object]) -> None:
        """Raise `StatementError` unless the parameters are just those the statement names."""
        given = parameters.keys()
        if prepared.names == given:
            return
        missing = ", ".join(sorted(prepared.names - given))
        unknown = ", ".join(sorted(given - prepared.names))
        parts = [f"no value was given for {missing}"] if missing else []
        parts += [f"it has no parameter {unknown}"] if unknown else []
        raise StatementError(f"{' and '.join(parts)}: {_short(prepared.statement)}")

    def refusal(self, prepared: Prepared, parameters: Mapping[str, object]) -> str | None:
        """Return why this statement's answer is not kept, None if it is.

        Raises `StatementError` for a statement that is not a question.
        """
        reason = prepared.plan.refuses(parameters)
        if reason is not None:
            if not only_reads(prepared.statement, self.engine.dialect.name):
                raise StatementError(
                    f"cache.sql only reads; run this on cache.engine: {_short(prepared.statement)}"
                )
            return reason
        return self.temporary(prepared)

    def temporary(self, prepared: Prepared) -> str | None:
        """Return why this statement may read a temporary table, None if it cannot."""
        temporary = self.feed.temporary_names
        if temporary and any(name in prepared.statement.lower() for name in temporary):
            return "it names a temporary table"
        return None

    def whole_tables(self, names: Iterable[str]) -> tuple[Source, ...]:
        """Return sources that any change of these tables touches; a view is all that it reads.

        Where it cannot be told what a view reads, that is the whole database. Raises
        `ConfigurationError` for a table that does not exist.
        """
        schema = self.schema()
        sources: dict[str | None, Source] = {}
        for name in names:
            qualifier, _, bare = name.rpartition(".")
            table = schema.table(qualifier or None, bare)
            if table is None:
                raise ConfigurationError(f"there is no table {name!r} in this database")
            for read in _read_by(table, schema):
                sources[read] = TableSource(read)
        return tuple(sources.values())

    def schema(self) -> DatabaseSchema:
        """Return the tables of the database, read again after every change of them."""
        with self._lock:
            return self._current_schema()

    @property
    def described(self) -> bool:
        """Whether the tables of the database are known as they are now."""
        return self._schema is not None and self._schema_version == self.feed.schema_version

    def describe_on(self, connection: Connection) -> None:
        """Read the tables of the database, if need be, for a caller who holds a connection.

        It may be the last of its pool, so none is taken from there. A SQLite database in memory
        has no other connection.
        """
        if self.described:
            return
        with self._lock:
            if isinstance(self.engine.pool, StaticPool):
                self._describe(connection, describe_unheard)
            elif self._pool is not None:
                with self._connect() as apart:
                    self._describe(apart, describe_unheard)
            else:
                pool = self.engine.pool.recreate()
                try:
                    with Connection(self.engine, connection=pool.connect()) as apart:
                        self._describe(apart, describe_unheard)
                finally:
                    pool.dispose()

    def fill(self, prepared: Prepared, parameters: Mapping[str, object]) -> Rows:
        """Run a statement whose answer may be kept, in a transaction of its own.

        On PostgreSQL the answer of a session with other settings than those in the key is not
        kept. A hit has no session: where a checkout event gives each tenant settings of its own,
        what was kept for one is given to all. Such tenants need an engine and a cache each.
        """
        return self._on_own(lambda connection: self._fill(connection, prepared, parameters))

    def bypass(self, prepared: Prepared, parameters: Mapping[str, object]) -> Rows:
        """Run a statement whose answer is not kept; it must not write."""
        options = {"postgresql_readonly": True} if self._is_postgres else {}
        return self._on_own(
            lambda connection: self.run(
                connection.execution_options(**options), prepared, parameters
            )
        )

    def _on_own(self, read: Callable[[Connection], Rows]) -> Rows:
        try:
            return self._on_new(read)
        except NotSupportedError as error:
            if type(error.orig).__name__ != "InvalidCachedStatementError":
                raise
            return self._on_new(read)  # asyncpg had prepared it before DDL, and has forgotten that

    def _on_new(self, read: Callable[[Connection], Rows]) -> Rows:
        with self._connect() as connection:
            try:
                return read(connection)
            except Exception:
                raise
            except BaseException:  # an interrupt may leave a cursor open, and with it a snapshot
                connection.invalidate()
                raise

    def _fill(
        self, connection: Connection, prepared: Prepared, parameters: Mapping[str, object]
    ) -> Rows:
        if self._is_postgres:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            self._stand(connection, prepared)
            return self.run(connection, prepared, parameters)
        collector = current()
        before = self._own_writes(connection)
        if collector is not None and self.feed.mode == "tracked":
            collector.fill.seen = self.feed.history_mark(connection.connection)
        rows = self.run(connection, prepared, parameters)
        if collector is not None and (before is None or self._own_writes(connection) != before):
            collector.taint("its connection had uncommitted writes")
        return rows

    def run(
        self, connection: Connection, prepared: Prepared, parameters: Mapping[str, object]
    ) -> Rows:
        """Run a statement on this connection and return its rows."""
        if prepared.text is None:
            result = connection.execute(prepared.clause, dict(parameters))
        else:  # compiled once: SQLAlchemy would look it up and wrap it at every execution
            given: Any = parameters
            if prepared.order is not None:
                given = tuple(parameters[name] for name in prepared.order)
            result = connection.exec_driver_sql(prepared.text, given)
        if not result.returns_rows:
            raise StatementError(f"the statement returns no rows: {_short(prepared.statement)}")
        return make_rows(tuple(result.keys()), result.fetchall())

    def _connect(self) -> Connection:
        if isinstance(self.engine.pool, StaticPool) and self.feed.writing():
            # closing our use of the one connection would roll back what was written on it
            raise StatementError(
                "this in-memory database has one connection and a transaction that has written is "
                "open on it: read through cache.using(connection=…), or commit first"
            )
        if self._process != os.getpid():  # a parent's connections are not for its child
            _inherited.append(self._pool)
            self._pool, self._process = self._own_pool(), os.getpid()
        if self._pool is None:
            return self.engine.connect()
        return Connection(self.engine, connection=self._pool.connect())

    def _own_pool(self) -> Pool | None:
        """Return a pool that nobody else uses, None where that is not needed or possible.

        A cursor that was not read to its end keeps its snapshot of a SQLite file open on a
        connection that is back in the pool, and what is read there is old. asyncio's drivers read
        results to their end at once, and their pools cannot be closed from outside their loop.
        """
        pool, dialect = self.engine.pool, self.engine.dialect
        if isinstance(pool, StaticPool) or dialect.is_async or dialect.name != "sqlite":
            return None
        return pool.recreate()

    def _stand(self, connection: Connection, prepared: Prepared) -> None:
        """Note what the next statement will have seen at least; taint what must not be kept.

        A SET outlives its checkout: what a session with other settings answers is not kept. Asked
        every time: functions and raw cursors change settings too, which nothing tells.
        """
        collector = current()
        if collector is None or self._identity is None:
            return
        settings, snapshot, timeline = standing(connection)
        here = Identity(self._identity.database, settings)
        if self._digest(prepared.statement, here) != prepared.digest:
            collector.taint("its session has other settings than the cache's answers are made with")
        collector.fill.seen = self.feed.understood(snapshot, timeline)
        if collector.fill.seen is None and self.feed.mode != "none":
            collector.taint("it was read from a standby, or from another server than is heard")
        elif collector.fill.seen is not None:
            self._check_early(collector, collector.fill.seen)

    def _check_early(self, collector: Collector, seen: SeenMark) -> None:
        """Do not keep what does not see a change that was told of before the fill was there.

        A log tells of commits in another order than they become visible in.
        """
        told = self.feed.early(seen)
        sources = collector.fill.sources
        if told is None or any(source.touched_by(c) for c in told for source in sources):
            collector.taint("a change that it does not see was told of already")

    def _own_writes(self, connection: Connection) -> int | None:
        """Return a stamp of the connection's own writes, None while some are uncommitted.

        A connection may be shared (an in-memory SQLite database has only one): what it reads
        while one of its users is writing must not be kept.
        """
        raw: Any = connection.connection.dbapi_connection
        if self.feed.uncommitted(raw):
            return None
        driver = getattr(raw, "driver_connection", None) or raw  # aiosqlite's adapter has no count
        return int(driver.total_changes)

    def _analyse(self, statement: str) -> Prepared:
        version = self.feed.schema_version
        schema = self._current_schema()
        parsed = self._parse(statement)
        plan = analyse(statement, schema)
        return Prepared(statement, *parsed, plan, version, self._digest(statement, self._identity))

    def _digest(self, statement: str, database: Identity | None) -> str:
        return digest("statement", text=statement, database=database)

    def unplanned(self, statement: str, reason: str) -> Prepared:
        """Return a statement that is only to be run, without looking at the schema."""
        plan = Plan(refusal=reason)
        return Prepared(
            statement, *self._parse(statement), plan, -1, self._digest(statement, self._identity)
        )

    def _parse(
        self, statement: str
    ) -> tuple[TextClause, str | None, tuple[str, ...] | None, frozenset[str]]:
        names = _EXPANDING.findall(statement)
        clause = text(statement)
        compiled: Any = clause.compile(dialect=self.engine.dialect)
        bound = frozenset(compiled.params)
        expanding: list[Any] = [bindparam(name, expanding=True) for name in set(names) & bound]
        if expanding:
            return clause.bindparams(*expanding), None, None, bound
        order = tuple(compiled.positiontup) if compiled.positional else None
        return clause, compiled.string, order, bound

    def _current_schema(self) -> DatabaseSchema:
        if self._schema is None or self._schema_version != self.feed.schema_version:
            with self._connect() as connection:
                return self._describe(connection, lambda c: (describe(c), identity(c)))
        return self._schema

    def _describe(
        self,
        connection: Connection,
        ask: Callable[[Connection], tuple[DatabaseSchema, Identity]],
    ) -> DatabaseSchema:
        version = self.feed.schema_version
        self._schema, self._identity = self.feed.unheard(lambda: ask(connection))
        self.feed.know(self._schema, self._identity.session)
        self._schema_version = version
        return self._schema


def _read_by(table: Table, schema: DatabaseSchema) -> Iterable[str | None]:
    """Return the table, or the tables that a view reads; None stands for the whole database."""
    if table.kind != "view" and table.definition is None:
        return (table.name,)
    place, _, name = (part.replace('"', '""') for part in table.name.partition("."))
    plan = analyse(f'SELECT * FROM "{place}"."{name}"', schema)
    return (None,) if plan.refusal is not None else [source.table for source in plan.sources]


def _short(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= 120 else f"{line[:117]}…"
