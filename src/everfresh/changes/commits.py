"""Around a commit: flux before it, the outcome after it, whatever it turns out to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from sqlalchemy.engine import Engine

from everfresh.changes.outcome import Resolver, Unresolved
from everfresh.changes.pending import Pending
from everfresh.changes.publisher import Flux, Publisher
from everfresh.changes.sqlite_bracket import Ticket
from everfresh.changes.statements import Statement
from everfresh.changes.watching import Watch
from everfresh.changes.wrap import Call
from everfresh.kernel.change import Change

__all__ = ["Commits"]

Outcome = Literal["open", "aborted", "unknown"]


class Commits:
    """Raise flux before a driver's commit and lower it only on a known outcome."""

    def __init__(self, engine: Engine, publisher: Publisher, watch: Watch | None) -> None:
        self._watch = watch
        self._bracket = None if watch is None else watch.bracket  # tells ours from others'
        self._dialect: Any = engine.dialect
        self._publisher = publisher
        self._resolver = Resolver(engine, self._settle)
        self._prepared: dict[str, Flux] = {}
        self._unfinished: dict[int, tuple[Flux, Sequence[Change], Ticket | None]] = {}

    def close(self) -> None:
        """Stop asking for outcomes."""
        self._resolver.close()

    def commit(self, run: Callable[[], None], pending: Pending, *, surely: bool = True) -> None:
        """Run a commit of what is pending; not ``surely`` if it may leave a transaction open."""
        changes = pending.changes()
        if not changes:
            run()
            if surely or not pending.in_transaction():
                pending.ended()
            return
        flux = self._publisher.begin(changes)
        try:
            pending.tell(changes)
            with self._committing(pending):
                run()
        except BaseException as error:
            self._failed(error, flux, pending)
            raise
        committed = surely or not pending.in_transaction()
        self._end(flux, changes, committed=committed)
        if surely or committed:
            pending.ended()

    @contextmanager
    def alone(self, statement: Statement, pending: Pending, call: Call) -> Iterator[None]:
        """Bracket a statement that commits by itself."""
        changes = pending.potential(statement)
        flux = self._publisher.begin(changes) if changes else None
        ticket, committed = self._start(pending), False
        try:
            yield
            committed = not (flux is not None and pending.unfinished(call.cursor))
        except BaseException as error:
            pending.after(statement, call.cursor, failed=True)
            half = call.many or statement.several or statement.effect.kind != "write"
            if flux is not None:
                self._alone_failed(error, flux, pending, half=half)
            raise
        finally:
            if self._bracket is not None:
                self._bracket.end(ticket, committed=committed)
        if flux is not None and not committed:
            self._unfinished[id(pending)] = (flux, pending.changes(), ticket)
            return
        pending.after(statement, call.cursor, failed=False)
        if flux is not None and pending.in_transaction() and not statement.several:
            self._publisher.end(flux, committed=False)  # the driver began one after all
            return
        if flux is not None:
            self._end(flux, pending.changes())
        pending.ended()
        if statement.several and pending.in_transaction():
            pending.suspect()  # what stands behind a COMMIT in the text is open

    def idle(self, pending: Pending) -> bool:
        """Whether the end of this transaction has nothing to tell anybody."""
        return pending.quiet() and id(pending) not in self._unfinished

    def overtaken(self, pending: Pending) -> None:
        """Report writes whose transaction is over although we saw no end of it.

        Somebody called the driver's own commit, or its rollback: that cannot be told apart.
        """
        if id(pending) not in self._unfinished and not pending.in_transaction():
            self.late(pending)

    def late(self, pending: Pending) -> None:
        """Report what was committed where no commit was expected."""
        if changes := pending.changes():
            self._publisher.report(changes)
        pending.ended()

    def report_foreign(self, pending: Pending) -> None:
        """Report that a connection wrote behind our back: anything may have changed."""
        if pending.foreign():
            self._publisher.report([Change(None)])
            pending.ended()

    def settle(self, pending: Pending, *, final: bool = False) -> None:
        """End the flux of a RETURNING statement that commits when its rows have been read."""
        waiting = self._unfinished.get(id(pending))
        if waiting is None or not (final or pending.finished()):
            return
        flux, changes, ticket = self._unfinished.pop(id(pending))
        if self._bracket is not None:
            self._bracket.finish(ticket)
        self._end(flux, changes)
        pending.ended()

    def prepare(self, run: Callable[[], None], pending: Pending, gid: str) -> None:
        """Run PREPARE TRANSACTION: the flux stays until the second phase."""
        changes = pending.changes()
        flux = self._publisher.begin(changes)
        try:
            pending.tell(changes)
            run()
        except BaseException as error:
            if self._outcome(error, pending) == "unknown":
                self._resolver.add(Unresolved(flux, gid=gid))
            else:
                self._publisher.end(flux, committed=False)
            pending.ended()
            raise
        self._prepared[gid] = flux
        pending.ended()

    def finish(
        self, run: Callable[[], None], pending: Pending, gid: str, *, committed: bool
    ) -> None:
        """Run COMMIT PREPARED or ROLLBACK PREPARED; another process may have prepared it."""
        flux = self._prepared.pop(gid, None) or self._publisher.begin([Change(None)])
        try:
            run()
        except BaseException:
            # Whatever the error says: once the server does not list it any more, it is over.
            self._resolver.add(Unresolved(flux, gid=gid))
            raise
        self._end(flux, flux.changes, committed=committed)

    def _end(self, flux: Flux, changes: Sequence[Change], *, committed: bool = True) -> None:
        """Lift a flux; where the database itself tells what was changed, what is left is told."""
        if committed and self._watch is not None:
            changes = self._watch.told(changes)
        self._publisher.end(flux, committed=committed, changes=changes)

    def _committing(self, pending: Pending) -> AbstractContextManager[None]:
        return nullcontext() if self._bracket is None else self._bracket.committing(pending.raw)

    def _start(self, pending: Pending) -> Ticket | None:
        return None if self._bracket is None else self._bracket.start(pending.raw)

    def _failed(self, error: BaseException, flux: Flux, pending: Pending) -> None:
        outcome = self._outcome(error, pending)
        if outcome == "open":  # BUSY: nothing is committed, and it may be tried again
            self._publisher.end(flux, committed=False)
            return
        self._end_failed(outcome, flux, pending)

    def _alone_failed(
        self, error: BaseException, flux: Flux, pending: Pending, *, half: bool
    ) -> None:
        """Void what a failed statement may have changed: executemany may have done ``half``."""
        server = self._dialect.name == "postgresql"
        if server and self._outcome(error, pending) == "unknown":
            self._end_failed("unknown", flux, pending)
        elif pending.in_transaction():
            self._publisher.end(flux, committed=False)
        else:
            changes = pending.changes() if half or not server else []
            self._publisher.end(flux, committed=bool(changes), changes=changes)
            pending.ended()

    def _end_failed(self, outcome: Outcome, flux: Flux, pending: Pending) -> None:
        pid = getattr(pending, "pid", None)
        if outcome == "unknown" and self._dialect.name == "postgresql":
            self._resolver.add(Unresolved(flux, pid=pid))
        else:
            self._publisher.end(flux, committed=outcome == "unknown")
        pending.ended()

    def _outcome(self, error: BaseException, pending: Pending) -> Outcome:
        if self._dialect.name == "sqlite":
            return "open" if pending.in_transaction() else "unknown"
        raw = pending.raw
        if not isinstance(error, self._dialect.loaded_dbapi.Error) or getattr(raw, "closed", False):
            return "unknown"
        return "unknown" if self._dialect.is_disconnect(error, raw, None) else "aborted"

    def _settle(self, item: Unresolved) -> None:
        self._publisher.end(item.flux, committed=True)
