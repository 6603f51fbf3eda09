"""The cache object: construction, verbs and delegation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, overload

from sqlalchemy.engine import Engine

from everfresh.changes.session import SessionFeed
from everfresh.changes.watching import Tracking, Watch
from everfresh.engine import audit as auditing
from everfresh.engine import why as explaining
from everfresh.engine.attaching import register
from everfresh.engine.backing import Backing
from everfresh.engine.board import Board
from everfresh.engine.executions import Executions
from everfresh.engine.fills import Fills
from everfresh.engine.functions import Cached, FunctionOptions, wrap
from everfresh.engine.lineage import current
from everfresh.engine.proof import Proof, writers_clock
from everfresh.engine.reader import Reader
from everfresh.engine.rows import Rows
from everfresh.engine.statements import Statements
from everfresh.engine.stats import Stats
from everfresh.engine.view import View
from everfresh.errors import ConfigurationError
from everfresh.kernel.closing import Closing
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import Freshness, freshness_of
from everfresh.kernel.score import make_policy
from everfresh.settings import Settings, check_seconds
from everfresh.stores.memory import MemoryStore

__all__ = ["Cache"]

P = ParamSpec("P")
T = TypeVar("T")


class Cache(Closing):
    """Keep the answers of one database and never serve one that the data has outgrown.

    Made by `everfresh.open`. Safe to use from any number of threads. Writes are noticed when they
    go through `engine`, in this process.
    """

    def __init__(self, engine: Engine, settings: Settings | None = None, *, owned: bool = False):
        self.engine = engine
        self.settings = settings or Settings()
        self._owned = owned
        self.freshness = freshness_of(self.settings.freshness)
        self._backing = Backing.open(self.settings)
        try:
            self.feed = SessionFeed(engine, slot=self.settings.feed == "slot")
        except BaseException:
            self._backing.close()
            raise
        store = MemoryStore(
            self.settings.max_bytes, make_policy(self.settings.policy, self.settings.half_life)
        )
        clock = self.settings.clock
        self.board = Board(store, self.feed.mark, clock)
        self.proof = Proof(
            self.feed,
            writers_clock(self.feed, clock),
            self.freshness,
            self.settings.poll_interval,
        )
        self.fills = Fills(self.board, self.proof)
        self.reader = Reader(engine, self.feed, self.settings.plans)
        self._clock = self.proof.clock
        self.fills.durable = self._backing.attach(engine, self.feed, self.board)
        self.statements = Statements(
            self.feed, self.fills, self.reader, self.settings, self.freshness
        )
        self._shortcuts = self.statements.shortcuts
        self._touched = store.touched
        self.executions: Executions | None = None  # made by `attaching.executions_of`
        self.feed.subscribe(self.board)
        register(self)

    # asking -----------------------------------------------------------------

    def sql(
        self, statement: str, parameters: Mapping[str, object] | None = None, /, **named: object
    ) -> Rows:
        """Return the rows of a SELECT, from memory if nothing they depend on has changed.

        ``statement`` is SQL text with ``:name`` parameters, given as keywords or as one mapping.
        Returns `Rows`: an immutable sequence of named rows with a `receipt`. Raises
        `StatementError` for missing or unknown parameters and for statements that write,
        `UnkeyableError` for parameters of unknown types, and the database's own errors.

        >>> import everfresh
        >>> cache = everfresh.open("sqlite://")
        >>> cache.sql("SELECT :a + 1 AS b", a=1).one().b
        2
        >>> cache.sql("SELECT :a + 1 AS b", a=1).receipt.status
        'hit'
        """
        if parameters is not None:
            named = {**parameters, **named}
        try:
            entry = self._shortcuts[
                (statement, *named, *named.values(), *map(type, named.values()))
                if named
                else statement
            ]
        except (KeyError, TypeError):
            return self.statements.ask(statement, named)
        until = self.proof.until  # before the state: a poll between them proves what it outdates
        if (until is None or self._clock() < until) and entry.state == 0 and current() is None:
            entry.hits += 1
            self._touched(entry.standing)
            return entry.value  # type: ignore[return-value]  # entries of `sql` hold Rows
        return self.statements.ask(statement, named)

    @overload
    def cached(self, function: Callable[P, T], /) -> Cached[P, T]: ...
    @overload
    def cached(
        self,
        function: None = None,
        /,
        *,
        depends_on: str | list[str] | tuple[str, ...] = (),
        ttl: float | None = None,
        keep_errors: float | None = None,
        copy: bool = False,
        freshness: Freshness | str | None = None,
        stale_while_revalidate: float | None = None,
        early_refresh: float | None = None,
    ) -> Callable[[Callable[P, T]], Cached[P, T]]: ...
    def cached(self, function: Any = None, /, **options: Any) -> Any:
        """Keep what a function returns, by its arguments, until what it depends on changes.

        What the function reads through this cache is found out by itself; ``depends_on`` names
        tables it reads in other ways. ``ttl``: seconds after which it is computed again anyway.
        ``keep_errors``: seconds for which a raised error is kept too. ``copy``: hand out deep
        copies instead of the kept object itself. ``freshness``, ``stale_while_revalidate`` and
        ``early_refresh`` are as in `Settings`. Coroutine functions work too. The decorated
        function has ``receipt(*args)``, ``key(*args)`` and ``invalidate(*args)``.

        >>> import everfresh
        >>> cache = everfresh.open("sqlite://")
        >>> @cache.cached
        ... def double(n):
        ...     return cache.sql("SELECT :n * 2", n=n).scalar()
        >>> double(4), double(4), double.receipt(4).status
        (8, 8, 'hit')
        """
        chosen = FunctionOptions(
            **{
                "ttl": self.settings.ttl,
                "stale_while_revalidate": self.settings.stale_while_revalidate,
                "early_refresh": self.settings.early_refresh,
                **options,
            }
        )
        if function is None:
            return lambda decorated: wrap(decorated, self.fills, self.reader, chosen)
        return wrap(function, self.fills, self.reader, chosen)

    def using(
        self,
        *,
        connection: Any = None,
        ttl: float | None = None,
        freshness: Freshness | str | None = None,
    ) -> View:
        """Return a view of the cache that reads on a connection, or by another rule of freshness.

        ``connection`` is a SQLAlchemy Connection or Session of this cache's engine. A kept answer
        is given only where the query on that connection would return the same; a query that has
        to run, runs on it, and what it returns is not kept. ``ttl`` and ``freshness`` are as in
        `Settings`.
        """
        check_seconds("ttl", ttl)
        rule = None if freshness is None else freshness_of(freshness)
        return View(self.statements, connection, ttl, rule)

    def track(self, tables: Sequence[str] | None = None) -> Tracking:
        """Make every writer of this database log what it changes; return what is tracked.

        Puts triggers and one change table into it, for these tables or all: then commits of other
        processes are heard row by row, and kept answers can be proven after a restart. The SQL is
        shown by ``everfresh track install``. Raises `ConfigurationError` for a table that cannot
        be tracked, a role that may not do it, and a database that nobody else can write to.
        """
        return self._watch().install(tables)

    def untrack(self) -> Tracking:
        """Take triggers and change table out of the database again."""
        return self._watch().remove()

    def tracking(self) -> Tracking:
        """Return what is tracked, what is not, and why."""
        return self._watch().status()

    def _watch(self) -> Watch:
        self.board.check_open()
        if self.feed.watch is None:
            raise ConfigurationError(
                "this database is in memory and has no other writers: only a SQLite file or a "
                "PostgreSQL database can be tracked"
            )
        return self.feed.watch

    def invalidate(self, what: Any = None, /, **parameters: object) -> int:
        """Drop what is kept and return how many entries went.

        ``what`` is a table's name, a statement with its parameters, an answer or receipt of this
        cache, a key, or None for everything.
        """
        self.board.check_open()
        return explaining.invalidate(self, what, parameters)

    # telling ----------------------------------------------------------------

    def why(self, what: Any, /) -> explaining.Explanation:
        """Explain an answer: where it came from, what it depends on, what last outdated it.

        ``what`` is an answer or a receipt, a key, or a tuple of a cached function and its
        arguments. Raises `NotKeptError` for a key that is not known.
        """
        return explaining.why(self, what)

    def why_not(self, statement: str, /, **parameters: object) -> explaining.Explanation:
        """Explain why a statement would not be answered from memory, with the nearest kept one."""
        return explaining.why_not(self, statement, parameters)

    def audit(self, sample: int | None = None, *, seed: int | None = None) -> auditing.Audit:
        """Ask a sample of the kept queries again and compare; None checks all of them."""
        self.board.check_open()
        found = auditing.audit(self, sample, seed)
        if self.board.recorder is not None:
            self.board.recorder.audited(found.checked, found.stale)
        return found

    def stats(self) -> Stats:
        """Return the figures since the cache was opened."""
        found = replace(self.board.stats(), lag=self.proof.lag, troubles=self._backing.troubles)
        shared = self.fills.durable
        if shared is None:
            return found
        return replace(found, lease_waits=shared.waits, lease_seconds=shared.waited)

    def entries(self) -> list[Entry]:
        """Return what is kept now."""
        return self.board.entries()

    # closing ----------------------------------------------------------------

    def close(self) -> None:
        """Let go of everything; the engine is disposed of if the cache made it."""
        if self.board.closed:
            return
        self.proof.close()
        self._backing.flush()  # before the entries go
        self.board.close(stored=self._backing.store is not None)
        self._backing.close()
        self._shortcuts.clear()
        if self.executions is not None:
            self.executions.close()
        self.feed.close()
        self.reader.close()
        if self._owned:
            self.engine.dispose()

    def __repr__(self) -> str:
        state = "closed" if self.board.closed else f"{len(self.board.entries())} entries"
        return f"<everfresh.Cache {self.engine.url.render_as_string()} {state}>"
