"""The bank: transfers by everybody, reads through four processes, and what fails meanwhile.

`BANK_SECONDS` and `BANK_SEED` in the environment replay a run; `make soak` runs it for an hour.
"""

import os
import random
import signal
import threading
import time
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy as sa

import bank
import everfresh
from everfresh.testing.relay import Relay
from everfresh.testing.servers import postgres_server, valkey_server
from processes import Worker

SHORT, SOAK = 15.0, 3600.0
BOUND = 1.0


@pytest.fixture(scope="module")
def servers():
    """A PostgreSQL and a Valkey of this module's own: they are stopped, paused and killed."""
    with (
        postgres_server(
            settings={"max_prepared_transactions": "0", "track_commit_timestamp": "on"}
        ) as postgres,
        valkey_server(settings={"enable-debug-command": "yes"}) as valkey,
    ):
        yield postgres, valkey


class Run:
    """One run: servers behind relays, writers that know nothing of us, workers with caches."""

    def __init__(self, servers, seed, seconds, kind):
        self.postgres, self.valkey = servers
        self.seed, self.seconds = seed, seconds
        self.random = random.Random(seed)
        self.url = self.postgres.fresh_database()
        self.dsn = self.url.replace("+psycopg", "")
        parsed = sa.engine.make_url(self.url)
        self.line = Relay(parsed.host, parsed.port)
        self.through = parsed.set(port=self.line.port).render_as_string(hide_password=False)
        port = int(self.valkey.url.rpartition(":")[2].partition("/")[0])
        self.store_line = Relay("127.0.0.1", port)
        self.store = (
            f"redis://127.0.0.1:{self.store_line.port}/0?name=bank{seed}&timeout=0.2&lease=1"
        )
        if kind == "postgresql":
            self.store = f"{self.through}?name=bank{seed}&timeout=1&lease=1"
        self.feed = "slot" if kind == "slot" else "outbox"
        self.answers, self.errors, self.lock = [], 0, threading.Lock()
        self.over = threading.Event()
        self.faults = []
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in bank.CREATE:
                connection.execute(statement)
        with everfresh.open(self.url, feed=self.feed) as cache:
            cache.track(["account"])

    # writers ----------------------------------------------------------------

    def write(self, number):
        """Transfer, as a program that has never heard of us; go on after every failure."""
        choose = random.Random(self.seed * 1000 + number)
        while not self.over.is_set():
            with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True) as connection:
                while not self.over.is_set():
                    with connection.transaction(force_rollback=choose.random() < 0.1):
                        connection.execute(bank.transfer(choose))
                        time.sleep(choose.random() * 0.004)
                    time.sleep(choose.random() * 0.02)
            time.sleep(0.05)

    # readers ------------------------------------------------------------------

    def read(self, number):
        """Ask a worker, which writes now and then; start it again when it is killed."""
        choose = random.Random(self.seed * 1000 + 500 + number)
        freshness = "strict" if number % 2 == 0 else BOUND
        worker, life = self.start(freshness), 0
        while not self.over.is_set():
            try:
                self.ask(worker, number * 1000 + life, choose, strict=freshness == "strict")
            except (AssertionError, OSError, ValueError):  # it was killed
                worker.end()
                if self.over.is_set():
                    return
                worker, life = self.start(freshness), life + 1
            self.workers[number] = worker
        worker.end()

    def start(self, freshness):
        while True:
            settings = {"store": self.store, "freshness": freshness, "feed": self.feed}
            worker = Worker(self.through, **settings)
            try:
                return worker.ready()
            except AssertionError:
                worker.end()
                if self.over.is_set():
                    return worker

    def ask(self, worker, reader, choose, *, strict):
        if choose.random() < 0.1:
            worker.tell(write=[bank.transfer(choose)])
            with suppress(TypeError):
                self.errors += "error" in worker.hear()
            return
        statement, parameters = choose.choice(
            [
                (bank.SUM, {}),
                (bank.ONE, {"id": choose.randint(1, bank.ACCOUNTS)}),
                (bank.GROUP, {"branch": choose.randrange(bank.BRANCHES)}),
            ]
        )
        asked = bank.now()
        (told,) = worker.ask(statement, **parameters)
        had = bank.now()
        with self.lock:
            if "error" in told:
                self.errors += 1
            else:
                self.answers.append(
                    bank.Answer(reader, asked, had, told["rows"], strict, told["status"])
                )

    # faults -------------------------------------------------------------------

    def fail(self):
        """Let one thing fail after the other, and mend it."""
        line = (self.cut, self.delay, self.drop, self.pause)
        processes = (self.stop, self.kill, self.terminate, self.crash)
        store = (self.flush, self.redis_pause, self.redis_restart)
        while not self.over.wait(self.random.uniform(0.2, 0.8)):
            fault = self.random.choice((*line, *processes, *store))
            self.faults.append(fault.__name__)
            fault()

    def cut(self):
        line = self.random.choice([self.line, self.store_line])
        line.cut()
        time.sleep(self.random.uniform(0.05, 0.5))
        line.mend()

    def drop(self):
        self.random.choice([self.line, self.store_line]).drop()

    def pause(self):
        line = self.random.choice([self.line, self.store_line])
        line.pause()
        time.sleep(self.random.uniform(0.1, 1.5))
        line.mend()

    def delay(self):
        line = self.random.choice([self.line, self.store_line])
        line.delay = self.random.uniform(0.001, 0.02)
        time.sleep(self.random.uniform(0.1, 0.5))
        line.delay = 0.0

    def stop(self):
        """A process stands still past its lease and its bound, and goes on."""
        worker = self.random.choice(list(self.workers.values()))
        worker.stop()
        time.sleep(self.random.uniform(0.5, 2.0))
        worker.go_on()

    def kill(self):
        self.random.choice(list(self.workers.values())).process.send_signal(signal.SIGKILL)

    def terminate(self):
        """The server ends every connection."""
        with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def crash(self):
        """A backend is killed: the server recovers as from a crash."""
        with suppress(psycopg.Error, ProcessLookupError):
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                found = connection.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                ).fetchall()
            if found:
                os.kill(self.random.choice(found)[0], signal.SIGKILL)

    def flush(self):
        with suppress(Exception):
            import redis

            redis.Redis.from_url(self.valkey.url).flushall()

    def redis_pause(self):
        self.valkey.pause()
        time.sleep(self.random.uniform(0.1, 1.0))
        self.valkey.go_on()

    def redis_restart(self):
        self.valkey.halt(crash=self.random.random() < 0.5)
        time.sleep(self.random.uniform(0.0, 0.5))
        self.valkey.resume()

    # all of it ----------------------------------------------------------------

    def go(self, *, faults):
        self.workers = {}
        threads = [threading.Thread(target=self.write, args=(number,)) for number in range(2)]
        readers = [threading.Thread(target=self.read, args=(number,)) for number in range(4)]
        for thread in (*threads, *readers):
            thread.start()
        deadline = time.monotonic() + 60
        while len(self.workers) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        breaker = threading.Thread(target=self.fail) if faults else None
        if breaker is not None:
            breaker.start()
        time.sleep(self.seconds)
        self.over.set()
        for thread in (breaker, *readers, *threads):
            if thread is not None:
                thread.join(120)
                assert not thread.is_alive(), "something hangs"
        self.line.mend()
        self.store_line.mend()
        return self.judge()

    def judge(self):
        deadline = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(self.dsn) as connection:
                    history = connection.execute(bank.HISTORY).fetchall()
                break
            except psycopg.Error:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        return bank.check(self.answers, history, BOUND)

    def close(self):
        self.line.close()
        self.store_line.close()


@pytest.fixture
def run(servers, request):
    seed = int(os.environ.get("BANK_SEED", random.randrange(10**6)))
    soak = "EVERFRESH_SOAK" in os.environ
    seconds = float(os.environ.get("BANK_SECONDS", SOAK if soak else SHORT))
    made = Run(servers, seed, seconds, request.param)
    print(f"BANK_SEED={seed} BANK_SECONDS={seconds:g} store={request.param}")
    yield made
    made.close()


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("run", ["redis", "postgresql", "slot"], indirect=True)
def test_the_bank_is_never_wrong_whatever_fails(run):
    verdict = run.go(faults=True)
    print(
        f"{verdict.answers} answers, {verdict.hits} hits, {run.errors} errors, faults: {run.faults}"
    )
    assert verdict.wrong == [], f"BANK_SEED={run.seed}"
    assert verdict.hits > run.seconds / 2  # it caches at all
    assert len(run.faults) > run.seconds / 4


@pytest.mark.timeout(0)
@pytest.mark.parametrize("run", ["redis"], indirect=True)
def test_the_bank_without_faults_is_served_from_memory(run):
    run.seconds = min(run.seconds, SHORT / 2)
    verdict = run.go(faults=False)
    assert verdict.wrong == [], f"BANK_SEED={run.seed}"
    assert (run.errors, verdict.hits > 50) == (0, True)


def test_the_checker_finds_what_is_wrong():
    history = [(1, 0, 0, 0.0), (1, 1, -5, 100.0), (2, 0, 0, 0.0), (2, 1, 5, 100.0)]

    def told(rows, asked=50.0, strict=True, reader=1):
        return bank.Answer(reader, asked, asked, rows, strict, "hit")

    good = [told([[0, bank.ACCOUNTS]]), told([[1, 0, 0], [2, 0, 0]]), told([[1, 1, -5]], 101.0)]
    assert bank.check(good, history, 1.0).wrong == []
    for bad, why in (
        ([told([[3, bank.ACCOUNTS]])], "sum"),
        ([told([[1, 1, 7]])], "existed"),
        ([told([[1, 1, -5]]), told([[1, 0, 0]])], "older"),
        ([told([[1, 0, 0]], asked=101.0)], "too old"),
        ([told([[1, 0, 0]], asked=103.0, strict=False)], "too old"),
    ):
        (found,) = bank.check(bad, history, 1.0).wrong
        assert why in found[0]
    assert bank.check([told([[1, 0, 0]], asked=101.0, strict=False)], history, 1.0).wrong == []
