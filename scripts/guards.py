"""Take each guard of the freshness protocol out and see the tests named for it fail.

``tests/guards/guards.toml`` is the table. A guard is taken out in a copy of the tree, so nothing
here changes; what is imported is the copy, and every run checks that it is.

    python scripts/guards.py                 all, two at a time
    python scripts/guards.py --only ID       one, with what its tests said; may be repeated
    python scripts/guards.py --list          the table
    python scripts/guards.py --write-docs    put the table into docs/reference/guards.md
"""

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "guards" / "guards.toml"
PAGE = ROOT / "docs" / "reference" / "guards.md"
START, END = "<!-- the table -->", "<!-- the end of the table -->"
COPIED = ("src", "tests", "pyproject.toml", "README.md", "LICENSE")
TEST_SECONDS = 15  # a test that hangs without the guard is stopped then, and has failed
GUARD_SECONDS = 90  # all tests of one guard
FIRST_SECONDS = 300  # all tests of all guards, with every guard in place
# what a careless edit raises, and no missing guard
BROKEN = ("SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError", "NameError")


@dataclass(frozen=True)
class Guard:
    """Hold one rule, how it is taken out, and the tests that fail then."""

    id: str
    section: str
    rule: str
    file: str
    out: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]

    def without(self, text: str) -> str:
        """Return the text of the file with this guard taken out."""
        for old, new in self.out:
            if text.count(old) != 1:
                raise LookupError(f"{self.file} holds this {text.count(old)} times:\n{old}")
            text = text.replace(old, new)
        compile(text, self.file, "exec")
        return text


@dataclass(frozen=True)
class Outcome:
    """Hold what became of one guard; ``problem`` is "" if every test of it failed."""

    guard: Guard
    problem: str
    seconds: float
    output: str = ""


def read_table(path: Path = TABLE) -> tuple[dict[str, str], list[Guard]]:
    """Return the sections, what each is about by its title, and the guards."""
    table = tomllib.loads(path.read_text())
    guards = [
        Guard(
            one["id"],
            one["section"],
            " ".join(one["rule"].split()),
            one["file"],
            tuple((old, new) for old, new in one["out"]),
            tuple(one["tests"]),
        )
        for one in table["guard"]
    ]
    return {one["title"]: one.get("not_yet", "") for one in table["section"]}, guards


# the page


def rendered(sections: Mapping[str, str], guards: Sequence[Guard]) -> str:
    """Return the table as the page shows it."""
    lines = []
    for title in sections:
        of_it = [guard for guard in guards if guard.section == title]
        if not of_it:
            continue
        lines += [
            f"## {title}",
            "",
            "| guard | rule | fails when it is taken out |",
            "|---|---|---|",
        ]
        for guard in of_it:
            tests = "<br>".join(f"`{shown(test)}`" for test in guard.tests)
            lines.append(f"| `{guard.id}` | {guard.rule} | {tests} |")
        lines.append("")
    missing = [(title, text) for title, text in sections.items() if text]
    lines += ["## Not yet built", "", *(f"- {title}: {text}" for title, text in missing), ""]
    return "\n".join(lines)


def shown(test: str) -> str:
    path, _, name = test.partition("::")
    return f"{path.removeprefix('tests/').removesuffix('.py')}::{name}"


def page_with(table: str, page: str) -> str:
    """Return the page with its table replaced."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{table}\n{END}{after}"


# one run of pytest on a copy of the tree


class Reporter:
    """Write each test's outcome down as soon as it is known; one failed case of each will do."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - as long as the process
        self._failed: set[str] = set()

    def pytest_runtest_setup(self, item: object) -> None:
        import pytest

        if item.nodeid.partition("[")[0] in self._failed:  # type: ignore[attr-defined]
            pytest.skip("another case of it has failed already")

    def _write(self, *parts: str) -> None:
        self._file.write(json.dumps(parts) + "\n")

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self._write("start", nodeid, "")

    def pytest_exception_interact(self, node: object, call: object, report: object) -> None:
        if getattr(report, "when", "") == "call":
            error = getattr(call, "excinfo", None)
            kind = "" if error is None else error.type.__name__
            self._write("failed", node.nodeid, kind)  # type: ignore[attr-defined]
            self._failed.add(node.nodeid.partition("[")[0])  # type: ignore[attr-defined]

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        self._write("end", nodeid, "")


def inside(report: str, arguments: list[str]) -> int:
    """Run pytest here; the working directory is the copy."""
    import pytest

    import everfresh

    if not Path(everfresh.__file__).is_relative_to(Path.cwd()):
        print(f"{everfresh.__file__} was imported instead of the copy in {Path.cwd()}")
        return 99
    return int(pytest.main(arguments, plugins=[Reporter(report)]))


def run_tests(
    folder: Path, tests: Sequence[str], seconds: float
) -> tuple[int, list[list[str]], str]:
    """Run these tests in a copy; return pytest's code (124: it hung), what was reported, output."""
    report = folder / "report.jsonl"
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, str(Path(__file__).resolve()), "--inside", str(report)),
        *("-q", "-p", "no:cacheprovider", "--tb=short", f"--timeout={TEST_SECONDS}", *tests),
    ]
    # the copy's src comes before what the environment has installed
    paths = {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **paths},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = 124
        output.seek(0)
        text = output.read()
    lines = report.read_text().splitlines() if report.exists() else []
    return code, [json.loads(line) for line in lines], text


def judged(guard: Guard, code: int, events: Sequence[Sequence[str]]) -> str:
    """Return what is wrong: "" if every test of the guard failed, and failed as a test does."""
    if code not in (1, 124):
        return "not missed" if code == 0 else f"pytest could not run its tests (code {code})"
    failed = {test: kind for event, test, kind in events if event == "failed"}
    ended = {test for event, test, _ in events if event == "end"}
    failed |= {test: "hang" for event, test, _ in events if event == "start" and test not in ended}
    broken = {kind for kind in failed.values() if kind in BROKEN}
    if broken:
        return f"the edit breaks the code: {', '.join(sorted(broken))}"
    for test in guard.tests:
        if not any(one == test or one.startswith(f"{test}[") for one in failed):
            return "not missed" if len(guard.tests) == 1 else f"not missed by {shown(test)}"
    return ""


# all of them


@contextmanager
def copies(count: int) -> Iterator["queue.Queue[Path]"]:
    """Yield this many copies of the tree; compiled, and checked by content, not by time."""
    with tempfile.TemporaryDirectory(prefix="everfresh-guards-") as name:
        ready: queue.Queue[Path] = queue.Queue()
        for number in range(count):
            folder = Path(name) / str(number)
            folder.mkdir()
            for item in COPIED:
                source = ROOT / item
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, folder / item, ignore=ignored)
                else:
                    shutil.copy(source, folder / item)
            compiling = [sys.executable, "-m", "compileall", "-q"]
            compiling += ["--invalidation-mode", "checked-hash", str(folder / "src")]
            subprocess.run(compiling, check=True)
            ready.put(folder)
        yield ready


def take_out(guard: Guard, ready: "queue.Queue[Path]") -> Outcome:
    """Take one guard out of a copy, run its tests there, and put it back."""
    started = time.monotonic()
    folder = ready.get()
    path = folder / guard.file
    whole = path.read_text()
    output = ""
    try:
        path.write_text(guard.without(whole))
        code, events, output = run_tests(folder, guard.tests, GUARD_SECONDS)
        problem = judged(guard, code, events)
    except (LookupError, SyntaxError) as error:
        problem = f"cannot be taken out: {error}"
    finally:
        path.write_text(whole)
        ready.put(folder)
    return Outcome(guard, problem, time.monotonic() - started, output)


def in_place(guards: Sequence[Guard], ready: "queue.Queue[Path]", jobs: int) -> list[str]:
    """Run the tests of all guards with every guard in place; return the output of what failed."""
    by_file: dict[str, set[str]] = {}
    for guard in guards:
        for test in guard.tests:
            by_file.setdefault(test.partition("::")[0], set()).add(test)
    # those that need a server together, so that few are started
    ordered = sorted(by_file, key=lambda file: ("postgres" in file, file))
    tests = [test for file in ordered for test in sorted(by_file[file])]
    size = -(-len(tests) // jobs)
    parts = [tests[start : start + size] for start in range(0, len(tests), size)]

    def run(part: list[str]) -> str:
        folder = ready.get()
        try:
            code, _, output = run_tests(folder, part, FIRST_SECONDS)
        finally:
            ready.put(folder)
        return output if code else ""

    with ThreadPoolExecutor(jobs) as pool:
        return [output for output in pool.map(run, parts) if output]


def check(guards: Sequence[Guard], jobs: int, *, verbose: bool) -> int:
    """Take out these guards, print the table, and return the exit code."""
    began = time.monotonic()
    with copies(jobs) as ready, ThreadPoolExecutor(jobs) as pool:
        if failures := in_place(guards, ready, jobs):
            print(*failures, sep="\n")
            print("guards: tests fail with every guard in place")
            return 1
        problems = []
        for outcome in pool.map(lambda guard: take_out(guard, ready), guards):
            said = outcome.problem or "missed"
            print(f"{outcome.guard.id:<40} {outcome.seconds:5.1f} s  {said}", flush=True)
            if outcome.problem:
                problems.append(outcome)
            if verbose:
                print(outcome.output)
    print(f"{time.monotonic() - began:.0f} s")
    print(f"guards: {len(guards)} taken out, {len(problems)} not missed")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="ID", help="take out this one")
    parser.add_argument("--list", action="store_true", help="print the table")
    parser.add_argument("--write-docs", action="store_true", help="write the page of the docs")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="how many at a time")
    options = parser.parse_args()
    sections, guards = read_table()
    if options.write_docs:
        PAGE.write_text(page_with(rendered(sections, guards), PAGE.read_text()))
        return 0
    if options.only:
        unknown = set(options.only) - {guard.id for guard in guards}
        if unknown:
            parser.error(f"there is no guard {', '.join(sorted(unknown))}")
        guards = [guard for guard in guards if guard.id in options.only]
    if options.list:
        for guard in guards:
            print(f"{guard.id:<40} {guard.section}: {guard.rule}")
        return 0
    return check(guards, options.jobs, verbose=bool(options.only))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(inside(sys.argv[2], sys.argv[3:]))
    sys.exit(main())
