"""Every example in docstrings, README and docs runs."""

import doctest
import importlib
import pkgutil
import re
import sqlite3
from pathlib import Path

import pytest

import everfresh

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [
    found.name
    for found in pkgutil.walk_packages(everfresh.__path__, "everfresh.")
    if not found.name.endswith("__main__")
]


@pytest.fixture
def flights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connection = sqlite3.connect("flights.db")
    connection.execute(
        "CREATE TABLE flights (id INTEGER PRIMARY KEY, month INTEGER, carrier TEXT, arr_delay REAL)"
    )
    connection.executemany(
        "INSERT INTO flights (month, carrier, arr_delay) VALUES (?, ?, ?)",
        [(n % 12 + 1, ("UA", "B6", "AA")[n // 12 % 3], n * 0.5) for n in range(240)],
    )
    connection.commit()
    connection.close()


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, flights):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page, flights, capsys):
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    code = "\n".join(blocks)
    exec(compile(code, str(page), "exec"), {"__name__": "example"})


def test_the_runner_sees_a_wrong_example(flights):
    with pytest.raises(AssertionError):
        exec(compile(BLOCK.findall("```python\nassert 1 == 2\n```")[0], "x", "exec"), {})


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs/reference/api.md").read_text()
    from everfresh import errors

    missing = [
        n for n in everfresh.__all__ if f"everfresh.{n}" not in text and not hasattr(errors, n)
    ]
    assert missing == []


def test_every_setting_and_command_is_documented():
    from everfresh.cli.app import app
    from everfresh.settings import Settings

    engine_page = (ROOT / "docs/how-to/engine.md").read_text()
    assert [n for n in Settings.__dataclass_fields__ if f"`{n}`" not in engine_page] == []
    commands = [command.callback.__name__ for command in app.registered_commands]
    page = (ROOT / "docs/reference/cli.md").read_text()
    assert [name for name in commands if f"everfresh {name}" not in page] == []
