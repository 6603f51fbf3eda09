"""The commands that read and tend what outlives a process: catalogue and store."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from everfresh import catalogue as records
from everfresh.cli.printing import Json, print_json, print_table, size_of_text
from everfresh.cli.tracking import watching
from everfresh.errors import ConfigurationError
from everfresh.stores.sqlite import SqliteStore
from everfresh.stores.urls import make_store

__all__ = ["Catalogue", "register"]

Catalogue = Annotated[
    str,
    typer.Option("--catalogue", "-c", envvar="EVERFRESH_CATALOGUE", help="Database of record"),
]
OptionalCatalogue = Annotated[
    str | None,
    typer.Option("--catalogue", "-c", envvar="EVERFRESH_CATALOGUE", help="Database of record"),
]
StoreUrl = Annotated[
    str, typer.Option("--store", "-s", envvar="EVERFRESH_STORE", help="Where answers are kept")
]
OptionalStore = Annotated[
    str | None,
    typer.Option("--store", "-s", envvar="EVERFRESH_STORE", help="Where answers are kept"),
]
_DAY = 86_400.0


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (ls, impact, invalidate, shrink, gc):
        app.command()(command)
    versions = typer.Typer(help="The schema of a catalogue.", no_args_is_help=True)
    for step in (upgrade, downgrade, version):
        versions.command()(step)
    app.add_typer(versions, name="catalogue")


def ls(
    catalogue: Catalogue,
    table: Annotated[str | None, typer.Option(help="Only what reads this table")] = None,
    kind: Annotated[str | None, typer.Option(help="sql, call or micro")] = None,
    state: Annotated[str | None, typer.Option(help="fresh, stale or dropped")] = None,
    order: Annotated[str, typer.Option(help="score, cost, bytes, hits or age")] = "score",
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List what was kept: its state, cost, size, hits and what it depends on."""
    listing = records.Listing(kind=kind, table=table, state=state, order=order, limit=limit)
    with closing(_catalogue(catalogue)) as opened:
        rows = records.listed(opened, listing)
    if as_json:
        print_json([_facts(row) for row in rows])
        return
    print_table(
        ("key", "state", "hits", "cost", "age", "what", "depends on"),
        (
            (
                row.key[:8],
                row.state,
                row.hits,
                f"{row.cost * 1000:.3g} ms",
                _age(row.filled_at),
                " ".join(row.label.split())[:60],
                "; ".join(_sources(row))[:60],
            )
            for row in rows
        ),
    )


def impact(
    table: Annotated[str, typer.Argument(help="Table, such as flights")],
    catalogue: Catalogue,
    as_json: Json = False,
) -> None:
    """List what a change of a table may outdate, directly or through other answers."""
    with closing(_catalogue(catalogue)) as opened:
        found = records.impact(opened, table)
    if as_json:
        print_json([{**_facts(i.entry), "depth": i.depth, "through": i.through} for i in found])
        return
    print_table(
        ("depth", "key", "cost", "hits", "what"),
        (
            (
                i.depth,
                i.entry.key[:12],
                f"{i.entry.cost * 1000:.3g} ms",
                i.entry.hits,
                " ".join(i.entry.label.split())[:80],
            )
            for i in found
        ),
    )


def invalidate(
    url: Annotated[str, typer.Argument(help="Database, such as sqlite:///flights.db")],
    what: Annotated[str, typer.Argument(help="A table, a key of 40 characters, or all")],
    store: OptionalStore = None,
    catalogue: OptionalCatalogue = None,
    as_json: Json = False,
) -> None:
    """Outdate what was kept: in the store, and in every process that follows a tracked file."""
    key = what if len(what) == 40 and set(what) <= set("0123456789abcdef") else None
    told: list[str] = []
    if key is None:
        with watching(url) as watch:
            told = watch.announce(None if what == "all" else [what])
    if not told and store is None:
        raise ConfigurationError(
            f"nothing hears of this: {what} is not tracked (everfresh track install {url}), "
            "and no --store is named"
        )
    dropped = 0 if store is None else _drop(store, catalogue, what, key)
    result = {"tables": told, "dropped": dropped}
    if as_json:
        print_json(result)
    else:
        print_table(("outdated", "count"), [("tables told of", len(told)), ("stored", dropped)])


def shrink(
    store: StoreUrl,
    to: Annotated[str, typer.Option(help="Bytes to leave, such as 500MB")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
    as_json: Json = False,
) -> None:
    """Let the answers go that are worth least per byte until the store is this small."""
    with closing(_sqlite(store)) as opened:
        size = size_of_text(to)
        gone = list(opened.cheapest(size) if dry_run else opened.shrink(size))
        left = opened.bytes - (sum(e.bytes for e in gone) if dry_run else 0)
    if as_json:
        print_json({"gone": [e.key for e in gone], "bytes": left, "dry_run": dry_run})
        return
    print_table(("key", "bytes", "cost"), ((e.key[:12], f"{e.bytes:,}", e.cost) for e in gone))
    typer.echo(f"{len(gone)} answers {'would go' if dry_run else 'went'}, {left:,} bytes are left")


def gc(
    catalogue: OptionalCatalogue = None,
    database: Annotated[
        str | None, typer.Option("--database", "-d", help="Prune this file's change table too")
    ] = None,
    days: Annotated[float, typer.Option(min=0, help="Keep history this long")] = 30.0,
    keep_rows: Annotated[int, typer.Option(min=1, help="Rows of a change table")] = 100_000,
    as_json: Json = False,
) -> None:
    """Delete old history: of the catalogue what is over, of a change table the oldest rows."""
    if catalogue is None and database is None:
        raise ConfigurationError("name what to tend: --catalogue, --database or both")
    result: dict[str, int] = {}
    if catalogue is not None:
        with closing(_catalogue(catalogue)) as opened:
            result["entries"] = records.forget(opened, older_than=days * _DAY)
    if database is not None:
        with watching(database) as watch:
            result["changes"] = watch.prune(keep_rows)
    if as_json:
        print_json(result)
    else:
        print_table(("deleted", "rows"), result.items())


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a catalogue to this everfresh's schema, or to a revision."""
    records.upgrade(url) if revision == "head" else records.upgrade(url, revision)
    typer.echo(f"the catalogue is at {records.version(url)}")


def downgrade(url: str, revision: str) -> None:
    """Bring a catalogue back to a revision; base deletes its tables."""
    records.downgrade(url, revision)
    typer.echo(f"the catalogue is at {records.version(url) or 'base'}")


def version(url: str) -> None:
    """Print the version of a catalogue's schema."""
    typer.echo(records.version(url) or "none")


def _drop(store: str, catalogue: str | None, what: str, key: str | None) -> int:
    """Drop from a store: one key, what the catalogue knows of a table, or all where it is blind."""
    with closing(_sqlite(store)) as opened:
        if key is not None:
            return opened.discard(key) is not None
        if what == "all" or catalogue is None:
            count = len(opened)
            opened.clear()
            return count
        with closing(_catalogue(catalogue)) as known:
            keys = [found.entry.key for found in records.impact(known, what)]
        return sum(opened.discard(key) is not None for key in keys)


def _existing(url: str) -> str:
    """Return the URL if what it names is there: a command that reads makes no file, moves none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url  # opening it says what is wrong
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    file = Path(parsed.database)
    if not file.is_file():
        raise ConfigurationError(f"there is no SQLite file {parsed.database!r}: check the path")
    with file.open("rb") as opened:  # no connection of this process can have it open yet
        head = opened.read(16)
    if head not in (b"", b"SQLite format 3\x00"):
        raise ConfigurationError(f"{parsed.database!r} is no SQLite file: check the path")
    return url


def _catalogue(url: str) -> records.Catalogue:
    return records.open_catalogue(_existing(url))


def _sqlite(url: str) -> SqliteStore:
    try:
        name = make_url(url).get_backend_name()
    except ArgumentError:
        name = ""
    opened = make_store(_existing(url)) if name == "sqlite" else None
    if not isinstance(opened, SqliteStore):
        raise ConfigurationError(f"a store that outlives a process is sqlite:///file.db, not {url}")
    return opened


def _facts(row: Any) -> dict[str, Any]:
    names = ("key", "kind", "label", "state", "reason", "change", "cost", "bytes", "hits", "fills")
    facts = {name: getattr(row, name) for name in names}
    return {**facts, "age": time.time() - row.filled_at, "sources": _sources(row)}


def _sources(row: Any) -> list[str]:
    found = []
    for each in row.dependencies:
        table = (each.table_name or "").removeprefix("main.")
        if each.parent is not None:
            found.append(f"→ {each.parent[:12]}")
        else:
            shown = f"{table} WHERE {each.condition}" if each.condition else table
            found.append(shown or "the whole database")
    return found


def _age(at: float) -> str:
    seconds = max(time.time() - at, 0.0)
    for unit, size in (("d", _DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
