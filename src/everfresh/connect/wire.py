"""One connection to PostgreSQL below SQLAlchemy: every wait has a limit, answers come as text.

The drivers wait for a server that has stopped answering as long as TCP does, which may be for ever.
Change feeds and leases must notice, so they speak libpq through psycopg's `pq` and wait on the
socket themselves.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, Engine

from everfresh.errors import ConnectionFailedError, MissingExtraError

if TYPE_CHECKING:
    from psycopg import pq

__all__ = ["Wire", "conninfo"]

_CONNECT = 5  # seconds; libpq takes whole ones, and at least two

Row = tuple[str | None, ...]


def conninfo(database: Engine | URL, **more: object) -> str:
    """Return libpq's connection string for a database; ``more`` are further parameters.

    It holds the password: never show it. Raises `MissingExtraError` without psycopg, and
    `ConnectionFailedError` where an engine cannot tell what it connects with.
    """
    try:
        from psycopg import conninfo as made
    except ImportError:
        raise MissingExtraError("postgres", "hearing other writers of PostgreSQL") from None
    known = _of_url(database) if isinstance(database, URL) else _of_engine(database)
    known |= {"connect_timeout": _CONNECT, "application_name": "everfresh", **more}
    known["client_encoding"] = "UTF8"  # whatever the database's own is
    return made.make_conninfo(**known)


def _of_engine(engine: Engine) -> dict[str, Any]:
    """Return what the engine connects with: by its own function where that tells, else by URL."""
    driver = engine.dialect.driver
    if driver not in ("psycopg", "psycopg2") or engine.dialect.is_async:
        return _of_url(engine.url)
    try:
        raw: Any = engine.pool._creator()  # type: ignore[call-arg]  # noqa: SLF001
    except Exception as error:  # the driver's own, or of a function of the user's
        raise ConnectionFailedError(f"PostgreSQL cannot be reached: {error}") from error
    try:
        info = raw.info
        known = dict(info.get_parameters() if driver == "psycopg" else info.dsn_parameters)
        known |= {"host": info.host, "port": info.port, "password": info.password}
    finally:
        raw.close()
    known.pop("options", None)  # settings of the user's sessions, not of ours
    return {name: value for name, value in known.items() if value not in (None, "")}


def _of_url(url: URL) -> dict[str, Any]:
    named = {"host": url.host, "port": url.port, "dbname": url.database}
    named |= {"user": url.username, "password": url.password}
    tls = {name: url.query[name] for name in url.query if name.startswith("ssl")}
    return {name: value for name, value in {**named, **tls}.items() if value is not None}


class Wire:
    """Hold one connection in autocommit mode; for one thread at a time.

    ``timeout`` is how long one answer may take, in seconds. Whatever goes wrong raises
    `ConnectionFailedError`, and ends the connection if it may be in any state.

    >>> import everfresh.connect.wire as wire
    >>> wire.Wire.__name__
    'Wire'
    """

    def __init__(self, parameters: str, *, timeout: float = 5.0, settings: str = "") -> None:
        from psycopg import Error, pq

        self._pq = pq
        self._error = Error
        self.timeout = timeout
        self.process = os.getpid()
        # never PGconn.connect: it holds the interpreter's lock while it waits
        self.pg: pq.abc.PGconn = pq.PGconn.connect_start(_resolved(parameters).encode())
        try:
            self._connect(time.monotonic() + timeout)
        except BaseException:
            self.close()
            raise
        self.pg.nonblocking = 1
        self._prepared: dict[bytes, bytes] = {}
        if settings:
            self.rows(settings)

    def _connect(self, deadline: float) -> None:
        status = self._pq.PollingStatus
        events: dict[int, int] = {status.READING: select.POLLIN, status.WRITING: select.POLLOUT}
        try:
            while (now := self.pg.connect_poll()) != status.OK:
                if now not in events:
                    raise ConnectionFailedError(f"PostgreSQL cannot be reached: {self._message()}")
                self._await(events[now], deadline)
        except self._error as error:
            raise ConnectionFailedError(f"PostgreSQL cannot be reached: {error}") from None

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self.pg.status != self._pq.ConnStatus.OK

    @property
    def foreign(self) -> bool:
        """Whether it is the connection of a parent process."""
        return self.process != os.getpid()

    def rows(self, statement: str, *parameters: str | None, prepare: bool = False) -> list[Row]:
        """Run one statement and return its rows as text; ``prepare`` it where it is asked often.

        Parameters are text too, and ``$1`` stands for the first.
        """
        text, given = statement.encode(), [None if p is None else p.encode() for p in parameters]
        try:
            if prepare:
                self.pg.send_query_prepared(self._name(text), given)
            elif given:
                self.pg.send_query_params(text, given)
            else:
                self.pg.send_query(text)
            return self._answer()
        except self._error as error:
            raise self._lost(str(error)) from None
        except ConnectionFailedError:
            raise  # refused, or closed already
        except BaseException:  # an interrupt: what comes next on the line is anybody's guess
            self.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait for a notification, in seconds; return whether one came."""
        try:
            if not self._readable(seconds):
                return False
            self.pg.consume_input()
            heard = False
            while self.pg.notifies() is not None:
                heard = True
        except self._error as error:
            raise self._lost(str(error)) from None
        return heard

    def begin_copy(self, statement: str) -> None:
        """Run a command that turns the line into a stream both ways."""
        try:
            self.pg.send_query(statement.encode())
            result = self._result(time.monotonic() + self.timeout)
        except self._error as error:
            raise self._lost(str(error)) from None
        if result is None or result.status != self._pq.ExecStatus.COPY_BOTH:
            text = b"" if result is None else result.error_message
            self.close()
            raise ConnectionFailedError(text.decode(errors="replace").strip())

    def copied(self, seconds: float, wake: int) -> list[bytes]:
        """Return what came on a stream, waiting for the first piece at most this long.

        It does not wait any more once the file descriptor ``wake`` can be read.
        """
        found: list[bytes] = []
        try:
            while True:
                size, data = self.pg.get_copy_data(1)
                if size > 0:
                    found.append(bytes(data))
                elif size < 0:
                    raise self._lost("the server ended the stream")
                elif found or not self._readable(seconds, wake):
                    return found
                else:
                    self.pg.consume_input()
        except self._error as error:
            raise self._lost(str(error)) from None

    def copy(self, data: bytes) -> None:
        """Send a piece on a stream."""
        deadline = time.monotonic() + self.timeout
        try:
            self.pg.put_copy_data(data)
            while self.pg.flush():
                self._await(select.POLLIN | select.POLLOUT, deadline)
                self.pg.consume_input()
        except self._error as error:
            raise self._lost(str(error)) from None

    def close(self) -> None:
        """End the connection."""
        self.pg.finish()

    def leave(self) -> None:
        """Forget the connection of a parent process without telling the server."""
        try:
            os.close(self.pg.socket)
        except (self._error, OSError):
            return

    def _name(self, text: bytes) -> bytes:
        name = self._prepared.get(text)
        if name is None:
            name = b"everfresh_%d" % len(self._prepared)
            self.pg.send_prepare(name, text)
            self._answer()
            self._prepared[text] = name
        return name

    def _answer(self) -> list[Row]:
        found: list[Row] = []
        failure: str | None = None
        deadline = time.monotonic() + self.timeout
        while (result := self._result(deadline)) is not None:
            if result.status == self._pq.ExecStatus.TUPLES_OK:
                found = _texts(result)
            elif result.status not in (
                self._pq.ExecStatus.COMMAND_OK,
                self._pq.ExecStatus.EMPTY_QUERY,
            ):
                failure = result.error_message.decode(errors="replace").strip()
        if failure is not None:
            if self.closed:
                raise self._lost(failure)
            raise ConnectionFailedError(failure)
        return found

    def _result(self, deadline: float) -> Any:
        pg = self.pg
        while pg.flush():
            self._await(select.POLLIN | select.POLLOUT, deadline)
            pg.consume_input()
        while pg.is_busy():
            self._await(select.POLLIN, deadline)
            pg.consume_input()
        return pg.get_result()

    def _readable(self, seconds: float, wake: int | None = None) -> bool:
        if wake is None:
            return self._ready(select.POLLIN, seconds)
        poller = select.poll()
        for each in (self.pg.socket, wake):
            poller.register(each, select.POLLIN)
        return self.pg.socket in dict(poller.poll(max(seconds, 0.0) * 1000))

    def _ready(self, events: int, seconds: float) -> bool:
        poller = select.poll()  # unlike select() it takes any number of open files
        poller.register(self.pg.socket, events)
        return bool(poller.poll(max(seconds, 0.0) * 1000))

    def _await(self, events: int, deadline: float) -> None:
        if not self._ready(events, deadline - time.monotonic()):
            raise self._lost(f"PostgreSQL did not answer within {self.timeout:g} s")

    def _lost(self, reason: str) -> ConnectionFailedError:
        self.close()
        return ConnectionFailedError(f"the connection to PostgreSQL was lost: {reason}")

    def _message(self) -> str:
        return self.pg.error_message.decode(errors="replace").strip()


def _resolved(parameters: str) -> str:
    """Return the parameters with the host's address: libpq would look it up and block everybody."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    known = conninfo_to_dict(parameters)
    host = str(known.get("host") or "")
    if not host or host.startswith("/") or "," in host or known.get("hostaddr"):
        return parameters
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionFailedError(f"PostgreSQL cannot be reached: {host}: {error}") from None
    return make_conninfo(parameters, hostaddr=str(found[0][4][0]))


def _texts(result: Any) -> list[Row]:
    columns = range(result.nfields)
    value = result.get_value
    return [
        tuple(None if (cell := value(row, c)) is None else cell.decode() for c in columns)
        for row in range(result.ntuples)
    ]
