"""A catalogue that fails: clear errors for who opens it, nothing at all for who is answered."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sa

from everfresh.catalogue import (
    Catalogue,
    Pace,
    Recorder,
    entry,
    listed,
    open_catalogue,
    set_setting,
    totals,
)
from everfresh.catalogue.schema import HEAD, migrate
from everfresh.errors import CatalogueError, CatalogueUnavailableError
from everfresh.kernel.entry import Entry
from everfresh.testing.relay import Relay

SLOW = Pace(interval=3600, batch=10**9, bound=100)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "catalogue.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


def note(recorder, *keys):
    for key in keys:
        recorder.filled(Entry(key, 1, label="L"), "fill")


# opening ------------------------------------------------------------------------


def test_garbage_is_refused_and_not_touched(path, url):
    garbage = os.urandom(5000)
    path.write_bytes(garbage)
    with pytest.raises(CatalogueError, match="damaged, or no database"):
        open_catalogue(url)
    assert path.read_bytes() == garbage


def test_a_truncated_catalogue_is_refused(path, url):
    with open_catalogue(url) as catalogue:
        set_setting(catalogue, "a", "x" * 50_000)
    os.truncate(path, 8192)
    with (
        pytest.raises(CatalogueError, match="damaged, or no database"),
        Catalogue(url) as catalogue,
    ):
        set_setting(catalogue, "b", "x" * 50_000)


def test_a_missing_folder_and_a_dead_server_are_unavailable(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    dead = f"postgresql://u@127.0.0.1:{port}/name"
    for url in (f"sqlite:///{tmp_path}/none/catalogue.db", dead):
        with pytest.raises(CatalogueUnavailableError, match="cannot be used now"):
            open_catalogue(url)


def test_a_catalogue_that_was_missing_is_made_when_it_can_be(tmp_path):
    folder = tmp_path / "later"
    with Catalogue(f"sqlite:///{folder}/catalogue.db") as catalogue:
        for _ in range(2):
            with pytest.raises(CatalogueUnavailableError):
                catalogue.version()
        folder.mkdir()
        assert catalogue.version() == "1.0"


def test_a_writer_killed_while_it_creates_leaves_nothing_half_made(url):
    code = (
        "import sys, everfresh.catalogue.database as d\n"
        "def stop(*a, **k):\n"
        "    inner(*a, **k); print('made', flush=True); sys.stdin.read()\n"
        "inner, d.migrate = d.migrate, stop\n"
        "d.open_catalogue(sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout.readline() == b"made\n"
        worker.send_signal(signal.SIGKILL)
    with open_catalogue(url) as catalogue:
        assert catalogue.version() == "1.0"
        assert totals(catalogue).fresh == 0


def test_a_file_that_is_deleted_is_made_anew(path, url):
    with open_catalogue(url) as catalogue:
        recorder = Recorder(catalogue, pace=SLOW)
        note(recorder, "before")
        assert recorder.flush()
        path.unlink()
        note(recorder, "after")
        recorder.flush()  # finds that the tables are gone
        assert recorder.flush()
        recorder.close()
    with open_catalogue(url) as again:
        assert [row.key for row in listed(again)] == ["after"]


def test_dropped_tables_are_noticed(path, url):
    with open_catalogue(url) as catalogue:
        with closing(sqlite3.connect(path)) as raw, raw:
            for table in ("dependency", "entry", "setting", "audit", "everfresh_version"):
                raw.execute(f"DROP TABLE {table}")
        with pytest.raises(CatalogueUnavailableError, match="no such table"):
            totals(catalogue)
        assert totals(catalogue).fresh == 0


def test_a_lock_while_the_file_is_made_is_waited_for(path, url, monkeypatch):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        class Time:
            monotonic = staticmethod(lambda: 0.0)
            sleep = staticmethod(lambda seconds: other.execute("ROLLBACK"))

        monkeypatch.setattr("everfresh.catalogue.engines.time", Time)
        monkeypatch.setattr("everfresh.catalogue.engines._WAIT", 0.01)
        with open_catalogue(url) as catalogue:
            assert catalogue.version() == "1.0"


def test_who_creates_a_schema_makes_the_others_wait(postgres):
    url = postgres.fresh_database()
    waiting = (
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        f"WHERE locktype = 'advisory' AND NOT granted AND datname = '{url.rpartition('/')[2]}'"
    )
    with Catalogue(url) as first, Catalogue(url) as second:
        thread = threading.Thread(target=second.check)
        with first._transaction(locked=True) as connection:
            migrate(connection, HEAD, up=True)
            thread.start()
            give_up = time.monotonic() + 10
            while postgres.execute(waiting) != [(1,)]:
                assert time.monotonic() < give_up, "nobody waits"
        thread.join()
        assert second.version() == "1.0"
    postgres.drop_database(url)


# recording ----------------------------------------------------------------------


def test_no_caller_hears_of_a_catalogue_that_is_down(tmp_path, caplog):
    folder = tmp_path / "later"
    with Catalogue(f"sqlite:///{folder}/catalogue.db") as catalogue:
        recorder = Recorder(catalogue, pace=SLOW)
        note(recorder, *(f"k{n:03}" for n in range(150)))
        assert recorder.dropped == 50
        for _ in range(3):
            assert not recorder.flush()
        note(recorder, "later")
        assert recorder.dropped == 51
        assert [r.levelname for r in caplog.records].count("WARNING") == 1
        assert "cannot be used now" in recorder.failure
        folder.mkdir()
        assert recorder.flush()
        assert recorder.failure is None
        found = sorted(row.key for row in listed(catalogue))
        assert found == [*(f"k{n:03}" for n in range(51, 150)), "later"]  # the oldest went
        recorder.close()


def test_writing_resumes_by_itself(tmp_path):
    folder = tmp_path / "later"
    with Catalogue(f"sqlite:///{folder}/catalogue.db") as catalogue:
        failed, written = threading.Event(), threading.Event()
        sa.event.listen(catalogue.engine, "commit", lambda connection: written.set())
        tries = []

        @sa.event.listens_for(catalogue.engine, "do_connect")
        def tried(*arguments):
            tries.append(1)
            if len(tries) > 1:  # so the first has failed
                failed.set()

        recorder = Recorder(catalogue, pace=Pace(interval=0.01, retry=0.01))
        note(recorder, "a")
        assert failed.wait(10)
        folder.mkdir()
        assert written.wait(10)
        recorder.close()
        assert entry(catalogue, "a") is not None


def test_a_locked_catalogue_makes_no_caller_wait(path, url):
    open_catalogue(url).close()
    with Catalogue(url) as catalogue, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        recorder = Recorder(catalogue, pace=Pace(interval=0.001, batch=1))
        started = time.perf_counter()
        note(recorder, *(f"k{n}" for n in range(200)))
        assert time.perf_counter() - started < 1.0  # the lock would be waited for 5 seconds
        other.execute("ROLLBACK")
        recorder.close()
        assert totals(catalogue).fresh == 200


def test_a_full_disk_drops_records_and_resumes(url):
    with open_catalogue(url) as catalogue:
        pages = []

        def limit(connection, _record):
            connection.execute(f"PRAGMA max_page_count = {pages[0] if pages else 10**6}")

        sa.event.listen(catalogue.engine, "connect", limit)
        with catalogue.reading() as connection:
            pages.append(connection.exec_driver_sql("PRAGMA page_count").scalar())
        catalogue.engine.dispose()
        recorder = Recorder(catalogue, pace=SLOW)
        for n in range(50):
            recorder.filled(Entry(f"k{n}", 1, label="x" * 3000), "fill")
        assert not recorder.flush()
        assert "full" in recorder.failure
        pages[0] = 10**6
        catalogue.engine.dispose()
        assert recorder.flush()
        assert (totals(catalogue).fresh, recorder.dropped) == (50, 0)
        recorder.close()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_what_the_database_refuses_is_dropped_and_does_not_block_the_rest(url, backend, request):
    if backend == "postgresql":
        url = request.getfixturevalue("postgres").fresh_database()
    with open_catalogue(url) as catalogue:
        recorder = Recorder(catalogue, pace=SLOW)
        recorder.filled(Entry("bad", 1, bytes=2**70), "fill")
        assert not recorder.flush()
        note(recorder, "good")
        assert recorder.flush()
        assert [row.key for row in listed(catalogue)] == ["good"]
        assert recorder.dropped == 1
        recorder.close()


def test_a_killed_writer_leaves_whole_batches(url):
    code = (
        "import itertools, sys\n"
        "from everfresh.catalogue import Catalogue, Recorder, Pace\n"
        "from everfresh.kernel.entry import Entry\n"
        "from everfresh.kernel.plan import TableSource\n"
        "r = Recorder(Catalogue(sys.argv[1]), pace=Pace(interval=3600, batch=10**9))\n"
        "for n in itertools.count():\n"
        "    for k in range(10):\n"
        "        r.filled(Entry(f'{n}-{k}', 1, sources=(TableSource('t'),)), 'fill')\n"
        "    r.flush()\n"
        "    if n == 3: print('going', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"going\n"
        time.sleep(0.05)
        worker.send_signal(signal.SIGKILL)
    with open_catalogue(url) as catalogue:
        found = totals(catalogue).fresh
        assert found >= 40
        assert found % 10 == 0
        with catalogue.reading() as connection:
            edges = connection.execute(sa.text("SELECT count(*) FROM dependency")).scalar()
        assert edges == found


# a server -----------------------------------------------------------------------


@contextmanager
def relayed(url):
    parsed = sa.engine.make_url(url)
    with Relay(parsed.host, parsed.port) as relay:
        yield relay, parsed.set(port=relay.port)


def test_a_server_that_goes_and_comes_back(postgres):
    fresh = postgres.fresh_database()
    with relayed(fresh) as (relay, url), open_catalogue(url) as catalogue:
        recorder = Recorder(catalogue, pace=SLOW)
        note(recorder, "before")
        assert recorder.flush()
        relay.cut()
        note(recorder, "meanwhile")
        assert not recorder.flush()
        with pytest.raises(CatalogueUnavailableError):
            totals(catalogue)
        relay.mend()
        note(recorder, "after")
        assert recorder.flush()
        assert sorted(row.key for row in listed(catalogue)) == ["after", "before", "meanwhile"]
        recorder.close()
    postgres.drop_database(fresh)


def test_a_connection_that_the_server_ends_is_replaced(postgres):
    fresh = postgres.fresh_database()
    with open_catalogue(fresh) as catalogue:
        recorder = Recorder(catalogue, pace=SLOW)
        note(recorder, "before")
        assert recorder.flush()
        name = fresh.rpartition("/")[2]
        postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        note(recorder, "after")
        assert recorder.flush()
        assert totals(catalogue).fresh == 2
        recorder.close()
    postgres.drop_database(fresh)


@pytest.fixture
def tiny(tmp_path):
    """A disk of 300 kB, where the system lets us make one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs"]
    if subprocess.run([*command, str(folder)], capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_tiny_disk(tiny):
    with open_catalogue(f"sqlite:///{tiny}/catalogue.db") as catalogue:
        recorder = Recorder(catalogue, pace=SLOW)
        for n in range(100):
            recorder.filled(Entry(f"k{n}", 1, label="x" * 5000), "fill")
            recorder.flush()
        assert recorder.failure is not None
        assert 0 < totals(catalogue).fresh < 100
        recorder.close()
