"""The commands that need no surface: demo, sql, why, stats, audit, doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import everfresh
from everfresh.cli.doctor import examine
from everfresh.cli.printing import Json, print_json
from everfresh.cli.records import OptionalCatalogue, OptionalStore
from everfresh.cli.trust import history, recorded
from everfresh.cli.workload import Workload, read_workload
from everfresh.engine.cache import Cache
from everfresh.errors import ConfigurationError

__all__ = ["register"]

Url = Annotated[str, typer.Argument(help="Database, such as sqlite:///flights.db")]
Statement = Annotated[str, typer.Argument(help="A SELECT with :name parameters")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="name=value; the value is read as JSON, else as text"),
]
WorkloadFile = Annotated[
    Path | None,
    typer.Option("--workload", "-w", help="SQL file, statements end with ';' (default: stdin)"),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (demo, sql, why, stats, audit, doctor):
        app.command()(command)


def demo(
    database: Annotated[
        Path | None, typer.Option(help="Keep the flights in this file (default: a temporary one)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the main job on real flights data."""
    from everfresh.cli.demo.show import run_demo

    result = run_demo(Console(quiet=as_json), database)
    if as_json:
        print_json(result.to_dict())
    if result.audit["stale"]:
        raise typer.Exit(1)


def sql(url: Url, statement: Statement, param: Parameters = None, as_json: Json = False) -> None:
    """Run a query through the cache and print its rows and its receipt."""
    with everfresh.open(url) as cache:
        rows = cache.sql(statement, _parameters(param))
        if as_json:
            print_json({"rows": rows.to_dicts(), "receipt": rows.receipt.to_dict()})
            return
        table = Table(*map(escape, rows.columns))
        for row in rows:
            table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
        console = Console()
        console.print(table)
        console.print(str(rows.receipt), highlight=False, markup=False)


def why(url: Url, statement: Statement, param: Parameters = None, as_json: Json = False) -> None:
    """Ask a query twice and explain the answer: what it depends on and whether it is kept."""
    with everfresh.open(url) as cache:
        parameters = _parameters(param)
        cache.sql(statement, parameters)
        explanation = cache.why(cache.sql(statement, parameters))
        if as_json:
            print_json(explanation.to_dict())
        else:
            Console().print(str(explanation), highlight=False, markup=False, soft_wrap=True)


def stats(
    url: Url,
    workload: WorkloadFile = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each statement is asked")] = 2,
    as_json: Json = False,
) -> None:
    """Run a file of queries through the cache and print what was kept, hit and saved."""
    with everfresh.open(url) as cache:
        _run(cache, read_workload(workload), rounds)
        figures = cache.stats().to_dict()
    if as_json:
        print_json(figures)
        return
    table = Table("figure", "value")
    for name, value in figures.items():
        shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), escape(shown))
    Console().print(table)


def audit(
    url: Url,
    workload: WorkloadFile = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Check this many answers")] = None,
    catalogue: OptionalCatalogue = None,
    store: OptionalStore = None,
    as_json: Json = False,
) -> None:
    """Ask a sample of answers again around the cache and compare; exits with 1 if one was stale.

    The queries are those of a file or, with a catalogue, those it knows; with a store the answers
    kept there are what is checked. A catalogue remembers the outcome, in nines over time.
    """
    with everfresh.open(url, catalogue=catalogue, store=store) as cache:
        known = workload is None and catalogue is not None
        _run(cache, recorded(str(catalogue)) if known else read_workload(workload), rounds=1)
        outcome = cache.audit(sample)
    over_time = [] if catalogue is None else history(catalogue)
    if as_json:
        print_json({**outcome.to_dict(), "over_time": [asdict(period) for period in over_time]})
    else:
        Console().print(str(outcome), highlight=False)
        for period in over_time:
            typer.echo(str(period))
    if outcome.stale:
        raise typer.Exit(1)


def doctor(url: Url, as_json: Json = False) -> None:
    """Check the set-up and say what to mend; exits with 1 if something must be."""
    findings = examine(url)
    if as_json:
        print_json([finding.to_dict() for finding in findings])
    else:
        table = Table("check", "state", "what it means")
        colours = {"ok": "green", "note": "yellow", "mend": "red"}
        for found in findings:
            state = f"[{colours[found.state]}]{found.state}[/]"
            table.add_row(found.check, state, escape(found.meaning))
        Console().print(table)
    if any(finding.state == "mend" for finding in findings):
        raise typer.Exit(1)


def _run(cache: Cache, workload: Workload, rounds: int) -> None:
    for _ in range(rounds):
        for statement, parameters in workload:
            cache.sql(statement, parameters)


def _parameters(pairs: list[str] | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--param takes name=value, not {pair!r}")
        try:
            parameters[name] = json.loads(value)
        except json.JSONDecodeError:
            parameters[name] = value
    return parameters
