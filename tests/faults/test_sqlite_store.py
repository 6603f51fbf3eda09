"""What a SQLite store does when its file fails: nothing wrong, nothing raised, back by itself."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from everfresh.errors import ConfigurationError, StoreUnavailableError
from everfresh.kernel.entry import Entry
from everfresh.stores.sqlite import SqliteStore
from everfresh.stores.sqlite_file import SqliteFile


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def entry(key, size=10, value="v"):
    return Entry(key, value, bytes=size, cost=1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(path, clock):
    with SqliteStore(path, 10_000_000, clock=clock, busy=0.05) as opened:
        for n in range(200):
            opened.put(entry(f"k{n}", value="x" * 500))
        checkpoint(opened)
        yield opened


def checkpoint(store):
    with store._file.write():
        pass
    store._file.idle[0].execute("PRAGMA wal_checkpoint(TRUNCATE)")


def works(store):
    store.put(entry("after"))
    return store.get("after") is not None


def asides(path):
    return sorted(found.name for found in path.parent.glob("store.db.damaged-*"))


def reopened(path):
    """A store on the file as it lies there, without what the first one has in memory."""
    return SqliteStore(path, clock=Clock(), busy=0.05)


# a damaged file ----------------------------------------------------------------


@pytest.mark.parametrize("left", [100, 512, 4096, 5000, 40_000])
def test_a_truncated_file_is_made_anew(path, store, left):
    store.close()
    os.truncate(path, left)
    with reopened(path) as again:
        for n in range(200):
            again.get(f"k{n}")
        assert works(again)
    assert asides(path)


def test_a_file_truncated_to_nothing_is_made_anew(path, store):
    store.close()
    os.truncate(path, 0)
    with reopened(path) as again:
        assert again.get("k1") is None
        assert works(again)


@pytest.mark.parametrize("left", [0, 100, 4096, 40_000])
def test_a_file_truncated_while_open_is_made_anew(path, store, clock, left):
    with path.open("r+b") as file:
        file.truncate(left)
    for n in range(200):
        found = store.get(f"k{n}")
        assert found is None or found.value == "x" * 500
    for _ in range(3):
        clock.now += 2
        try:
            assert works(store)
            break
        except StoreUnavailableError:
            continue
    else:
        pytest.fail("the store did not come back")


def test_garbage_is_moved_aside_with_all_its_bytes(path):
    garbage = os.urandom(10_000)
    path.write_bytes(garbage)
    with SqliteStore(path) as store:
        assert store.get("k") is None
        assert works(store)
    assert asides(path) == ["store.db.damaged-1"]
    assert path.with_name("store.db.damaged-1").read_bytes() == garbage


def test_garbage_in_the_middle_never_raises_and_never_lies(path, store):
    store.close()
    data = bytearray(path.read_bytes())
    for position in range(4096, len(data), 3000):
        data[position : position + 100] = os.urandom(min(100, len(data) - position))
    path.write_bytes(data)
    with reopened(path) as again:
        for n in range(200):
            found = again.get(f"k{n}")
            assert found is None or found.value == "x" * 500
        list(again.entries())
        try:
            works(again)
        except StoreUnavailableError:
            assert works(again)


def test_a_damaged_row_is_absent_discarded_and_counted(path, store):
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE body SET body = substr(body, 1, 40) WHERE key = 'k1'")
        raw.execute(
            "UPDATE body SET body = (SELECT body FROM body WHERE key = 'k3') WHERE key = 'k2'"
        )
        raw.execute("UPDATE body SET body = 'text', checksum = 'text' WHERE key = 'k4'")
    assert [store.get(f"k{n}") for n in (1, 2, 4)] == [None] * 3
    assert (store.damaged, len(store)) == (3, 197)
    assert store.get("k3") is not None


def test_a_value_of_another_codec_is_absent_but_kept(path, store):
    class Other:
        name = "other"

        def encode(self, value):
            return b"other"

        def decode(self, data):
            raise ZeroDivisionError

    with SqliteStore(path, codec=Other()) as other:
        assert other.get("k1") is None
        assert (other.unreadable, other.damaged) == (1, 0)
    assert store.get("k1") is not None


def test_damaged_counts_are_made_again(path, store):
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DELETE FROM pool")
    store.put(entry("new"))
    assert (len(store), store.bytes) == (201, 2010)


def test_a_missing_table_makes_the_file_anew(path, store):
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TABLE kept")
    with pytest.raises(StoreUnavailableError, match="moved aside"):
        store.put(entry("new"))
    assert works(store)


def test_two_that_find_the_damage_move_one_file_aside(path, store):
    with reopened(path) as other:
        other.get("k1")
        pages = path.stat().st_size // 4096
        with path.open("r+b") as file:
            for page in range(1, pages):
                file.seek(page * 4096)
                file.write(os.urandom(4096))
        for one in (store, other):
            one._file.idle[0].execute("PRAGMA shrink_memory")
        with pytest.raises(StoreUnavailableError, match="moved aside"):
            store.put(entry("new"))
        store.put(entry("new"))
        assert other.get("k1") is None
        assert other.get("new") is not None
    assert asides(path) == [f"store.db.damaged-1{suffix}" for suffix in ("", "-shm", "-wal")]


# a file that is not ours --------------------------------------------------------


def test_a_foreign_database_is_refused_and_not_touched(path):
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE precious (n)")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    with pytest.raises(ConfigurationError, match="no store of everfresh"):
        SqliteStore(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [found.name for found in path.parent.iterdir()] == ["store.db"]


def test_a_damaged_foreign_database_is_refused_and_not_touched(path):
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE precious (n)")
        raw.executemany("INSERT INTO precious VALUES (?)", [("x" * 1000,)] * 50)
    os.truncate(path, 8192)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="no store of everfresh"):
        SqliteStore(path)
    assert path.read_bytes() == before
    assert asides(path) == []


def test_a_newer_format_is_refused_and_not_touched(path, store):
    store.close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="upgrade everfresh"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_foreign_database_put_in_its_place_is_left_alone(path, store, clock):
    foreign = path.with_name("foreign.db")
    with closing(sqlite3.connect(foreign)) as raw, raw:
        raw.execute("CREATE TABLE precious (n)")
    before = foreign.read_bytes()
    foreign.replace(path)
    clock.now += 1
    assert store.get("k1") is None
    assert "no store of everfresh" in store.trouble
    with pytest.raises(StoreUnavailableError, match="no store of everfresh"):
        store.put(entry("a"))
    assert path.read_bytes() == before
    path.unlink()
    clock.now += 2
    assert works(store)


# a file that is not there, or cannot be written ----------------------------------


def test_a_file_deleted_while_open_is_made_anew(path, store, clock):
    path.unlink()
    clock.now += 1
    assert store.get("k1") is None
    assert works(store)
    assert path.exists()
    with reopened(path) as again:
        assert again.get("after") is not None


def test_a_folder_that_is_missing_comes_later(tmp_path, clock):
    with SqliteStore(tmp_path / "later" / "store.db", clock=clock) as store:
        assert (store.get("a"), len(store), store.bytes, list(store.entries())) == (None, 0, 0, [])
        for write in (lambda: store.put(entry("a")), lambda: store.discard("a"), store.clear):
            with pytest.raises(StoreUnavailableError):
                write()
        (tmp_path / "later").mkdir()
        assert store.get("a") is None  # not asked again before a second has passed
        clock.now += 2
        assert works(store)
        assert store.trouble is None


def as_nobody(work, *arguments):
    """Run a function in a process that root's rights do not help."""

    def run():
        if os.geteuid() == 0:
            os.setuid(65534)
        work(*arguments)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.fixture
def public_path(path):
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o77 == 0:
            folder.chmod(0o755)
    return path


@pytest.mark.parametrize("folder", [0o555, 0o777])
def test_a_read_only_file_is_read_where_possible_and_never_raises(public_path, folder):
    path = public_path
    with SqliteStore(path) as store:
        store.put(entry("a"))
    path.chmod(0o444)
    path.parent.chmod(folder)

    def work():
        clock = Clock()
        with SqliteStore(path, clock=clock) as store:
            found = store.get("a")
            assert found is not None or store.trouble is not None
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    store.put(entry("b"))
                clock.now += 2

    as_nobody(work)
    path.parent.chmod(0o755)
    path.chmod(0o644)
    with SqliteStore(path) as store:
        assert store.get("a") is not None
        assert works(store)


def test_a_folder_that_cannot_be_written_keeps_nothing(public_path):
    public_path.parent.chmod(0o555)

    def work():
        with SqliteStore(public_path) as store:
            assert store.get("a") is None
            with pytest.raises(StoreUnavailableError):
                store.put(entry("a"))

    as_nobody(work)
    public_path.parent.chmod(0o755)


def test_a_full_disk_keeps_what_there_is(path, store, clock):
    pages = store._file.idle[0].execute("PRAGMA page_count").fetchone()[0]
    store._file.idle[0].execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreUnavailableError, match="full"):
        store.put(entry("big", 10, "x" * 100_000))
    assert store.get("big") is None
    assert store.get("k1") is not None
    assert (len(store), store.bytes) == (200, 2000)
    store._file.idle[0].execute("PRAGMA max_page_count = 100000")
    assert works(store)


@pytest.fixture
def tiny(tmp_path):
    """A disk of 300 kB, where the system lets us make one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_tiny_disk(tiny):
    clock = Clock()
    with SqliteStore(tiny / "store.db", clock=clock) as store:
        refused = 0
        for n in range(300):
            try:
                store.put(entry(f"k{n}", value="x" * 3000))
            except StoreUnavailableError:
                refused += 1
            clock.now += 2
        assert refused
        for found in store.entries():
            assert found.value == "x" * 3000
        store.get("k0")


def test_letting_go_of_a_replaced_file_takes_nothing_from_the_new_one(path, store, clock):
    path.unlink()
    with reopened(path) as other:
        other.put(entry("new"))
        clock.now += 1
        assert store.get("new") is not None
        assert path.with_name("store.db-wal").exists()
        other.put(entry("newer"))
    with reopened(path) as again:
        assert [found.key for found in again.entries()] == ["new", "newer"]


# a file in use -------------------------------------------------------------------


def test_a_file_locked_by_another_is_waited_for_and_then_left(path, store, clock):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.put(entry("a"))
        assert store.get("k1") is not None  # a writer does not block readers
        started = time.perf_counter()
        with pytest.raises(StoreUnavailableError):  # at once: the lock is not waited for again
            store.put(entry("a"))
        assert time.perf_counter() - started < 0.04
        other.execute("ROLLBACK")
    clock.now += 2
    assert works(store)


def test_a_file_locked_against_readers_too(path, store, clock):
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        again = SqliteStore(path, clock=clock, busy=0.05)
        assert again.get("k1") is None
        with pytest.raises(StoreUnavailableError):
            again.put(entry("a"))
        other.execute("COMMIT")
    clock.now += 2
    with again:
        assert again.get("k1") is not None
        assert works(again)


def test_another_that_makes_the_file_first(path, monkeypatch):
    made = []
    switch = SqliteFile._switch_to_wal

    def slow(file, connection):
        switch(file, connection)
        if not made:
            made.append(True)
            made[0] = SqliteStore(path)
            made[0].put(entry("theirs"))

    monkeypatch.setattr(SqliteFile, "_switch_to_wal", slow)
    with SqliteStore(path) as store:
        assert store.trouble is None
        assert store.get("theirs") is not None
    made[0].close()


def test_a_lock_while_the_file_is_made_is_waited_for(path, monkeypatch):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        class Time:
            monotonic = staticmethod(lambda: 0.0)
            sleep = staticmethod(lambda seconds: other.execute("ROLLBACK"))

        monkeypatch.setattr("everfresh.stores.sqlite_file.time", Time)
        with SqliteStore(path, busy=0.01) as store:
            assert store.trouble is None
            assert works(store)


WORK = """
import itertools, sys
from everfresh.kernel.entry import Entry
from everfresh.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], 100_000, busy=20)
for n in itertools.count():
    store.put(Entry(f"k{n % 500}", [n] * 300, bytes=700, cost=1 + n % 5))
    if n == 20:
        print("going", flush=True)
"""


def test_a_process_killed_while_it_writes(path):
    for number in range(4):
        worker = subprocess.Popen([sys.executable, "-c", WORK, str(path)], stdout=subprocess.PIPE)
        assert worker.stdout.readline() == b"going\n"
        time.sleep(0.013 * (number + 1))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        with SqliteStore(path, 100_000) as store:
            kept = list(store.entries())
            assert store.bytes == sum(found.bytes for found in kept) <= 100_000
            assert len(kept) == len(store) > 0
            assert all(len(set(found.value)) == 1 and len(found.value) == 300 for found in kept)
            assert store.damaged == 0
            assert works(store)
            store.discard("after")
    assert asides(path) == []


def test_a_closed_store_gives_nothing_and_says_so(store):
    store.close()
    store.close()
    assert store.get("k1") is None
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.put(entry("a"))
