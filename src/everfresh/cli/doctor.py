"""`everfresh doctor`: look at a database as the cache would and say what to mend."""

from __future__ import annotations

import sqlite3
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from everfresh.cli.tracking import watching
from everfresh.connect.describe import DatabaseSchema, describe
from everfresh.connect.engines import make_engine
from everfresh.errors import ConfigurationError, EverfreshError

__all__ = ["Finding", "examine"]

State = Literal["ok", "note", "mend"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold one finding: ``mend`` is an error, ``note`` worth knowing, ``ok`` fine."""

    check: str
    state: State
    meaning: str

    def to_dict(self) -> dict[str, str]:
        """Return plain data, ready for JSON."""
        return asdict(self)


def examine(url: str) -> list[Finding]:
    """Return what was found, the environment first, then the database."""
    findings = _environment()
    try:
        engine, _ = make_engine(url)
    except EverfreshError as error:
        return [*findings, Finding("URL", "mend", str(error))]
    findings.append(Finding("URL", "ok", engine.url.render_as_string()))
    try:
        with engine.connect() as connection:
            findings += _server(connection)
            findings += _tables(describe(connection))
            findings += _writers(engine)
        findings.append(_others(url))
    except SQLAlchemyError as error:
        findings.append(Finding("connection", "mend", str(getattr(error, "orig", error))))
    finally:
        engine.dispose()
    return findings


def _environment() -> list[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    found = [Finding("Python", "ok", python)]
    found += [Finding(name, "ok", version(name)) for name in ("SQLAlchemy", "sqlglot", "msgspec")]
    for package, extra, use in (
        ("psycopg", "postgres", "PostgreSQL"),
        ("pyarrow", "arrow", "storing large tables"),
    ):
        try:
            found.append(Finding(package, "ok", version(package)))
        except PackageNotFoundError:
            hint = f"only needed for {use}: pip install 'everfresh[{extra}]'"
            found.append(Finding(package, "note", hint))
    return found


def _server(connection: Connection) -> list[Finding]:
    if connection.dialect.name == "sqlite":
        found = [Finding("SQLite", "ok", sqlite3.sqlite_version)]
        if connection.engine.url.database in (None, "", ":memory:"):
            meaning = "an in-memory database: everything is gone when the cache is closed"
            found.append(Finding("file", "note", meaning))
        return found
    info = connection.dialect.server_version_info or ()
    number = ".".join(map(str, info))
    state: State = "ok" if info >= (13,) else "mend"
    meaning = number if state == "ok" else f"{number}: version 13 or newer is needed"
    return [Finding("PostgreSQL", state, meaning)]


def _tables(schema: DatabaseSchema) -> list[Finding]:
    tables = [table for table in schema.tables.values() if table.kind == "table"]
    if not tables:
        return [Finding("tables", "note", "there are none yet")]
    found = [Finding("tables", "ok", f"{len(tables)} can be followed")]
    keyless = sorted(table.name for table in tables if not table.primary_key)
    if keyless:
        meaning = f"no primary key, so `why` cannot name the row: {', '.join(keyless)}"
        found.append(Finding("primary keys", "note", meaning))
    other = sorted(t.name for t in schema.tables.values() if t.kind in ("virtual", "foreign"))
    if other:
        meaning = f"queries of these are not kept, no trigger can follow them: {', '.join(other)}"
        found.append(Finding("virtual and foreign tables", "note", meaning))
    coarse = sorted(schema.triggering | schema.replacing)
    if coarse:
        meaning = f"writes to these outdate more than the rows they name: {', '.join(coarse)}"
        found.append(Finding("triggers and REPLACE", "note", meaning))
    return found


def _writers(engine: Engine) -> list[Finding]:
    precision = (
        "row by row, through TEMP triggers on the writing connection"
        if engine.dialect.name == "sqlite"
        else "by row once tracked, else by table with what foreign keys and triggers may touch"
    )
    return [
        Finding("own commits", "ok", f"heard before they return, {precision}"),
    ]


def _others(url: str) -> Finding:
    try:
        with watching(url) as watch:
            if watch.mode == "tracked":
                state: State = "note" if watch.status().untracked else "ok"
                return Finding("other writers", state, f"heard row by row: {watch.reason}")
            meaning = f"{watch.reason}; `everfresh track install` lets their rows be heard"
            return Finding("other writers", "note", meaning)
    except ConfigurationError:
        meaning = "not heard: write through cache.engine, in this process"
        return Finding("other writers", "note", meaning)
