"""SQLAlchemy's own dialect compliance suite, with every SELECT answered where it can be."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "orm_compliance"
COMMAND = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-p", "no:valkey"]


def run(folder, mode, url, only):
    """Return {test: outcome} of the suite, and how many answers were given again from memory."""
    home = folder / mode
    shutil.copytree(FOLDER, home)
    (home / "suite.py").rename(home / "test_suite.py")
    (home / "harness.py").rename(home / "conftest.py")  # there, not for the tests here
    chosen = ["-k", only] if only else []
    done = subprocess.run(
        [*COMMAND, "--dburi", url.format(home), "--log-level=ERROR", *chosen, "test_suite.py"],
        cwd=home,
        env={**os.environ, "EVERFRESH_COMPLIANCE": mode, "PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    outcomes = dict(
        reversed(pair)
        for pair in re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    )
    skipped = sum(map(int, re.findall(r"(\d+) skipped", done.stdout)))
    again = re.search(r"(\d+) second answers", done.stdout)
    assert len(outcomes) > 10, done.stdout[-3000:] + done.stderr[-3000:]
    return outcomes, skipped, int(again[1]) if again else 0


def urls(request):
    postgres = request.getfixturevalue("postgres_url")
    return {
        "sqlite": "sqlite:///{}/suite.db",
        "postgresql": postgres.replace("postgresql://", "postgresql+psycopg://"),
    }


def compare(request, tmp_path, database, only=""):
    url = urls(request)[database]
    without, skipped, _ = run(tmp_path, "off", url, only)
    for mode in ("on", "twice"):
        within, also_skipped, again = run(tmp_path, mode, url, only)
        differing = {
            test: (without.get(test), within.get(test))
            for test in without.keys() | within.keys()
            if without.get(test) != within.get(test)
        }
        assert differing == {}, mode
        assert skipped == also_skipped
        assert (again > 10) == (mode == "twice")
    assert sum(outcome == "PASSED" for outcome in without.values()) > 10


def test_a_part_of_the_suite(request, tmp_path):
    compare(request, tmp_path, "sqlite", "JoinTest or FetchLimit or LikeFunctions")


@pytest.mark.soak
@pytest.mark.skipif(not os.environ.get("EVERFRESH_SOAK"), reason="minutes: under make soak")
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_whole_suite(database, request, tmp_path):
    compare(request, tmp_path, database)
