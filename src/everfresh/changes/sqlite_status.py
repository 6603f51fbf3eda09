"""What tracking of ours a SQLite file holds, and whether it fits the schema as it is now."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from everfresh.changes.sqlite_shape import OWN, Shape, read_shapes
from everfresh.changes.sqlite_triggers import CHANGES, triggers
from everfresh.changes.watching import Tracking
from everfresh.connect.description import Query

__all__ = [
    "FORMAT",
    "HIGHEST",
    "KEEP",
    "KEEPER",
    "META",
    "Installed",
    "Mapped",
    "as_tracking",
    "examine",
]

META = "everfresh_tracking"
FORMAT = "1"
HIGHEST = f"SELECT coalesce((SELECT max(seq) FROM main.{CHANGES}), 0)"
KEEP = f"{OWN}0_keep"
KEEPER = (
    f'CREATE TRIGGER main."{KEEP}" BEFORE DELETE ON {CHANGES}'
    f" WHEN OLD.seq = (SELECT max(seq) FROM {CHANGES}) BEGIN SELECT RAISE(IGNORE); END"
)
"""The newest row stays, so that no sequence is given out twice.

AUTOINCREMENT would see to that too, for half as much again as a single-row commit costs.
"""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Hold which columns the values of a table's change rows belong to.

    ``expected`` are the triggers it must have as the schema is now, None if they cannot be made.
    """

    number: int
    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    shape: Shape | None
    expected: Mapping[str, str] = field(default_factory=dict)

    @property
    def canonical(self) -> str:
        """The name by which sources and changes call the table."""
        return f"main.{self.table.lower()}"

    @property
    def whole(self) -> bool:
        """Whether an UPDATE that leaves the image as it was has changed nothing."""
        return self.shape is not None and self.columns == tuple(
            name for name, _ in self.shape.columns
        )


@dataclass(frozen=True)
class Installed:
    """Hold what was found: the newest mapping of each table in ``tables``, all in ``mapped``."""

    shapes: Sequence[Shape]
    history: str | None
    sound: bool
    width: int
    last_number: int
    mapped: Mapping[int, Mapped]
    triggers: Mapping[str, str]

    @cached_property
    def tables(self) -> dict[str, Mapped]:
        """The newest mapping of each table, by canonical name."""
        return {each.canonical: each for _, each in sorted(self.mapped.items())}

    def healthy(self) -> dict[str, Mapped]:
        """Return the tables whose every write is logged."""
        if not self.sound:
            return {}
        return {name: each for name, each in self.tables.items() if self._fits(each)}

    def reasons(self) -> dict[str, str]:
        """Return why each other table is not tracked."""
        healthy = self.healthy()
        return {
            shape.canonical: shape.obstacle or self._reason(shape.canonical)
            for shape in self.shapes
            if shape.canonical not in healthy
        }

    def _reason(self, name: str) -> str:
        if name in self.tables:
            return "its triggers are missing or out of date: install tracking again"
        return "it is not among the tables chosen, or is newer than the tracking"

    def _fits(self, each: Mapped) -> bool:
        return bool(each.expected) and all(
            self.triggers.get(name) == _bare(text) for name, text in each.expected.items()
        )


def examine(query: Query) -> Installed:
    """Read what is installed in main, and compare it with the schema."""
    shapes = read_shapes(query)
    own = {
        str(name): (str(kind), _bare(str(sql)))
        for kind, name, sql in query(
            "SELECT type, name, sql FROM main.sqlite_master"
            f" WHERE type IN ('table', 'trigger') AND substr(name, 1, {len(OWN)}) = '{OWN}'"
        )
    }
    found = {name: sql for name, (kind, sql) in own.items() if kind == "trigger"}
    meta = _meta(query) if META in own else {}
    width = _width(query) if CHANGES in own else -1
    history = meta.get("history")
    by_name = {shape.name: shape for shape in shapes if not shape.obstacle}
    numbered = [(int(k[len(OWN) :]), v) for k, v in meta.items() if k.startswith(OWN)]
    return Installed(
        shapes=shapes,
        history=history,
        sound=width >= 0
        and history is not None
        and meta.get("format") == FORMAT
        and found.get(KEEP) == _bare(KEEPER),
        width=max(width, 0),
        last_number=max((number for number, _ in numbered), default=0),
        mapped={number: _mapped(number, json.loads(text), by_name) for number, text in numbered},
        triggers=found,
    )


def as_tracking(query: Query, found: Installed) -> Tracking:
    """Return a report of what was found."""
    reasons = found.reasons()
    oldest = newest = 0
    if found.sound:
        (newest,) = query(HIGHEST)[0]
        oldest = query(f"SELECT min(seq) FROM main.{CHANGES}")[0][0] or 0
    return Tracking(
        history=found.history if found.sound else None,
        tracked=tuple(sorted(found.healthy())),
        untracked=reasons,
        outdated=tuple(sorted(name for name in reasons if name in found.tables)),
        rows=newest - oldest + 1 if oldest else 0,
        oldest=oldest,
        newest=newest,
        schema_version=int(query("PRAGMA main.schema_version")[0][0]),
    )


def _bare(text: str) -> str:
    """Return a CREATE statement as SQLite keeps it: without the name of the database."""
    return text.replace("CREATE TRIGGER main.", "CREATE TRIGGER ", 1)


def _meta(query: Query) -> dict[str, str]:
    try:
        return {str(item): str(value) for item, value in query(f"SELECT * FROM main.{META}")}
    except (sqlite3.Error, ValueError):
        return {}  # a table of that name, and not ours


def _width(query: Query) -> int:
    """Return how many values a change row has room for, -1 if the table is not ours."""
    names = [str(row[1]) for row in query(f"PRAGMA main.table_info({CHANGES})")]
    if names[:4] != ["seq", "tab", "op", "at"]:
        return -1
    return len(names) - 4


def _mapped(number: int, value: dict[str, Any], shapes: Mapping[str, Shape]) -> Mapped:
    columns = tuple(value["columns"])
    shape = shapes.get(value["table"])
    expected: Mapping[str, str] = {}
    if shape is not None and {name for name, _ in shape.columns} >= set(columns):
        expected = triggers(shape, columns, number)
    return Mapped(number, value["table"], columns, tuple(value["key"]), shape, expected)
