"""What a statement may contain if its answer is to be kept: everything else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlglot import exp

from everfresh.kernel.plan import reads_clock
from everfresh.kernel.schema import Schema
from everfresh.kernel.sqltext.functions import (
    CLOCK_FUNCTIONS,
    VOLATILE,
    known_functions,
)
from everfresh.kernel.sqltext.grammar import Misunderstood, function_name

__all__ = ["check", "clock_parameters"]


def _classes(names: str) -> tuple[type[Any], ...]:
    found = (getattr(exp, name, None) for name in names.split())
    return tuple(one for one in found if one is not None)


# Exact classes: a subclass is not allowed because its parent is.
_ALLOWED: Final = frozenset(
    _classes(
        # the shape of a query
        "Select Union Except Intersect Subquery With CTE From Join Lateral Where Group Having Order"
        " Ordered Limit Offset Fetch LimitOptions Distinct Values Tuple Table TableAlias Alias"
        " Column Identifier Star Window WindowSpec Filter WithinGroup Rollup Cube GroupingSets"
        " Unnest ColumnDef"
        # values
        " Literal Boolean Null Placeholder Parameter HexString BitString ByteString UnicodeString"
        " RawString National DataType DataTypeParam Interval IntervalSpan Var Array Bracket Slice"
        " Dot"
        # operators
        " Add Sub Mul Div IntDiv Mod Neg Pow Paren And Or Not Xor BitwiseAnd BitwiseOr BitwiseXor"
        " BitwiseNot BitwiseLeftShift BitwiseRightShift DPipe Concat EQ NEQ LT LTE GT GTE"
        " NullSafeEQ NullSafeNEQ Is In Between Like ILike Glob SimilarTo RegexpLike RegexpILike"
        " Escape Exists Any All Case If Cast Collate AtTimeZone ArrayContainsAll ArrayContainedBy"
        " ArrayOverlaps Sqrt Cbrt Abs"
        # functions with a grammar of their own
        " Anonymous Extract Trim Substring StrPosition Overlay Ceil Floor Chr GroupConcat Initcap"
        " Normalize"
        # JSON
        " JSONExtract JSONExtractScalar JSONBExtract JSONBExtractScalar JSONBContains"
        " JSONBContainsAnyTopKeys JSONBContainsAllTopKeys JSONPath JSONPathRoot JSONPathKey"
        " JSONPathSubscript JSONArrayAgg JSONObject JSONKeyValue JSONObjectAgg"
    )
)
_REASONS: Final[dict[type[Any], str]] = {
    exp.Lock: "it locks rows (FOR UPDATE or FOR SHARE)",
    exp.Into: "SELECT INTO writes a table",
    exp.TableSample: "TABLESAMPLE takes other rows each time",
    exp.Insert: "it writes",
    exp.Update: "it writes",
    exp.Delete: "it writes",
    exp.Merge: "it writes",
    exp.CurrentTimestamp: "CURRENT_TIMESTAMP gives another answer each time",
    exp.CurrentDate: "CURRENT_DATE gives another answer each day",
    exp.CurrentTime: "CURRENT_TIME gives another answer each time",
    exp.CurrentUser: "CURRENT_USER depends on who asks",
    exp.SessionUser: "SESSION_USER depends on who asks",
    exp.Match: "MATCH runs a function that is not known",
}


def check(tree: Any, schema: Schema) -> None:
    """Raise `Misunderstood` if the statement holds anything that could make its answer vary."""
    for node in tree.walk():
        if type(node) not in _ALLOWED:
            shown = type(node).__name__
            raise Misunderstood(_REASONS.get(type(node), f"{shown} is not understood"))
        _check_node(node, schema)


def _check_node(node: Any, schema: Schema) -> None:
    if isinstance(node, exp.Anonymous):
        _check_function(node, schema)
    elif isinstance(node, exp.RegexpLike) and schema.dialect == "sqlite":
        _check_user_function("regexp", schema)
    elif isinstance(node, exp.In):
        field = node.args.get("field")
        if field is not None and not isinstance(field, (exp.Placeholder, exp.Paren)):
            raise Misunderstood("IN with the name of a table is not understood")
    elif schema.dialect == "postgresql" and isinstance(node, exp.Literal) and _says_now(node):
        # a bare literal becomes a time when it is compared with one
        raise Misunderstood(f"{node.this!r} may stand for the current time")


def _check_function(node: exp.Anonymous, schema: Schema) -> None:
    name = function_name(node, schema.dialect)
    if name in VOLATILE:
        raise Misunderstood(f"{name}() {VOLATILE[name]}")
    if name not in known_functions(schema.dialect):
        _check_user_function(name, schema)
        return
    if schema.volatile_function(name):
        raise Misunderstood(f"the function {name}() may give another answer each time")
    needed = CLOCK_FUNCTIONS.get(name) if schema.dialect == "sqlite" else None
    if needed is None:
        return
    if len(node.expressions) < needed or any(
        _says_now(part) for argument in node.expressions for part in argument.walk()
    ):
        raise Misunderstood(f"{name}() without a fixed time gives another answer each time")


def _check_user_function(name: str, schema: Schema) -> None:
    volatile = schema.volatile_function(name)
    if volatile is None:
        raise Misunderstood(f"the function {name}() is not known")
    if volatile:
        raise Misunderstood(f"the function {name}() may give another answer each time")


def _says_now(node: Any) -> bool:
    if isinstance(node, exp.Literal):
        return bool(node.is_string) and reads_clock(node.this)
    # SQLite takes a quoted name that is no column for a text
    return (
        isinstance(node, exp.Identifier)
        and bool(node.args.get("quoted"))
        and reads_clock(node.this)
    )


def clock_parameters(tree: Any, dialect: str) -> Iterator[str]:
    """Yield the names of the parameters that could reach a clock as ``'now'``.

    On PostgreSQL any parameter may be compared with a time; on SQLite only date functions look.
    """
    if dialect == "postgresql":
        yield from _placeholders(tree)
        return
    for node in tree.find_all(exp.Anonymous):
        if function_name(node, dialect) in CLOCK_FUNCTIONS:
            yield from _placeholders(node)


def _placeholders(tree: Any) -> Iterator[str]:
    for node in tree.find_all(exp.Placeholder):
        if isinstance(node.this, str):
            yield node.this
