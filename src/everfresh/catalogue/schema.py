"""The version of a catalogue's schema, and Alembic's way from one to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

__all__ = ["HEAD", "VERSION_TABLE", "holds_others", "migrate", "revisions", "stored_version"]

HEAD = "1.0"
VERSION_TABLE = "everfresh_version"  # not Alembic's default: another program may use that


def stored_version(connection: Connection) -> str | None:
    """Return the version of the tables, None if there are none of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def holds_others(connection: Connection) -> bool:
    """Whether the database holds tables besides that of our version."""
    return bool(set(inspect(connection).get_table_names()) - {VERSION_TABLE})


def revisions() -> frozenset[str]:
    """Return every version that this everfresh has a way from and to."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def migrate(connection: Connection, revision: str, *, up: bool) -> None:
    """Bring the tables to a revision within the connection's transaction."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    (command.upgrade if up else command.downgrade)(config, revision)


def _config() -> Any:
    from alembic.config import Config  # takes as long to import as all the rest of the package

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
