"""The triggers that log a table's rows to the change table, as SQL."""

from __future__ import annotations

from collections.abc import Sequence

from everfresh.changes.sqlite_shape import OWN, Shape, Unique, quoted

__all__ = ["CHANGES", "DELETE", "INSERT", "LONG", "UNKNOWN", "UPDATE", "WHOLE", "triggers"]

CHANGES = "everfresh_change"
LONG = 1000
"""Characters of text, or bytes of a blob, above which a value is not copied."""
UNKNOWN = b"\x00everfresh: too long"
"""Stands in an image for what was not copied. A value that is the same counts as unknown too."""
INSERT, UPDATE, DELETE, WHOLE = 1, 2, 3, 4

_EVENTS = (
    ("ai", "AFTER INSERT", INSERT, ("NEW",)),
    ("au", "AFTER UPDATE", UPDATE, ("OLD", "NEW")),
    ("ad", "AFTER DELETE", DELETE, ("OLD",)),
)


def triggers(shape: Shape, columns: Sequence[str], number: int) -> dict[str, str]:
    """Return the triggers of a table by name; ``columns`` are those whose values are logged.

    >>> sorted(triggers(Shape("t", columns=(("a", True),)), ["a"], 7))
    ['everfresh_7_ad', 'everfresh_7_ai', 'everfresh_7_au']
    """
    made = {}
    kinds = dict(shape.columns)
    for suffix, event, operation, images in _EVENTS:
        values = [_value(f"{image}.{quoted(c)}", kinds[c]) for image in images for c in columns]
        body = _insert(number, operation, values) if not shape.whole else _whole(number)
        made[f"{OWN}{number}_{suffix}"] = _trigger(shape, number, suffix, event, "", body)
    for suffix, event, changed in (("bi", "BEFORE INSERT", ""), ("bu", "BEFORE UPDATE", "WHEN ")):
        body = "".join(_pushed_out(shape, columns, number))
        condition = changed and changed + (_rekeyed(shape.uniques) or "0") + " "
        if body:
            made[f"{OWN}{number}_{suffix}"] = _trigger(
                shape, number, suffix, event, condition, body
            )
    return made


def _trigger(shape: Shape, number: int, suffix: str, event: str, when: str, body: str) -> str:
    # SQLite keeps this text without the name of the database
    return (
        f'CREATE TRIGGER main."{OWN}{number}_{suffix}" {event} ON {quoted(shape.name)}'
        f" FOR EACH ROW {when}BEGIN {body}END"
    )


def _insert(number: int, operation: int, values: Sequence[str]) -> str:
    names = "".join(f", a{place}" for place in range(len(values)))
    shown = "".join(f", {value}" for value in values)
    return f"INSERT INTO {CHANGES} (tab, op{names}) VALUES ({number}, {operation}{shown}); "


def _whole(number: int) -> str:
    return _insert(number, WHOLE, ())


def _value(column: str, numeric: bool) -> str:
    """Return an expression for a value of any type, without what is too long.

    A comparison is cheaper than a function. It names its collation: the column's own may not be
    known to the writer's connection.
    """
    long = f"length({column}) > {LONG}"
    if numeric:
        long = f"{column} >= '' COLLATE BINARY AND {long}"
    return f"CASE WHEN {long} THEN x'{UNKNOWN.hex()}' ELSE {column} END"


def _pushed_out(shape: Shape, columns: Sequence[str], number: int) -> list[str]:
    """Return statements that log the rows REPLACE would delete to make room for NEW.

    SQLite fires no delete trigger for them unless the writer turned recursive_triggers on.
    """
    if shape.whole:
        return []  # the other triggers say as much
    kinds = dict(shape.columns)
    names = "".join(f", a{place}" for place in range(len(columns)))
    shown = "".join(f", {_value(f't.{quoted(c)}', kinds[c])}" for c in columns)
    statements = []
    for unique in shape.uniques:
        if unique.opaque:
            return [_whole(number)]
        same = " AND ".join(
            f"t.{quoted(c)} = NEW.{quoted(c)}{_collate(name)}" for c, name in unique.columns
        )
        statements.append(
            f"INSERT INTO {CHANGES} (tab, op{names}) SELECT {number}, {DELETE}{shown}"
            f" FROM {quoted(shape.name)} AS t WHERE {same}; "
        )
        filled = [c for c, _ in unique.columns if c in shape.defaulted]
        if filled:  # REPLACE puts the default where NULL is not allowed
            null = " OR ".join(f"NEW.{quoted(c)} IS NULL" for c in filled)
            statements.append(
                f"INSERT INTO {CHANGES} (tab, op) SELECT {number}, {WHOLE} WHERE {null}; "
            )
    return statements


def _rekeyed(uniques: Sequence[Unique]) -> str:
    """Return a condition that an UPDATE gives the row another place in any unique index."""
    if any(unique.opaque for unique in uniques):
        return "1"
    columns = sorted({pair for unique in uniques for pair in unique.columns})
    return " OR ".join(
        f"NEW.{quoted(c)} IS NOT OLD.{quoted(c)}{_collate(name)}" for c, name in columns
    )


def _collate(name: str) -> str:
    return f" COLLATE {quoted(name)}"
