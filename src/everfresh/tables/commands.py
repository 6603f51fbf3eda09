"""The command of this surface: look into a cached table."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from everfresh.connect.engines import make_engine
from everfresh.tables.attributes import AttributeIndexes
from everfresh.tables.byattributes import ByAttributes
from everfresh.tables.cached_table import CachedTable
from everfresh.tables.local.table import LocalStorageTable
from everfresh.tables.pieces import weigh
from everfresh.tables.sqlalchemy_access import SqlAlchemyAccess
from everfresh.tables.upkeep import Progress as Report

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(table)


def table(
    url: Annotated[str, typer.Argument(help="Database, such as sqlite:///flights.db")],
    statement: Annotated[str, typer.Argument(help="The SELECT of all records")],
    key: Annotated[list[str], typer.Option("--key", "-k", help="A column of the primary key")],
    by: Annotated[
        list[str] | None,
        typer.Option("--by", "-b", help="Columns of the index to look through, - for falling"),
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option("--value", "-v", help="What its first columns are equal to, as JSON or text"),
    ] = None,
    ge: Annotated[str | None, typer.Option(help="The next column is at least this")] = None,
    lt: Annotated[str | None, typer.Option(help="The next column is below this")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Show this many records")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Load the records of a SELECT into a table in memory and look through one index."""
    console = Console(stderr=True, quiet=as_json)
    shown, figures = asyncio.run(
        _look(url, statement, key, by or key, (value or [], ge, lt), limit, console)
    )
    if as_json:
        text = json.dumps({"records": shown, "table": figures}, indent=2, default=str)
        typer.echo(text)
        return
    columns = list(shown[0]) if shown else []
    printed = Table(*map(escape, columns))
    for row in shown:
        printed.add_row(*("" if cell is None else escape(str(cell)) for cell in row.values()))
    out = Console()
    out.print(printed)
    out.print(
        "{records:,} records, about {bytes:,} bytes, loaded in {seconds:.2f} s; "
        "{matching:,} match, found in {microseconds:.0f} µs".format(**figures),
        highlight=False,
    )


async def _look(
    url: str,
    statement: str,
    key: list[str],
    by: list[str],
    bounds: tuple[list[str], str | None, str | None],
    limit: int,
    console: Console,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    engine, _ = make_engine(url)
    values, ge, lt = bounds
    with _progress(console) as progress:
        task = progress.add_task("load", total=None)

        def report(one: Report) -> None:
            progress.update(task, completed=one.loaded, total=one.loaded if one.done else None)

        try:
            indexes = AttributeIndexes(
                statement, key, dialect=engine.dialect.name, chosen=ByAttributes(*by)
            )
            access = SqlAlchemyAccess(engine)
            async with CachedTable(
                indexes, access, LocalStorageTable(indexes), progress=report
            ) as kept:
                started = time.perf_counter()
                await kept.load("primary_key")
                loaded = time.perf_counter() - started
                spec = indexes.IndexSpec(
                    "chosen", *map(_read, values), ge=_bound(ge), lt=_bound(lt)
                )
                started = time.perf_counter()
                found = await kept.get_records_list(spec)
                took = (time.perf_counter() - started) * 1e6
                everything = await kept.get_records_list("primary_key")
        finally:
            engine.dispose()
    figures = {
        "records": len(everything),
        "bytes": weigh(everything),
        "seconds": loaded,
        "matching": len(found),
        "microseconds": took,
    }
    return found[:limit], figures


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"))
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)


def _bound(text: str | None) -> Any:
    return None if text is None else _read(text)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
