"""The launchers of real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from everfresh.errors import MissingExtraError
from everfresh.testing import servers
from everfresh.testing.servers import PostgresServer, ServerError, ValkeyServer, valkey_server


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def _gone(pid: int, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while _alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_postgres_is_set_up_for_the_tests(postgres: PostgresServer) -> None:
    def setting(name: str) -> object:
        return postgres.execute(f"SHOW {name}")[0][0]

    assert setting("wal_level") == "logical"
    assert setting("synchronous_commit") == "on"
    assert setting("max_prepared_transactions") == "20"
    assert setting("fsync") == "off"


def test_fresh_databases_are_apart(postgres: PostgresServer) -> None:
    first, second = postgres.fresh_database(), postgres.fresh_database()
    assert first != second
    plain = first.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
    with psycopg.connect(second.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)
    postgres.drop_database(first)
    postgres.drop_database(second)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(plain)


def test_valkey_answers(valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.set("a", 1)
        assert client.get("a") == b"1"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_ends_with_its_folder(how: str) -> None:
    server = valkey_server()
    pid, folder = server.pid, server.folder
    assert pid is not None
    assert folder is not None
    getattr(server, how)()
    assert not _alive(pid)
    assert not folder.exists()
    server.stop()  # a second time does nothing


@pytest.mark.parametrize("which", ["postgres_server", "valkey_server"])
def test_a_server_dies_with_a_killed_parent(which: str, tmp_path: Path) -> None:
    script = f"""
import sys, time
from everfresh.testing.servers import {which}
server = {which}()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVERFRESH_TEST_")}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    assert _alive(int(pid))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert _gone(int(pid))
    subprocess.run(["rm", "-rf", folder], check=True)


def test_a_server_that_cannot_start_fails_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERFRESH_TEST_POSTGRES_URL", raising=False)
    with pytest.raises(ServerError, match="no_such_setting"):
        servers.postgres_server(settings={"no_such_setting": "1"})


def test_a_server_that_runs_already_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERFRESH_TEST_POSTGRES_URL", "postgresql://u@db.example/x")
    monkeypatch.setenv("EVERFRESH_TEST_REDIS_URL", "redis://db.example/3")
    assert servers.postgres_server().url == "postgresql+psycopg://u@db.example/x"
    server = servers.valkey_server()
    assert server.url == "redis://db.example/3"
    with pytest.raises(ServerError, match="not ours"):
        server.kill()


def test_a_missing_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERFRESH_TEST_REDIS_URL", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"everfresh\[testing\]"):
        servers.valkey_server()
