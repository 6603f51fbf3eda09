"""What happened to the data: one changed row, one changed table, or everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Change"]


@dataclass(frozen=True, slots=True)
class Change:
    """Tell what one commit did to one row, to a table, or to the whole database.

    ``table`` is a canonical name as `kernel.schema.Table.name` gives it (``"main.flights"``), or
    None when anything in the database may have changed. ``old`` and ``new`` are the images of the
    row before and after, by column name: an INSERT has no ``old``, a DELETE no ``new``, and a
    change with neither speaks of the whole table. A column absent from an image is unknown, which
    is not NULL. ``history`` and ``sequence`` say where the change stands in the database's own
    numbering, if it has one (see `kernel.mark`).

    >>> Change("main.flights", new={"month": 6}).whole_table
    False
    >>> Change("main.flights").whole_table
    True
    """

    table: str | None
    old: Mapping[str, object] | None = None
    new: Mapping[str, object] | None = None
    key: tuple[object, ...] | None = None  # primary key of the row, for `why`
    position: int = 0  # where in its feed; set by the feed
    history: str = ""
    sequence: int = 0

    @property
    def whole_table(self) -> bool:
        """Whether the change names no row."""
        return self.old is None and self.new is None
