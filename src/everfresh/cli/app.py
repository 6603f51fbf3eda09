"""The Typer application: common commands, and those that each surface brings along."""

from __future__ import annotations

import sqlite3
import sys
from importlib import import_module
from importlib.util import find_spec

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from everfresh.cli import commands, records, tracking
from everfresh.errors import EverfreshError

__all__ = ["app", "main"]

# A surface brings commands by a module `commands` with a function `register(app)`.
_SURFACES = ("micro", "orm", "tables", "queries", "tasks")

app = typer.Typer(
    name="everfresh",
    help="Cached SQL that is never stale: ask, explain, audit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _module in (commands, records, tracking):
    _module.register(app)
for _surface in _SURFACES:
    _home = f"everfresh.{_surface}"
    if find_spec(_home) and find_spec(f"{_home}.commands"):
        import_module(f"{_home}.commands").register(app)


def main() -> None:
    """Run the command line; exit 1 with one clear line on errors that users can mend."""
    try:
        app()
    except (EverfreshError, SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        line = Text.assemble(("error: ", "red"), str(cause))  # [extra] in it is no markup
        Console(stderr=True).print(line, soft_wrap=True)
        sys.exit(1)
