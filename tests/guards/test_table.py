"""The table of guards is whole: every edit fits, every test exists, the page shows all of it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load():
    path = ROOT / "scripts" / "guards.py"
    spec = importlib.util.spec_from_file_location("guards_script", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["guards_script"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


script = load()
SECTIONS, GUARDS = script.read_table()


def test_every_id_is_unique_and_every_section_known():
    ids = [guard.id for guard in GUARDS]
    assert len(set(ids)) == len(ids) > 0
    assert {guard.section for guard in GUARDS} <= SECTIONS.keys()
    assert all(guard.tests and guard.rule.endswith(".") for guard in GUARDS)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.id)
def test_every_guard_can_be_taken_out(guard):
    text = (ROOT / guard.file).read_text()
    assert guard.without(text) != text


def test_every_test_exists():
    tests = sorted({test for guard in GUARDS for test in guard.tests})
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-3000:]


def test_the_page_shows_the_table():
    page = script.PAGE.read_text()
    table = script.rendered(SECTIONS, GUARDS)
    assert script.page_with(table, page) == page, "run: python scripts/guards.py --write-docs"


def guard(**changes):
    given = {"id": "g", "section": "s", "rule": "r.", "file": "f.py", "out": (("a", "b"),)}
    return script.Guard(**{**given, "tests": ("t.py::test_x",), **changes})


def test_an_edit_must_fit_exactly_once_and_leave_code():
    assert guard().without("a = 1") == "b = 1"
    for text in ("aa = 1", "c = 1"):
        with pytest.raises(LookupError):
            guard().without(text)
    with pytest.raises(SyntaxError):
        guard(out=(("a", "("),)).without("a = 1")


@pytest.mark.parametrize(
    ("code", "events", "problem"),
    [
        (
            1,
            [["start", "t.py::test_x[1]", ""], ["failed", "t.py::test_x[1]", "AssertionError"]],
            "",
        ),
        (124, [["start", "t.py::test_x", ""]], ""),  # it hung
        (0, [["start", "t.py::test_x", ""], ["end", "t.py::test_x", ""]], "not missed"),
        (1, [["failed", "t.py::test_xy", "AssertionError"]], "not missed"),
        (1, [["failed", "t.py::test_x", "NameError"]], "the edit breaks the code: NameError"),
        (2, [], "pytest could not run its tests (code 2)"),
        (4, [], "pytest could not run its tests (code 4)"),
    ],
)
def test_a_failure_must_be_one_of_the_test(code, events, problem):
    assert script.judged(guard(), code, events) == problem
