"""Other processes that use the database file of a test: one that writes, and ones that are killed.

Run as a program this file is one of them; imported, it starts and asks them. Everything goes over
stdin and stdout, one line of JSON each. The process that forks never opens a database itself: what
SQLite knows of locks would be inherited and wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

DIED = 7  # exit code of a process that reached its fail point
WRONG = 3  # of one that was given something outdated


class Process:
    """Start one of the programs below, and ask it; one question at a time."""

    def __init__(self, role: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, **question: Any) -> Any:
        """Return the answer."""
        self.tell(**question)
        return self.hear()

    def tell(self, **question: Any) -> None:
        """Ask without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Wait for the answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the other process ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(20)


def _answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


# -- the writer


def connect(path: str, timeout: float = 0.02) -> sqlite3.Connection:
    """Return a connection that begins and commits only when told to."""
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def run(connection: sqlite3.Connection, statements: list[str]) -> str:
    """Run statements up to the first error; return it. A transaction does not outlive an error."""
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return str(error) or "error"
    return ""


def harm(path: str, how: str) -> None:
    """Do something to a store's file, as another program may."""
    file = Path(path)
    copy = Path(f"{path}.copy")
    if how == "copy":
        for end in ("", "-wal"):
            source = Path(path + end)
            Path(f"{copy}{end}").write_bytes(source.read_bytes() if source.exists() else b"")
    elif how == "put back" and copy.exists():
        for end in ("", "-wal"):
            fresh = Path(f"{path}.fresh")
            fresh.write_bytes(Path(f"{copy}{end}").read_bytes())
            fresh.replace(path + end)
        Path(path + "-shm").unlink(missing_ok=True)
    elif how == "remove":
        for end in ("", "-wal", "-shm"):
            Path(path + end).unlink(missing_ok=True)
    elif how == "truncate" and file.exists():
        os.truncate(file, file.stat().st_size // 2)
    elif how == "garbage" and file.exists():
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 3)
            opened.write(b"\x5a" * 3000)


def _write() -> None:
    connection: sqlite3.Connection | None = None
    opened = ""
    for line in sys.stdin:
        question = json.loads(line)
        path = question.get("path", "")
        if "harm" in question:
            harm(path, question["harm"])
            _answer("")
            continue
        if path != opened and connection is not None:
            connection.close()
            connection = None
        opened = path
        if not path:
            _answer("")
            continue
        if connection is None:
            connection = connect(path)
        _answer(run(connection, question["statements"]))


# -- commits with the time of each, for the test of the bound


def _commit_numbers() -> None:
    """Commit growing numbers, and tell of each by when it was committed."""
    question = json.loads(sys.stdin.readline())
    connection = connect(question["path"], timeout=5)
    connection.execute("PRAGMA synchronous = NORMAL")
    end = time.monotonic() + question["seconds"]
    dice = random.Random(question["seed"])
    number = 0
    log = []
    while time.monotonic() < end:
        number += 1
        connection.execute("UPDATE number SET n = ? WHERE id = 1", (number,))
        log.append((number, time.monotonic()))
        time.sleep(dice.choice([0, 0, 0.001, 0.01, 0.05, 0.3]))
    connection.close()
    _answer(log)


# -- those that are killed


def _fork() -> None:
    import everfresh  # noqa: F401 - once, for all the children

    for line in sys.stdin:
        question = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _live_and_exit(question, writing)
        os.close(writing)
        if question.get("seconds") is not None:
            time.sleep(question["seconds"])
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with os.fdopen(reading) as told:
            said = told.read()
        _, status = os.waitpid(child, 0)
        _answer([os.waitstatus_to_exitcode(status), said])


def _live_and_exit(question: dict[str, Any], writing: int) -> NoReturn:
    code = 1
    try:
        code = _live(question, writing)
    except BaseException as error:
        os.write(writing, f"{type(error).__name__}: {error}".encode())
    os._exit(code)


def _die_at(count: int, target: str) -> None:
    """Let this process end before the count-th statement on a file whose name has the target in it."""
    left = [count]
    real = sqlite3.dbapi2.connect

    def dying(path: Any, *args: Any, **named: Any) -> sqlite3.Connection:
        made = real(path, *args, **named)
        if target in Path(str(path)).name:

            def statement(text: str) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(DIED)

            made.set_trace_callback(statement)
        return made

    sqlite3.connect = sqlite3.dbapi2.connect = dying  # type: ignore[assignment]


def _live(question: dict[str, Any], writing: int) -> int:
    """Use the cache as a program would: read, write, track, flush and close."""
    import sqlalchemy as sa

    import everfresh
    from everfresh.engine.audit import same_rows
    from everfresh.errors import EverfreshError

    truth = connect(question["path"])
    if question.get("count"):
        _die_at(question["count"], question["target"])
    engine = sa.create_engine(f"sqlite:///{question['path']}", connect_args={"timeout": 0.02})
    failures = (sa.exc.DBAPIError, EverfreshError)
    with suppress(*failures):
        cache = everfresh.open(engine, **question["settings"])
        if question.get("track"):
            with suppress(*failures):
                cache.track()
        while True:
            for statement in [*question["statements"], ""]:
                for text, x in question["queries"]:
                    with suppress(*failures, sqlite3.Error):
                        rows = cache.sql(text, x=x)
                        if not same_rows(rows, truth.execute(text, {"x": x}).fetchall()):
                            os.write(writing, f"{text} {x} {rows} {rows.receipt}".encode())
                            return WRONG
                with suppress(*failures), engine.begin() as connection:
                    connection.exec_driver_sql(statement or "DELETE FROM noted")
            if question.get("prune"):
                with suppress(*failures):
                    cache.feed.watch.prune(2)
            cache.fills.durable.flush()
            if question.get("seconds") is None:
                break
        cache.close()
        engine.dispose()
    return 0


if __name__ == "__main__":
    {"write": _write, "fork": _fork, "numbers": _commit_numbers}[sys.argv[1]]()
