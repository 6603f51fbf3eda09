"""Conditions that no row changes: they depend on literals and parameters alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from everfresh.kernel.affinity import ANY, Domain
from everfresh.kernel.predicate import (
    FALSE,
    TRUE,
    UNKNOWN,
    Always,
    Condition,
    Operand,
    Row,
    Values,
)
from everfresh.kernel.predicate_columns import Operator, compared_truth, truth_of

__all__ = ["Fixed", "OperandIsNull", "OperandTruth"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Compare two values that no row changes: ``:all = 1``."""

    operator: Operator
    domain: Domain
    left: Operand
    right: Operand

    def bind(self, parameters: Row) -> Condition:
        """Return the outcome."""
        left, right = self.left.value(parameters), self.right.value(parameters)
        if ANY in (left, right):
            return Always(UNKNOWN)
        sides = self.domain.operand(left), self.domain.operand(right)
        return Always(compared_truth(self.operator, self.domain, *sides))

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: no column decides."""
        return {}


@dataclass(frozen=True, slots=True)
class OperandIsNull:
    """Hold if a parameter is NULL: ``:month IS NULL OR month = :month``."""

    operand: Operand

    def bind(self, parameters: Row) -> Condition:
        """Return the outcome."""
        value = self.operand.value(parameters)
        if value is ANY or (isinstance(value, float) and math.isnan(value)):
            return Always(UNKNOWN)
        return Always(TRUE if value is None else FALSE)

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: no column decides."""
        return {}


@dataclass(frozen=True, slots=True)
class OperandTruth:
    """Hold if a literal or parameter itself does: ``WHERE TRUE``, ``WHERE :all``."""

    operand: Operand

    def bind(self, parameters: Row) -> Condition:
        """Return the outcome."""
        value = self.operand.value(parameters)
        return Always(UNKNOWN if value is ANY else truth_of(value))

    def test(self, row: Row) -> int:
        """Return unknown: only the bound condition is tested."""
        return UNKNOWN

    def anchors(self) -> dict[str, Values]:
        """Return nothing: no column decides."""
        return {}
