"""`everfresh track`: what makes every writer of a database log its changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from everfresh.changes.publisher import Publisher
from everfresh.changes.watching import Tracking, Watch
from everfresh.changes.writers import watch
from everfresh.cli.printing import Json, print_json, print_table
from everfresh.connect.engines import make_engine
from everfresh.errors import ConfigurationError

__all__ = ["register", "watching"]

Url = Annotated[
    str,
    typer.Argument(help="Database, such as sqlite:///flights.db or postgresql://user@host/name"),
]
Tables = Annotated[
    list[str] | None, typer.Option("--table", "-t", help="Only this table; may be repeated")
]
Readers = Annotated[
    list[str] | None,
    typer.Option("--reader", help="Role that may read the log too (PostgreSQL); may be repeated"),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands = typer.Typer(
        help="Make every writer of a database log its changes.", no_args_is_help=True
    )
    for command in (install, status, remove):
        commands.command()(command)
    app.add_typer(commands, name="track")


def install(
    url: Url,
    table: Tables = None,
    reader: Readers = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Put triggers and a change table into the database, after showing what will be done."""
    with watching(url) as found:
        steps = found.plan(table, reader or ())
        if not as_json:
            for step in steps:
                typer.echo(f"{step};")
        if steps and not yes:
            typer.confirm(f"Run these {len(steps)} statements?", abort=True, err=True)
        _print(found.install(table, reader or ()), as_json=as_json)


def status(url: Url, as_json: Json = False) -> None:
    """Say what is tracked, what is not and why; exits with 1 if triggers are out of date."""
    with watching(url) as found:
        tracking = found.status()
    _print(tracking, as_json=as_json)
    if tracking.outdated:
        raise typer.Exit(1)


def remove(url: Url, as_json: Json = False) -> None:
    """Take triggers and change table out of the database."""
    with watching(url) as found:
        _print(found.remove(), as_json=as_json)


@contextmanager
def watching(url: str) -> Iterator[Watch]:
    """Yield a watch of a database; raises `ConfigurationError` where nobody else can write."""
    engine, _ = make_engine(url)
    try:
        found = watch(engine, Publisher("session"))
        if found is None:
            raise ConfigurationError(
                f"{engine.url!r} is in memory and has no other writers: nothing to track"
            )
        with closing(found):
            yield found
    finally:
        engine.dispose()


def _print(tracking: Tracking, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(tracking))
        return
    rows = [(name, "tracked", "") for name in tracking.tracked]
    rows += [
        (name, "outdated" if name in tracking.outdated else "not tracked", why)
        for name, why in tracking.untracked.items()
    ]
    print_table(("table", "state", "why"), rows)
    typer.echo(f"{tracking.rows:,} changes in the history")
