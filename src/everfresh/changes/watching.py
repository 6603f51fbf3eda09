"""What is known of the other writers of a database: the port that each kind of database fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Literal, Protocol

from everfresh.changes.sqlite_bracket import Bracket
from everfresh.kernel.change import Change
from everfresh.kernel.mark import SeenMark

__all__ = ["FEED", "Mode", "Tracking", "Watch"]

FEED = "outbox"
Mode = Literal["tracked", "watched", "none"]


@dataclass(frozen=True, slots=True)
class Tracking:
    """Tell what is tracked in a database; tables by canonical name (``"main.flights"``).

    ``history`` is None when nothing is installed. ``untracked`` says of each other table why, and
    ``outdated`` lists those of them whose triggers are missing or made for another schema.
    ``rows`` is the length of the history, ``oldest`` and ``newest`` its first and last number: a
    sequence on SQLite, a transaction on PostgreSQL.
    """

    history: str | None
    tracked: tuple[str, ...]
    untracked: Mapping[str, str]
    outdated: tuple[str, ...] = ()
    rows: int = 0
    oldest: int = 0
    newest: int = 0
    schema_version: int = 0


class Watch(Protocol):
    """Hear what others commit to one database."""

    @property
    def bracket(self) -> Bracket | None:
        """What goes around commits of this process where they would be taken for others'."""

    @property
    def mode(self) -> Mode:
        """How commits of others are heard now: by their rows, or only that there were any."""

    @property
    def reason(self) -> str:
        """Why the mode is what it is, or why others cannot be heard, in words for a receipt."""

    @property
    def means(self) -> str:
        """What proves an answer, in a few words."""

    def covers(self, table: str) -> bool:
        """Whether others' commits to this table, by its canonical name, are heard."""

    def poll(self, definitions: float = 0.0) -> bool:
        """Publish what was committed before now; return whether that is certain.

        What tables, views, grants and policies are is looked at too, if that was longer ago than
        ``definitions`` seconds.
        """

    def told(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return what is left to tell of a commit of this process that is over.

        ``changes`` are what it may have changed at most; what it did may be told of by now.
        """

    def mark(self, raw: Any) -> SeenMark | None:
        """Return how much of the history this DBAPI connection sees, None if none is kept."""

    def since(self, mark: SeenMark) -> Sequence[Change] | None:
        """Return all changes after the mark up to now, None if the history does not tell."""

    def wait(self, stop: Event, interval: float, bound: float) -> bool:
        """Wait until it is time to poll again; return whether it is over.

        ``interval`` is how often others are to be looked for, ``bound`` how late they may be heard
        at most, in seconds.
        """

    def install(self, tables: Sequence[str] | None = None, readers: Sequence[str] = ()) -> Tracking:
        """Make every writer log what it changes, in these tables or all.

        ``readers`` are roles that may read the log besides who installs it, where there are roles.
        """

    def remove(self) -> Tracking:
        """Undo `install`."""

    def status(self) -> Tracking:
        """Return what is tracked, what is not and why."""

    def plan(self, tables: Sequence[str] | None = None, readers: Sequence[str] = ()) -> list[str]:
        """Return the SQL that `install` would run; empty when all is in place."""

    def announce(self, tables: Sequence[str] | None = None) -> list[str]:
        """Tell every process that these tables changed, or all; return those that are tracked."""

    def prune(self, keep_rows: int) -> int:
        """Delete all but the latest changes of the history; return how many."""

    def close(self) -> None:
        """Stop hearing; every later poll says False."""
