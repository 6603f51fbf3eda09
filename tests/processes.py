"""Caches in processes of their own, told over a pipe what to do."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

PROGRAM = """
import json, sys, threading, time
import sqlalchemy as sa
import everfresh

database, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in ("freshness",):
    if isinstance(settings.get(name), (int, float)):
        settings[name] = everfresh.bounded(settings[name])
# no pool that is shared by threads limits how many ask at once
engine = sa.create_engine(database, pool_size=50, pool_pre_ping=True)
cache = everfresh.open(engine, **settings)

def ask(command):
    found = [None] * command.get("threads", 1)
    start = threading.Barrier(len(found))
    def one(place):
        start.wait()
        began = time.perf_counter()
        try:
            rows = cache.sql(command["sql"], **command.get("parameters", {}))
            told = {"rows": [list(row) for row in rows], "status": rows.receipt.status,
                    "reason": rows.receipt.reason}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        told["seconds"] = time.perf_counter() - began
        found[place] = told
    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(found))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return found

def write(command):
    with engine.begin() as connection:
        for statement in command["write"]:
            connection.execute(sa.text(statement))
    return "written"

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    if "sql" in command: answer = ask(command)
    elif "write" in command: answer = write(command)
    elif "stats" in command: answer = cache.stats().to_dict()
    elif "flush" in command: answer = cache.fills.durable.flush()
    else: break
    print(json.dumps(answer, default=str), flush=True)
cache.close()
engine.dispose()
"""


class Worker:
    """One process with one cache; ``tell`` and ``hear`` may be apart, so that many work at once."""

    def __init__(self, database, **settings):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(str(database)), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def ready(self):
        assert self.hear() == "ready"
        return self

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hear(self, seconds=60):
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        assert line, "the worker ended"
        return json.loads(line)

    def ask(self, sql, threads=1, **parameters):
        self.tell(sql=sql, parameters=parameters, threads=threads)
        return self.hear()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        with contextlib.suppress(OSError, ValueError):
            self.process.send_signal(signal.SIGCONT)
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def workers(count, database, **settings):
    """Yield this many processes that are ready."""
    made = [Worker(database, **settings) for _ in range(count)]
    try:
        yield [worker.ready() for worker in made]
    finally:
        for worker in made:
            worker.end()
