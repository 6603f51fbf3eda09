"""What of a SQLite table decides how its rows are logged: columns, keys, and what forbids it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from everfresh.connect.describe_sqlite import is_virtual
from everfresh.connect.description import Query

__all__ = ["OWN", "Shape", "Unique", "quoted", "read_shapes"]

OWN = "everfresh_"
_MOST_COLUMNS = 400  # an UPDATE takes two values of each; SQLite's limit is 2,000 a table
_VIRTUAL_COLUMN = 2
_ROWID_NAMES = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True, slots=True)
class Unique:
    """Hold columns no two rows share, with the collation that decides; in an index or as rowid.

    Of an index that is ``opaque`` (partial, of expressions or of generated columns) a trigger
    cannot find the row that REPLACE would push out.
    """

    columns: tuple[tuple[str, str], ...]
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """Hold one table of main: ``name`` as it is written, ``canonical`` as sources name it.

    ``columns`` are those whose values a trigger may read, with whether they hold numbers.
    ``defaulted`` are NOT NULL columns that REPLACE fills with their default. ``obstacle`` says
    why the table cannot be tracked.
    """

    name: str
    columns: tuple[tuple[str, bool], ...] = ()
    key: tuple[str, ...] = ()
    uniques: tuple[Unique, ...] = ()
    defaulted: frozenset[str] = frozenset()
    obstacle: str = ""
    whole: bool = False

    @property
    def canonical(self) -> str:
        """The name by which sources and changes call the table."""
        return f"main.{self.name.lower()}"


def quoted(name: str) -> str:
    """Return an identifier in double quotes.

    >>> quoted('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def read_shapes(query: Query) -> list[Shape]:
    """Read the tables of main, without those of SQLite and of everfresh itself."""
    found = [
        (str(name), str(sql or ""))
        for name, sql in query("SELECT name, sql FROM main.sqlite_master WHERE type = 'table'")
        if not str(name).lower().startswith(("sqlite_", OWN))
    ]
    virtual = [name.lower() for name, sql in found if is_virtual(sql)]
    columns, indexes = _columns(query), _indexes(query)
    lowered = [name.lower() for name, _ in found]
    shapes = []
    for name, _ in found:
        obstacle = _obstacle(name.lower(), virtual)
        if lowered.count(name.lower()) > 1:
            obstacle = "another table's name differs from its own only in the case of letters"
        if obstacle:
            shapes.append(Shape(name, obstacle=obstacle))
        else:
            shapes.append(_shape(name, columns[name], indexes.get(name, {})))
    return shapes


def _obstacle(name: str, virtual: Iterable[str]) -> str:
    for module in virtual:
        if name == module:
            return "it is a virtual table: SQLite allows no triggers on one"
        if name.startswith(f"{module}_"):
            return f"the virtual table {module} may keep its rows in it"
    return ""


def _shape(name: str, rows: list[Sequence[Any]], indexes: dict[str, list[Sequence[Any]]]) -> Shape:
    readable = [row for row in rows if row[5] != _VIRTUAL_COLUMN]
    generated = {str(row[0]) for row in rows if row[5]}
    uniques = [_unique(index, generated) for index in indexes.values()]
    rowid = _rowid(rows, indexes)
    if rowid is not None:
        uniques.append(Unique(((rowid, "BINARY"),)))
    return Shape(
        name,
        columns=tuple((str(row[0]), _numeric(str(row[1]))) for row in readable),
        key=tuple(str(row[0]) for row in sorted(rows, key=lambda row: int(row[4])) if row[4]),
        uniques=tuple(sorted(uniques, key=lambda unique: unique.columns)),
        defaulted=frozenset(str(row[0]) for row in rows if row[2] and row[3] is not None),
        whole=len(readable) > _MOST_COLUMNS,
    )


def _unique(rows: list[Sequence[Any]], generated: set[str]) -> Unique:
    """Return the key of an index from rows of (origin, partial, cid, column, collation, key)."""
    keys = [row for row in rows if row[5]]
    opaque = any(row[1] or int(row[2]) < 0 or str(row[3]) in generated for row in keys)
    return Unique(() if opaque else tuple((str(row[3]), str(row[4])) for row in keys), opaque)


def _rowid(rows: list[Sequence[Any]], indexes: dict[str, list[Sequence[Any]]]) -> str | None:
    """Return a name of the rowid, None where there is none or nobody can name it."""
    primary = [index for index in indexes.values() if index[0][0] == "pk"]
    if primary and all(int(row[2]) != -1 for row in primary[0]):
        return None  # WITHOUT ROWID
    names = {str(row[0]).lower() for row in rows}
    free = [name for name in _ROWID_NAMES if name not in names]
    if free:
        return free[0]
    key = [str(row[0]) for row in rows if row[4]]
    return key[0] if len(key) == 1 and not primary else None


def _numeric(declared: str) -> bool:
    """Whether a column of this type seldom holds text or blobs; it may, all the same."""
    return any(word in declared.upper() for word in ("INT", "REAL", "FLOA", "DOUB", "NUM", "DATE"))


def _columns(query: Query) -> dict[str, list[Sequence[Any]]]:
    """Return rows of (name, type, notnull, default, place in the key, hidden) by table."""
    gathered: dict[str, list[Sequence[Any]]] = defaultdict(list)
    for table, *row in query(
        'SELECT m.name, x.name, x.type, x."notnull", x.dflt_value, x.pk, x.hidden'
        " FROM main.sqlite_master m, pragma_table_xinfo(m.name, 'main') x"
        " WHERE m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY m.name, x.cid"
    ):
        gathered[str(table)].append(row)
    return gathered


def _indexes(query: Query) -> dict[str, dict[str, list[Sequence[Any]]]]:
    """Return rows of (origin, partial, cid, column, collation, key) by table and unique index."""
    gathered: dict[str, dict[str, list[Sequence[Any]]]] = defaultdict(lambda: defaultdict(list))
    for table, index, *row in query(
        "SELECT m.name, l.name, l.origin, l.partial, x.cid, x.name, x.coll, x.key"
        " FROM main.sqlite_master m, pragma_index_list(m.name, 'main') l,"
        " pragma_index_xinfo(l.name, 'main') x"
        " WHERE m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL%' AND l.\"unique\""
        " ORDER BY l.name, x.seqno"
    ):
        gathered[str(table)][str(index)].append(row)
    return gathered
