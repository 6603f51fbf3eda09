"""Read rows of one mapper from memory, as session objects or as read-only ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Select
from sqlalchemy.orm import Mapper, Session

from everfresh.engine.attaching import ready_executions
from everfresh.engine.executions import Executions
from everfresh.engine.fills import Answer
from everfresh.engine.lineage import current
from everfresh.engine.reading import APART, OPTION, Described, Reading, gathering
from everfresh.engine.recorded import Recorded, mutable_columns
from everfresh.engine.request import Request
from everfresh.engine.rows import frozen
from everfresh.engine.several import Several
from everfresh.kernel.entry import Entry
from everfresh.kernel.keys import PLAIN
from everfresh.orm.instances import (
    Layout,
    begin,
    bind_of,
    connections_of,
    is_plain_session,
    untouched,
)
from everfresh.orm.regions import attached

__all__ = ["UNKNOWN", "Entities", "Form"]

UNKNOWN = object()
_EXACT = PLAIN | {UUID, date}  # equal values of one of these types are the same


class Form:
    """Hold one form of question: its statement, and how its rows become objects.

    ``statement`` selects the layout's columns; ``by_query`` is the ORM's own, for mappers and
    sessions where more happens than loading.
    """

    __slots__ = ("by_query", "name", "statement")

    def __init__(self, name: Hashable, statement: Select[Any], by_query: Select[Any]) -> None:
        self.name = name
        self.statement = statement
        self.by_query = by_query


class _Shape:
    """Hold what was made of recorded rows: typed rows, and read-only objects once asked for."""

    __slots__ = ("mutable", "rows", "structs")

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.rows = rows
        self.mutable = mutable_columns(rows)
        self.structs: tuple[Any, ...] | None = None


class Entities:
    """Answer questions about one mapper, of any session of any engine."""

    def __init__(
        self,
        mapper: Mapper[Any],
        reading: Callable[[str], Reading],
        region: Callable[[], Any],
        name: Callable[[tuple[Any, ...]], str],
    ) -> None:
        self.mapper = mapper
        self.layout = Layout(mapper)
        self.region = region
        self._reading = reading
        self._name = name
        self._struct: type | None = None
        self._bind = {"mapper": mapper}

    # -- session objects

    def one(self, session: Session, key: tuple[Any, ...]) -> Any:
        """Return the object with a primary key if it is kept, `UNKNOWN` otherwise."""
        found = self.loaded(session, ("get", *key, *map(type, key)))
        if found is None:
            return UNKNOWN
        return found[0] if found else None

    def loaded(self, session: Session, probe: tuple[Any, ...]) -> list[Any] | None:
        """Return the session's objects for what is kept, None where a statement has to be run.

        ``probe`` is what was asked, with the types of its values.
        """
        if self.layout.objection is not None or not is_plain_session(session):
            return None
        entry = self.kept(session, probe)
        if entry is None:
            return None
        begin(session)
        shape = entry.value.shaped[self]  # type: ignore[attr-defined]
        return self.layout.load(session, shape.rows, shape.mutable)

    def objects(
        self,
        session: Session,
        form: Form,
        values: Mapping[str, Any],
        key: str,
        probe: tuple[Any, ...] | None = None,
    ) -> list[Any]:
        """Return the session's objects for the rows that answer.

        ``key`` names the answer, ``probe`` is what `loaded` was not given an answer for.
        """
        if self.layout.objection is not None or not is_plain_session(session):
            option = {OPTION: self._reading(key)}
            self.attach(session)
            found = session.scalars(
                form.by_query, values, execution_options=option, bind_arguments=self._bind
            )
            return list(found.unique())
        if probe is None:
            probe = self._probe(form, values)
            kept = self.loaded(session, probe)
            if kept is not None:
                return kept
        rows, mutable = self._ask(session, form, values, key, probe)
        return self.layout.load(session, rows, mutable)

    def scalar(self, session: Session, statement: Select[Any], values: Mapping[str, Any]) -> Any:
        """Return the only cell that answers."""
        self.attach(session)
        option = {OPTION: self._reading("")}
        return session.execute(
            statement, values, execution_options=option, bind_arguments=self._bind
        ).scalar()

    def _ask(
        self,
        session: Session,
        form: Form,
        values: Mapping[str, Any],
        key: str,
        probe: tuple[Any, ...],
    ) -> tuple[list[tuple[Any, ...]], Sequence[int]]:
        executions = self.attach(session)
        seen: list[Answer] = []
        option = {OPTION: replace(self._reading(key), seen=seen.append)}
        found = session.execute(
            form.statement, values, execution_options=option, bind_arguments=self._bind
        )
        rows = [tuple(row) for row in found]
        plain = all(type(value) in _EXACT for value in values.values())
        return self._shaped(executions, probe if plain else None, rows, seen)

    def _shaped(
        self,
        executions: Executions,
        probe: tuple[Any, ...] | None,
        rows: list[tuple[Any, ...]],
        seen: Sequence[Answer],
    ) -> tuple[list[tuple[Any, ...]], Sequence[int]]:
        entry = seen[0].entry if seen else None
        if entry is None or entry.state < 0 or not isinstance(entry.value, Recorded):
            return rows, ()  # nobody else gets them
        shape = entry.value.shaped.get(self)
        if shape is None:
            shape = entry.value.shaped[self] = _Shape(rows)
        if probe is not None:
            executions.board.shorten(entry, executions.shortcuts, (self, *probe))
        return shape.rows, shape.mutable

    def _probe(self, form: Form, values: Mapping[str, Any]) -> tuple[Any, ...]:
        given = values.values()
        return (form.name, *given, *map(type, given))

    def kept(self, session: Session, probe: tuple[Any, ...]) -> Entry | None:
        """Return the entry that may answer without a statement, None where one has to be run."""
        bind = bind_of(session, self.mapper)
        executions = ready_executions(bind)
        if executions is None:
            return None
        try:
            entry = executions.shortcuts[(self, *probe)]
        except (KeyError, TypeError):
            return None
        until = executions.proof.until  # before the state, as in `Cache.sql`
        if (
            (until is None or executions.proof.clock() < until)
            and entry.state == 0
            and untouched(session)
            and self._free(executions, session, bind)
            and current() is None
        ):
            gathered = gathering()
            if gathered is not None:
                gathered.hit(entry)
            entry.hits += 1
            executions.touched(entry.standing)
            return entry
        return None

    def _free(self, executions: Executions, session: Session, bind: Any) -> bool:
        """Whether a query of this session would see what is committed, and no more."""
        connections = connections_of(session)
        if not connections:
            return executions.transactions.usual(bind)
        return len(connections) == 1 and executions.transactions.free_on(connections[0])

    def attach(self, session: Session) -> Executions:
        """Return what answers on the session's engine, with the region checked.

        The session is flushed as for an ORM query: SQLAlchemy 2.0 does not for a Core statement.
        """
        if session.autoflush and not untouched(session):
            session.flush()
        return attached(session.get_bind(self.mapper), self.region())

    # -- several at once

    def many(
        self, session: Session, one: Form, several: Form, keys: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Return the objects of these primary keys, asking for all that is not kept in one go."""
        self.attach(session)  # first, or an object to be deleted would be found
        found: dict[tuple[Any, ...], Any] = {}
        missing: dict[tuple[Any, ...], None] = {}
        for key in dict.fromkeys(keys):
            kept = self._kept_object(session, key)
            if kept is UNKNOWN:
                missing[key] = None
            else:
                found[key] = kept
        if missing:
            found |= self._load_many(session, one, several, list(missing))
        return [found.get(key) for key in keys]

    def _kept_object(self, session: Session, key: tuple[Any, ...]) -> Any:
        there = self.layout.find(session, key)
        return self.one(session, key) if there is None else there

    def _load_many(
        self, session: Session, one: Form, several: Form, missing: list[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Any]:
        executions, reading = self.attach(session), self._reading("")
        values = {"p_0": [key[0] if len(key) == 1 else key for key in missing]}
        option: dict[str, Any] = {OPTION: reading}
        pk_of = self.layout.pk_of
        plain = self.layout.objection is None and is_plain_session(session)
        if reading.place is not None or not plain:
            found = session.scalars(
                several.by_query, values, execution_options=option, bind_arguments=self._bind
            ).unique()
            return {tuple(self.mapper.primary_key_from_instance(o)): o for o in found}
        requests = self._requests(session, executions, one, missing)
        seen: list[Answer] = []
        option[OPTION] = replace(reading, apart=True, anew=True, seen=seen.append)
        with Several(executions.fills, list(requests.values())) as fills:
            result = session.execute(
                several.statement, values, execution_options=option, bind_arguments=self._bind
            )
            rows = [tuple(row) for row in result]
            if seen and seen[0].reason == APART and isinstance(seen[0].entry.value, Recorded):
                self._keep(executions, fills, requests, rows, seen[0])
        return {
            pk_of(row): made
            for row, made in zip(rows, self.layout.load(session, rows), strict=True)
        }

    def _keep(
        self,
        executions: Executions,
        fills: Several,
        requests: dict[tuple[Any, ...], Request],
        rows: list[tuple[Any, ...]],
        answer: Answer,
    ) -> None:
        """Keep each row for itself, and what is not there as such."""
        recorded: Any = answer.entry.value
        raw = {
            self.layout.pk_of(row): (row, kept)
            for row, kept in zip(rows, recorded.rows, strict=True)
        }
        values = {}
        for key, request in requests.items():
            typed, kept = raw.get(key, (None, None))
            part = Recorded(
                () if kept is None else (kept,), recorded.description, -1, recorded.mutable
            )
            part.shaped[self] = _Shape([] if typed is None else [typed])
            values[request.key] = part
        fills.publish(values, answer.entry.cost)
        for key, request in requests.items():
            executions.tag(self._reading(self._name(key)).tags, request.key)

    def _requests(
        self, session: Session, executions: Executions, one: Form, keys: list[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Request]:
        """Return what each would have asked for itself; nothing where nothing may be kept."""
        given = {f"p_{n}": value for n, value in enumerate(keys[0])}
        reading = replace(self._reading(""), describe=True)
        try:
            session.execute(
                one.statement, given, execution_options={OPTION: reading}, bind_arguments=self._bind
            )
            again = None  # the session is of an engine that is not watched
        except Described as described:
            again = described.again
        if again is None:
            return {}
        dialect = session.get_bind(self.mapper).dialect
        bind = [
            c.type.dialect_impl(dialect).bind_processor(dialect) for c in self.mapper.primary_key
        ]
        requests = {}
        for key in keys:
            cells = {
                f"p{n}": value if process is None else process(value)
                for n, (value, process) in enumerate(zip(key, bind, strict=True))
            }
            request = again(cells)
            values = {f"p_{n}": value for n, value in enumerate(key)}
            if all(type(value) in _EXACT for value in key):
                request.probe = (self, *self._probe(one, values))
                request.shortcuts = executions.shortcuts
            requests[key] = request
        return requests

    # -- read-only objects

    def structs(
        self, session: Session, form: Form, values: Mapping[str, Any], key: str
    ) -> tuple[Any, ...]:
        """Return read-only objects, which all readers share."""
        probe = self._probe(form, values)
        entry = self.kept(session, probe)
        if entry is None:
            rows, _ = self._ask(session, form, values, key, probe)
            entry = self.kept(session, probe)
            if entry is None:
                return self._structs_of(rows)
        shape = entry.value.shaped[self]  # type: ignore[attr-defined]
        if shape.structs is None:
            shape.structs = self._structs_of(shape.rows)
        made: tuple[Any, ...] = shape.structs
        return made

    def _structs_of(self, rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        struct = self.struct
        return tuple(struct(*map(frozen, row)) for row in rows)

    @property
    def struct(self) -> type:
        """The class of the read-only objects: a frozen msgspec.Struct of the loaded columns."""
        if self._struct is None:
            self._struct = msgspec.defstruct(
                self.mapper.class_.__name__,
                [(name, Any) for name in self.layout.keys],
                frozen=True,
                module=self.mapper.class_.__module__,
            )
        return self._struct

    def form(self, name: Hashable, make: Callable[[Sequence[Any]], Select[Any]]) -> Form:
        """Return a form of question; ``make`` is given what to select."""
        return Form(name, make(self.layout.columns), make((self.mapper.class_,)))
