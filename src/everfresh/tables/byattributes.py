"""An order of records by their attributes, and pieces of it as scores and as SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

from everfresh.errors import ConfigurationError, TableError
from everfresh.tables.intervals import Interval
from everfresh.tables.ordering import ABOVE_NULL, BELOW_NULL, BOTTOM, TOP, After, place
from everfresh.tables.types import Score

__all__ = ["ByAttributes", "Piece"]


class ByAttributes:
    """Order records by attributes, the first first; a minus sign before a name means falling.

    An attribute is a path: ``"city"`` is ``record["city"]`` or ``record.city``, ``"plane.seats"``
    an attribute of one, ``"0"`` the first value of a tuple. ``columns`` name the columns of the
    query where they are not called as the attributes are.

    >>> by = ByAttributes("city", "-price")
    >>> by.score({"city": "JFK", "price": 3})
    ('JFK', -3)
    """

    def __init__(self, *attributes: str, columns: Sequence[str] | None = None) -> None:
        if not attributes or not all(isinstance(one, str) and one.strip("-") for one in attributes):
            raise ConfigurationError(f"ByAttributes takes names of attributes, not {attributes!r}")
        self.paths = tuple(one.removeprefix("-") for one in attributes)
        self.falling = tuple(one.startswith("-") for one in attributes)
        self.columns = self.paths if columns is None else tuple(columns)
        if len(self.columns) != len(self.paths):
            raise ConfigurationError("give as many columns as attributes")
        self._getters: list[Callable[[Any], Any]] | None = None

    def values(self, record: Any) -> tuple[Any, ...]:
        """Return the attributes of a record."""
        getters = self._getters
        if getters is None:  # records are all of the kind of the first
            getters = self._getters = [_getter(path, record) for path in self.paths]
        try:
            return tuple([get(record) for get in getters])
        except (KeyError, AttributeError, IndexError, TypeError) as error:
            raise TableError(f"the record {record!r} has no {', '.join(self.paths)}") from error

    def score(self, record: Any) -> Score:
        """Return where the record stands; of one attribute it is the place of its value."""
        values = self.values(record)
        if len(values) == 1:
            return place(values[0], falling=self.falling[0])
        return tuple(map(_place, values, self.falling))

    def piece(self, values: Sequence[Any], ge: Any, lt: Any) -> Piece:
        """Return the part with these first values, and the next attribute between two bounds."""
        number = len(values)
        bounded = ge is not None or lt is not None
        if number + bounded > len(self.paths):
            raise TableError(f"this index has {len(self.paths)} attributes: that is too much")
        if not bounded:
            return Piece(self, tuple(values), None)
        if not self.falling[number]:
            low = ABOVE_NULL if ge is None else place(ge)
            high = TOP if lt is None else place(lt)
        else:
            low = BOTTOM if lt is None else After(place(lt, falling=True))
            high = BELOW_NULL if ge is None else After(place(ge, falling=True))
        try:
            return Piece(self, tuple(values), Interval(low, high))
        except TypeError as error:
            raise TableError(f"{ge!r} and {lt!r} cannot be compared") from error
        except ValueError:
            raise TableError(f"the bounds are not in order: {ge!r} is above {lt!r}") from None


def _place(value: Any, falling: bool) -> Score:
    return place(value, falling=falling)


@dataclass(frozen=True, slots=True)
class Piece:
    """Hold a part of an order: equal first values, and an interval of the places of the next."""

    by: ByAttributes
    values: tuple[Any, ...]
    next: Interval | None

    @property
    def interval(self) -> Interval:
        """The scores of the records in it."""
        by, low = self.by, BOTTOM if self.next is None else self.next.ge
        high = TOP if self.next is None else self.next.lt
        places = tuple(map(_place, self.values, by.falling))
        if len(by.paths) == 1:
            return Interval(places[0], After(places[0])) if places else Interval(low, high)
        if len(places) == len(by.paths):
            return Interval(places, (*places, TOP))
        return Interval(_bound(places, low), _bound(places, high))


def _bound(places: tuple[Score, ...], bound: Score) -> tuple[Score, ...]:
    return (*places, bound.value, TOP) if isinstance(bound, After) else (*places, bound)


def _getter(path: str, record: Any) -> Callable[[Any], Any]:
    """Return what gets the attribute at a path from records like this one."""
    steps: list[Callable[[Any], Any]] = []
    for name in path.split("."):
        if isinstance(record, Mapping) or hasattr(record, "keys"):
            step: Callable[[Any], Any] = itemgetter(name)
        elif name.isdigit():
            step = itemgetter(int(name))
        else:
            step = attrgetter(name)
        steps.append(step)
        try:
            record = step(record)
        except (KeyError, AttributeError, IndexError, TypeError) as error:
            raise TableError(f"the record {record!r} has no {name!r}") from error
    if len(steps) == 1:
        return steps[0]

    def get(record: Any) -> Any:
        for step in steps:
            record = step(record)
        return record

    return get
