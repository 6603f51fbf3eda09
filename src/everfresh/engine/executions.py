"""Answer statements where SQLAlchemy calls the driver: on the connection they were given to.

By then nothing of a statement is left to guess: its text is the driver's, with every option,
criterion, schema translation and expanded list in it, and its parameters are those of this
execution. What is kept are raw rows; on a hit SQLAlchemy reads them from a cursor of ours and does
with them whatever it would have done, so results, types and loaded objects are its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only, greenlet_spawn

from everfresh.changes.sqlite_bracket import idle
from everfresh.engine.driver_text import by_name, named
from everfresh.engine.fills import Answer
from everfresh.engine.lineage import active, current
from everfresh.engine.places import Lodged, Place
from everfresh.engine.reader import Prepared
from everfresh.engine.reading import APART, OPTION, Asked, Described, Reading, gathering
from everfresh.engine.recorded import Recorded, Replay, record
from everfresh.engine.request import Request
from everfresh.engine.statements import Statements
from everfresh.errors import NotKeptError, RecursiveFillError, UnkeyableError
from everfresh.kernel.entry import Entry
from everfresh.kernel.freshness import STRICT
from everfresh.kernel.keys import PLAIN, digest, plain_digest

__all__ = ["Executions"]

_TEXTS = 4096  # statements remembered with their plan; then all are forgotten at once


@dataclass(slots=True, eq=False)
class _Text:
    """Hold what is known of a driver's text under one version of the schema.

    ``reading`` is that of its models, ``refusal`` says why its answers are not kept, ``plain``
    whether the hit path may look for it.
    """

    prepared: Prepared
    order: tuple[str, ...] | None
    version: int
    reading: Reading | None
    refusal: str | None
    plain: bool


@dataclass(slots=True)
class _Asking:
    request: Request
    reading: Reading
    connection: Connection
    snapshot: bool
    known: _Text
    looked: float  # when others' commits were heard last, in seconds of the cache's clock


class Executions:
    """Answer what runs on the connections of one cache's engine; one for each cache.

    ``default`` is the rule for statements without an option of their own, ``reading_of`` gives the
    rule of a statement that reads these tables. ``row_limit``: answers of more rows are not kept.
    """

    def __init__(self, statements: Statements, row_limit: int = 10_000) -> None:
        self.default: Reading | None = None
        self.reading_of: Callable[[frozenset[str], Any], Reading | None] = lambda *_: None
        self.shortcuts: dict[object, Entry] = {}
        self.row_limit = row_limit
        self.board = statements.board
        self.fills = statements.fills
        self.proof = statements.proof
        self.transactions = statements.transactions
        self.clock = statements.settings.clock
        self._statements = statements
        self._feed = statements.feed
        self._reader = statements.reader
        self.touched = statements.board.store.touched
        dialect = statements.reader.engine.dialect
        self._paramstyle = dialect.paramstyle
        self._is_async = dialect.is_async
        self._is_sqlite = dialect.name == "sqlite"
        self._free = self.transactions.free
        self._texts: dict[str, _Text] = {}
        self._tags: dict[str, set[str]] = {}
        self._busy: ContextVar[bool] = ContextVar("everfresh_busy", default=False)
        self._feed.answer_reads(self.answer)

    def drop(self, key: str, reason: str) -> int:
        """Drop what is kept under a key, and void what is being computed for it."""
        return self.board.invalidate([key], reason)

    def fresh(self, request: Request) -> Entry | None:
        """Return the entry that may answer a described request now."""
        entry = self.board.peek(request.key)
        return entry if entry is not None and request.takes(entry, self.clock()) else None

    def given(self, request: Request, make: Callable[[], Any], tags: tuple[str, ...]) -> Any:
        """Return what somebody makes in place of the rows, and keep it as the rows would be."""
        answer = self.fills.answer(request, make)
        value = answer.value()
        if answer.entry.state >= 0:
            self.tag(tags, answer.entry.key)
        return value

    # the hit path -------------------------------------------------------------------

    def answer(
        self, run: Callable[[], None], cursor: Any, text: str, parameters: Any, context: Any
    ) -> None:
        """Answer a query, or let it run."""
        options = context.execution_options
        reading = options.get(OPTION, self.default)
        if reading is None or reading is False:
            run()
            return
        known = self._texts.get(text)
        if known is not None and reading is self.default:
            if known.refusal is not None and known.version == self._feed.schema_version:
                self._pass(run, text, parameters, known.refusal)
                return
            if known.plain:
                try:
                    entry = self.shortcuts[probe_of(text, parameters)]
                except (KeyError, TypeError):
                    entry = None
                if entry is not None and "stream_results" not in options:
                    until = self.proof.until  # before the state, as in `Cache.sql`
                    if (
                        (until is None or self.proof.clock() < until)
                        and entry.state == 0
                        and self._free(
                            _raw(context.root_connection) if self._is_async else cursor.connection
                        )
                        and current() is None
                    ):
                        entry.hits += 1
                        self.touched(entry.standing)
                        gathered = gathering()
                        if gathered is not None:
                            gathered.hit(entry)
                        context.cursor = Replay(entry.value, cursor)  # type: ignore[arg-type]
                        return
        self._look(run, cursor, text, parameters, context)

    def _pass(self, run: Callable[[], None], text: str, parameters: Any, reason: str) -> None:
        if self._busy.get():
            run()
            return
        self.board.counters.bypass(reason)
        collector = active()
        if collector is not None:
            collector.taint(f"it used an answer that was not kept: {reason}")
        gathered = gathering()
        if gathered is None:
            run()
            return
        started = time.perf_counter()
        run()
        spent = time.perf_counter() - started
        gathered.append(Asked(text, parameters, "bypass", reason, spent))

    # everything else ----------------------------------------------------------------

    def _look(
        self, run: Callable[[], None], cursor: Any, text: str, parameters: Any, context: Any
    ) -> None:
        if self._busy.get() or self.board.closed:
            run()
            return
        option = context.execution_options.get(OPTION)
        token = self._busy.set(True)
        try:
            asking = self._asking(text, parameters, context, option)
        finally:
            self._busy.reset(token)
        if isinstance(option, Reading) and option.describe:
            raise self._described(asking)
        if isinstance(asking, str):
            if isinstance(option, Reading) and option.only_kept:
                raise NotKeptError(f"nothing is kept for this statement: {asking}")
            self._pass(run, text, parameters, asking)
            return
        try:
            answer = self._answer(asking, run, cursor, context)
        except RecursiveFillError:  # somebody asks from within the driver: so did the application
            self._pass(run, text, parameters, "it was asked while it was being computed")
            return
        gathered = gathering()
        if gathered is not None:
            spent = 0.0 if answer.status == "hit" else answer.entry.cost
            gathered.append(
                Asked(text, parameters, answer.status, answer.reason, spent, answer.entry)
            )
        if asking.reading.seen is not None:
            asking.reading.seen(answer)

    def _asking(self, text: str, parameters: Any, context: Any, option: object) -> _Asking | str:
        """Return what to ask the engine, or why nothing kept may answer and nothing be kept."""
        connection: Connection = context.root_connection
        if self._feed.uncommitted(_raw(connection)):
            return "its transaction has written"  # nor is the schema read: it may be its own
        known = self._known(text, connection, context.invoked_statement)
        if isinstance(known, str):
            return known
        options = context.execution_options
        if options.get("stream_results") or options.get("yield_per"):
            return "its rows are streamed"
        reading = self._reading(option, known)
        if not reading.enabled:
            return "its model, or the statement itself, asks for the database"
        given = by_name(parameters, known.order)
        reason = known.prepared.plan.refuses(given) or known.refusal
        reason = reason or self.transactions.objection(connection)
        if reason is not None:
            return reason
        snapshot = self.transactions.keeps_snapshot(connection)
        rule = STRICT if snapshot else self._statements.freshness
        try:
            request = self._request(known, given, reading)
        except UnkeyableError as error:
            return f"a parameter has no key: {error}"
        request.ttl = rule.lifetime(self._statements.settings.ttl)
        if known.plain and option is None and all(type(v) in PLAIN for v in given.values()):
            request.probe = probe_of(text, parameters)
        looked = self.clock()
        reason = self.proof.objection(rule, request.sources)
        return reason or _Asking(request, reading, connection, snapshot, known, looked)

    def _known(self, text: str, connection: Connection, statement: Any) -> _Text | str:
        """Return what is known of a driver's text, or why that cannot be found out."""
        known, version = self._texts.get(text), self._feed.schema_version
        if known is not None and known.version == version:
            return known
        if not self._reader.described and self.transactions.keeps_snapshot(connection):
            return "its snapshot may be of an older schema"
        written, order = named(text, self._paramstyle)
        try:
            self._reader.describe_on(connection)
            prepared = self._reader.prepare(written)
        except Exception as error:
            return f"the schema cannot be read ({type(error).__name__})"
        plan = prepared.plan
        refusal = plan.refusal or self._reader.temporary(prepared)
        if refusal is None and not plan.sources:
            refusal = "it reads no table"  # as SELECT 1, which asks whether somebody is there
        tables = frozenset(one.table for one in plan.sources if one.table is not None)
        reading = self.reading_of(tables, statement)
        usual = self._reading(None, reading)
        if len(self._texts) >= _TEXTS:
            self._texts.clear()
        found = _Text(prepared, order, version, reading, refusal, usual == Reading())
        self._texts[text] = found
        return found

    def _reading(self, option: object, known: _Text | Reading | None) -> Reading:
        of_model = known.reading if isinstance(known, _Text) else known
        wider = self.default or Reading(False)
        if of_model is not None:
            wider = of_model.within(wider)
        if option is True:
            return Reading().within(wider)
        return option.within(wider) if isinstance(option, Reading) else wider

    def _described(self, asking: _Asking | str) -> Described:
        if isinstance(asking, str):
            return Described(asking)
        if asking.snapshot:
            return Described("its transaction reads from one snapshot")
        known, reading, ttl = asking.known, asking.reading, asking.request.ttl

        def again(given: dict[str, object]) -> Request:
            request = self._request(known, given, reading)
            request.ttl = ttl
            return request

        return Described(asking.request, again)

    def _request(self, known: _Text, given: dict[str, object], reading: Reading) -> Request:
        prepared, feed = known.prepared, self._feed
        return Request(
            key=_key(prepared, given, reading.name),
            kind="rows",
            label=prepared.statement,
            sources=prepared.plan.bind(given),
            max_age=reading.max_age,
            anew=reading.anew,
            shortcuts=self.shortcuts,
            detail=given,
            current=lambda: feed.schema_version == prepared.version,
        )

    def _answer(
        self, asking: _Asking, run: Callable[[], None], cursor: Any, context: Any
    ) -> Answer:
        request = asking.request
        place = asking.reading.place
        entry = self._kept(asking)
        found = None if entry is None else _rows(entry, place)
        if entry is not None and found is not None:
            context.cursor = Replay(found, cursor)
            self.tag(asking.reading.tags, entry.key)
            return self.fills.hit(entry)
        if entry is not None:  # what lay in another place has gone
            request.anew = True
        if asking.reading.only_kept:
            raise NotKeptError(f"nothing is kept under {request.key}")
        if asking.snapshot:  # it joins no other's computation, and takes no younger answer
            request.alone = request.anew = True
        computing = _Computing(self, asking, run, cursor, context)
        if self._is_async:
            answer = await_only(self.fills.answer_async(request, lambda: greenlet_spawn(computing)))
        else:
            answer = self.fills.answer(request, computing)
        if computing.ran:
            answer.value()  # raises what the database raised
            return self._kept_now(answer, asking)
        found = _rows(answer.entry, place) if answer.entry.state >= 0 else None
        if found is None:  # another's connection failed, or saw what this one must not
            run()
        else:
            context.cursor = Replay(found, cursor)
        return answer

    def _kept_now(self, answer: Answer, asking: _Asking) -> Answer:
        if answer.entry.state >= 0:
            self.tag(asking.reading.tags, answer.entry.key)
        return answer

    def _kept(self, asking: _Asking) -> Entry | None:
        request = asking.request
        entry = self.board.peek(request.key)
        if entry is None or not request.takes(entry, self.clock()):
            return None
        if asking.snapshot and not self._at_the_snapshot(asking, entry):
            return None
        if request.probe is not None and not asking.snapshot:
            self.board.shorten(entry, self.shortcuts, request.probe)
        return entry

    def _at_the_snapshot(self, asking: _Asking, entry: Entry) -> bool:
        """Whether an entry that is fresh now was so in the transaction's snapshot.

        It was if nothing at all was committed since: then it may be this transaction's own.
        """
        transactions, connection = self.transactions, asking.connection
        if transactions.answers(connection, entry):
            return True
        return entry.filled_at <= asking.looked and not transactions.overtaken(connection)

    def stamp(self, connection: Connection) -> int | None:
        """Return a stamp of what was written on this connection, None if it must not be read.

        A SQLite cursor that was not read to its end keeps its snapshot open for every statement
        after it, and an in-memory database has one connection for all.
        """
        if not self._is_sqlite:
            return 0
        raw = _raw(connection)
        opened = self._feed.open_transaction(raw)
        if opened is None or not (opened or idle(raw)):
            return None
        driver = getattr(raw, "driver_connection", None) or raw
        return int(driver.total_changes)

    # tags ---------------------------------------------------------------------------

    def tag(self, names: tuple[str, ...], key: str) -> None:
        """Let what is kept under a key be dropped by these names."""
        for name in names:
            keys = self._tags.setdefault(name, set())
            keys.add(key)
            if _at_a_power_of_two(keys):
                self._tags[name] = {one for one in keys if self.board.peek(one) is not None} | {key}
        if names and _at_a_power_of_two(self._tags):
            for name, keys in list(self._tags.items()):
                if all(self.board.peek(one) is None for one in keys):
                    del self._tags[name]

    def invalidate(self, *names: str) -> int:
        """Drop what is kept under these tags; return how many answers went."""
        keys = set[str]().union(*(self._tags.pop(name, set()) for name in names))
        return self.board.invalidate(keys, f"its tag was dropped: {', '.join(names)}")

    def forget(self) -> None:
        """Ask again for the rule of every statement."""
        self.shortcuts.clear()
        self._texts.clear()

    def close(self) -> None:
        """Let everything run from now on."""
        self._feed.answer_reads(None)
        self.forget()


class _Computing:
    """Run a statement where it was given, and keep what the driver answers."""

    __slots__ = ("_asking", "_context", "_cursor", "_owner", "_run", "ran")

    def __init__(
        self,
        owner: Executions,
        asking: _Asking,
        run: Callable[[], None],
        cursor: Any,
        context: Any,
    ) -> None:
        self._owner, self._asking = owner, asking
        self._run, self._cursor, self._context = run, cursor, context
        self.ran = False

    def __call__(self) -> Recorded | Lodged | None:
        owner, connection = self._owner, self._asking.connection
        collector = current()
        assert collector is not None  # noqa: S101 - `Fills` computes inside one
        self.ran = True
        if self._asking.snapshot and owner.transactions.overtaken(connection):
            collector.taint("something was committed after its transaction took its snapshot")
        before = owner.stamp(connection)
        if before is None:
            collector.taint("its connection has an unread cursor, or uncommitted writes")
        self._run()
        found = record(self._cursor, owner.row_limit)
        if before is not None and owner.stamp(connection) != before:
            collector.taint("its connection was written on meanwhile")
        if isinstance(found, Replay):
            collector.taint(f"it has more than {owner.row_limit} rows")
            self._context.cursor = found
            return None
        self._context.cursor = Replay(found, self._cursor)
        if self._asking.reading.apart:
            collector.taint(APART)  # last: the first reason is the one that is told
        place = self._asking.reading.place
        return found if place is None else place.put(self._asking.request.label, found)


def _rows(entry: Entry, place: Place | None) -> Recorded | None:
    """Return the rows of an entry, from wherever they lie."""
    value = entry.value
    if isinstance(value, Lodged):
        return None if place is None else place.get(value)
    return value if isinstance(value, Recorded) else None


def _at_a_power_of_two(names: Any) -> bool:
    return len(names) >= 1024 and len(names).bit_count() == 1


def _raw(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def probe_of(text: str, parameters: Any) -> tuple[Any, ...]:
    if type(parameters) is tuple:
        return (text, *parameters, *map(type, parameters))
    values = parameters.values()
    return (text, *parameters, *values, *map(type, values))


def _key(prepared: Prepared, given: dict[str, object], name: str) -> str:
    """Return the key of a driver's statement; as `Reader.key`, for another kind of value."""
    plain = plain_digest(f"rows {prepared.digest} {name!r} ", given)
    if plain is not None:
        return plain
    return digest("rows", statement=prepared.digest, name=name, parameters=given)
