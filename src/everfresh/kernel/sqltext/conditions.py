"""Turn SQL conditions into tests on the rows of one occurrence of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from sqlglot import exp

from everfresh.kernel import affinity_postgres
from everfresh.kernel.predicate import (
    FALSE,
    NULL,
    TRUE,
    UNKNOWN,
    Always,
    And,
    Condition,
    Constant,
    IsTruth,
    Not,
    Or,
)
from everfresh.kernel.predicate_columns import (
    ColumnPair,
    Compared,
    IsNull,
    Listed,
    Operator,
    Truth,
)
from everfresh.kernel.predicate_like import Liked, PatternKind
from everfresh.kernel.predicate_values import Fixed, OperandIsNull, OperandTruth
from everfresh.kernel.schema import Column
from everfresh.kernel.sqltext.comparison import column_domain, compared_domain, swapped
from everfresh.kernel.sqltext.operands import Side, constant_side
from everfresh.kernel.sqltext.relations import Occurrence, Scope

__all__ = ["Translator"]

_UNKNOWN: Final = Always(UNKNOWN)

_OPERATORS: Final[dict[type[Any], Operator]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "IS",
    exp.NullSafeNEQ: "IS NOT",
}
_FLIPPED: Final[dict[Operator, Operator]] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_PLAIN_ARGUMENTS: Final[dict[type[Any], frozenset[str]]] = {
    exp.In: frozenset({"this", "expressions", "field"}),
    exp.Between: frozenset({"this", "low", "high"}),
}
_BINARY: Final = frozenset({"this", "expression"})


class Translator:
    """Translate conditions for one occurrence, as names mean in one scope.

    Columns of other tables, and whatever is not understood, are unknown.
    """

    def __init__(self, occurrence: Occurrence, scope: Scope) -> None:
        self._occurrence = occurrence
        self._scope = scope
        self._dialect = scope.dialect
        self._sqlite = scope.dialect == "sqlite"

    def condition(self, node: Any) -> Condition:
        """Return the test for a condition."""
        translate = self._translations.get(type(node))
        if translate is not None and not _extra(node):
            return translate(self, node)
        side = constant_side(node, self._dialect)
        if side is None or side.operand is None or self._shadowed(node):
            return _UNKNOWN
        return OperandTruth(side.operand)

    def _shadowed(self, node: Any) -> bool:
        # SQLite's TRUE and FALSE are columns where there are any of these names
        return isinstance(node, exp.Boolean) and any(
            item.has("true") or item.has("false") for item in self._scope.items
        )

    def _paren(self, node: Any) -> Condition:
        return self.condition(node.this)

    def _and(self, node: Any) -> Condition:
        return And((self.condition(node.this), self.condition(node.expression)))

    def _or(self, node: Any) -> Condition:
        return Or((self.condition(node.this), self.condition(node.expression)))

    def _not(self, node: Any) -> Condition:
        return Not(self.condition(node.this))

    def _column(self, node: Any) -> Condition:
        column = self._own(node)
        if column is None:
            return _UNKNOWN
        domain = column_domain(column, self._dialect)
        boolean = isinstance(domain, affinity_postgres.PostgresDomain) and domain.family == "bool"
        return Truth(column.name) if self._sqlite or boolean else _UNKNOWN

    # -- sides

    def _own(self, node: Any) -> Column | None:
        """Return the column if it is one of this occurrence."""
        if not isinstance(node, exp.Column):
            return None
        target = self._scope.resolve(node)
        return target[1] if target is not None and target[0] is self._occurrence else None

    def _side(self, node: Any) -> Side | None:
        if isinstance(node, exp.Paren):
            return self._side(node.this)
        if isinstance(node, exp.Collate):
            inner = self._side(node.this)
            if inner is None or inner.collation is not None:
                return None
            return Side(inner.column, inner.operand, inner.type, node.expression.name.upper())
        if isinstance(node, exp.Column):
            column = self._own(node)
            return None if column is None else Side(column, type=column.type)
        return None if self._shadowed(node) else constant_side(node, self._dialect)

    # -- comparisons

    def _compare(self, node: Any) -> Condition:
        operator = _OPERATORS[type(node)]
        left, right = node.this, node.expression
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            return self._tuples(operator, left, right)
        if isinstance(right, exp.Any) and operator == "=":
            return self._any(left, right)
        if self._sqlite and operator in ("IS", "IS NOT") and _boolean(right) is not None:
            # x IS NOT DISTINCT FROM TRUE asks SQLite for the truth of x, not whether it is 1
            truth = self._is_truth(left, _boolean(right))
            return truth if operator == "IS" else Not(truth)
        return self._compared(operator, self._side(left), self._side(right))

    def _tuples(self, operator: Operator, left: Any, right: Any) -> Condition:
        pairs = list(zip(left.expressions, right.expressions, strict=False))
        if operator not in ("=", "<>") or len(left.expressions) != len(right.expressions):
            return _UNKNOWN
        equal = And(tuple(self._compared("=", self._side(a), self._side(b)) for a, b in pairs))
        return equal if operator == "=" else Not(equal)

    def _any(self, left: Any, right: Any) -> Condition:
        side = self._side(left)
        operand = constant_side(right.this, self._dialect)
        return self._listed(side, [operand])

    def _compared(self, operator: Operator, left: Side | None, right: Side | None) -> Condition:
        if left is None or right is None:
            return _UNKNOWN
        if left.column is None and right.column is not None:
            left, right = swapped(left, right)
            operator = _FLIPPED.get(operator, operator)
        domain = compared_domain(self._dialect, left, right)
        if domain is None:
            return _UNKNOWN
        if left.column is None:
            assert left.operand is not None and right.operand is not None  # noqa: PT018, S101
            return Fixed(operator, domain, left.operand, right.operand)
        if right.column is not None:
            return ColumnPair(left.column.name, domain, operator, right.column.name)
        assert right.operand is not None  # noqa: S101
        anchored = domain == column_domain(left.column, self._dialect)
        return Compared(operator, left.column.name, domain, right.operand, anchored)

    def _in(self, node: Any) -> Condition:
        field = node.args.get("field")
        members = list(node.expressions) or ([] if field is None else [field])
        if isinstance(node.this, exp.Tuple):
            return Or(tuple(self._tuple_member(node.this, one) for one in members))
        side = self._side(node.this)
        operands = [constant_side(one, self._dialect) for one in members]
        if any(one is None for one in operands) and side is not None:
            return self._any_of(side, members)
        return self._listed(side, operands)

    def _tuple_member(self, left: Any, right: Any) -> Condition:
        return self._tuples("=", left, right) if isinstance(right, exp.Tuple) else _UNKNOWN

    def _any_of(self, side: Side, members: list[Any]) -> Condition:
        if self._sqlite:
            return _UNKNOWN  # columns in the list lose their affinity
        return Or(tuple(self._compared("=", side, self._side(one)) for one in members))

    def _listed(self, side: Side | None, operands: list[Side | None]) -> Condition:
        if side is None or side.column is None:
            return _UNKNOWN
        # what is in a list has no affinity, whatever it was cast to
        domain = compared_domain(self._dialect, side, Side(operand=Constant(None)))
        known = [one.operand for one in operands if one is not None and one.operand is not None]
        if domain is None or len(known) != len(operands):
            return _UNKNOWN
        anchored = domain == column_domain(side.column, self._dialect)
        return Listed(side.column.name, domain, tuple(known), anchored)

    def _between(self, node: Any) -> Condition:
        side = self._side(node.this)
        return And(
            (
                self._compared(">=", side, self._side(node.args["low"])),
                self._compared("<=", side, self._side(node.args["high"])),
            )
        )

    # -- IS

    def _is(self, node: Any) -> Condition:
        right = node.expression
        if isinstance(right, exp.Null):
            result = self._is_null(node.this)
        elif _boolean(right) is not None:
            result = self._is_truth(node.this, _boolean(right))
        elif self._sqlite:
            result = self._compared("IS", self._side(node.this), self._side(right))
        else:
            result = _UNKNOWN
        return Not(result) if node.args.get("negate") else result

    def _is_truth(self, node: Any, boolean: Any) -> Condition:
        if self._shadowed(boolean):
            return _UNKNOWN
        return IsTruth(self.condition(node), TRUE if boolean.this else FALSE)

    def _is_null(self, node: Any) -> Condition:
        while isinstance(node, exp.Paren):
            node = node.this
        column = self._own(node)
        if column is not None:
            domain = column_domain(column, self._dialect)
            # a composite of NULLs IS NULL, a JSON null may be read as None
            known = self._sqlite or domain is not None
            return IsNull(column.name, anchored=domain is not None) if known else _UNKNOWN
        side = constant_side(node, self._dialect)
        if side is not None and side.operand is not None:
            return OperandIsNull(side.operand)
        if isinstance(node, (exp.And, exp.Or, exp.Not, *_OPERATORS)):
            return IsTruth(self.condition(node), NULL)
        return _UNKNOWN

    # -- patterns

    def _escape(self, node: Any) -> Condition:
        escape = node.expression
        known = isinstance(node.this, exp.Like) and isinstance(escape, exp.Literal)
        if not known or not escape.is_string or len(escape.this) > 1:
            return _UNKNOWN
        if self._sqlite and not escape.this:
            return _UNKNOWN
        return self._pattern(node.this, escape.this or None)

    def _like(self, node: Any) -> Condition:
        return self._pattern(node, None if self._sqlite else "\\")

    def _pattern(self, node: Any, escape: str | None) -> Condition:
        column = self._own(node.this)
        side = constant_side(node.expression, self._dialect)
        if column is None or side is None or side.operand is None:
            return _UNKNOWN
        kind: PatternKind = "glob" if isinstance(node, exp.Glob) else "like"
        if self._sqlite:
            kind = "glob" if kind == "glob" else "like_ignore_case"
        else:
            domain = affinity_postgres.column_domain(column)
            if kind == "glob" or domain is None or domain.family != "text":
                return _UNKNOWN
        result = Liked(column.name, side.operand, kind, escape)
        return Not(result) if node.args.get("negate") else result

    _translations: ClassVar[dict[type[Any], Callable[[Translator, Any], Condition]]] = {
        exp.Paren: _paren,
        exp.And: _and,
        exp.Or: _or,
        exp.Not: _not,
        exp.Column: _column,
        exp.In: _in,
        exp.Between: _between,
        exp.Is: _is,
        exp.Escape: _escape,
        exp.Like: _like,
        exp.Glob: _like,
        **dict.fromkeys(_OPERATORS, _compare),
    }


def _boolean(node: Any) -> exp.Boolean | None:
    while isinstance(node, (exp.Paren, exp.Collate)):
        node = node.this
    return node if isinstance(node, exp.Boolean) else None


def _extra(node: Any) -> bool:
    """Whether a node says more than is understood here."""
    known = _PLAIN_ARGUMENTS.get(type(node), _BINARY)
    if isinstance(node, (exp.Is, exp.Like, exp.Glob)):
        known = known | {"negate"}
    if isinstance(node, exp.Column):
        return False
    return any(value for name, value in node.args.items() if name not in known)
