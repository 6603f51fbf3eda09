"""The statements behind a model's cache: one for each form of question, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Integer, Select, and_, bindparam, func, or_, select, tuple_
from sqlalchemy.orm import Mapper, QueryableAttribute

from everfresh.orm.instances import Layout

__all__ = ["Order", "attribute_of", "counting", "in_order", "listing", "one_by"]

Order = Any
"""``"asc"`` or ``"desc"`` (of the primary key), names of attributes, ``"-name"`` for descending."""


def attribute_of(mapper: Mapper[Any], name: str) -> Any:
    """Return a column attribute by name; raises TypeError, as the document's filter does."""
    if name not in mapper.column_attrs:
        raise TypeError(f"{mapper.class_.__name__} does not have an attribute {name!r}")
    return mapper.column_attrs[name]


def in_order(mapper: Mapper[Any], order: Order) -> list[tuple[Any, bool]]:
    """Return [(attribute's column, descending)]; the primary key comes last, so it is total."""
    pk = list(mapper.primary_key)
    if order is None or (isinstance(order, str) and order in ("asc", "desc")):
        return [(column, order == "desc") for column in pk]
    parts: Sequence[Any] = [order] if isinstance(order, (str, QueryableAttribute)) else list(order)
    found: list[tuple[Any, bool]] = []
    for part in parts:
        name = part.key if isinstance(part, QueryableAttribute) else part
        if not isinstance(name, str):
            raise TypeError(f"order_by takes 'asc', 'desc' or names of attributes, not {part!r}")
        column = attribute_of(mapper, name.removeprefix("-")).columns[0]
        found.append((column, name.startswith("-")))
    known = {column for column, _ in found}
    last = found[-1][1] if found else False
    return found + [(column, last) for column in pk if column not in known]


def _matching(mapper: Mapper[Any], names: Mapping[str, bool]) -> list[Any]:
    """Return conditions; the value of each name says whether it is compared with NULL."""
    conditions = []
    for name, is_null in names.items():
        column = attribute_of(mapper, name).columns[0]
        equal = column.is_(None) if is_null else column == bindparam(f"a_{name}", type_=column.type)
        conditions.append(equal)
    return conditions


def listing(
    layout: Layout,
    what: Sequence[Any],
    names: Mapping[str, bool],
    order: Sequence[tuple[Any, bool]],
    *,
    offset: bool = False,
    limit: bool = False,
    after: bool = False,
) -> Select[Any]:
    """Return the statement of a list: the rows that match, in order, a part of them."""
    statement = select(*what).where(*_matching(layout.mapper, names))
    if after:
        statement = statement.where(_beyond(order))
    statement = statement.order_by(*(c.desc() if down else c.asc() for c, down in order))
    if offset:
        statement = statement.offset(bindparam("n_offset", type_=Integer()))
    if limit:
        statement = statement.limit(bindparam("n_limit", type_=Integer()))
    return statement


def _beyond(order: Sequence[tuple[Any, bool]]) -> Any:
    """Return what holds for the rows after a place, written out for mixed directions."""
    choices = []
    for n, (column, down) in enumerate(order):
        value = bindparam(f"k_{n}", type_=column.type)
        equals = [c == bindparam(f"k_{m}", type_=c.type) for m, (c, _) in enumerate(order[:n])]
        choices.append(and_(*equals, column < value if down else column > value))
    return or_(*choices)


def counting(mapper: Mapper[Any], names: Mapping[str, bool]) -> Select[Any]:
    """Return the statement that counts the rows that match."""
    return select(func.count()).select_from(mapper.local_table).where(*_matching(mapper, names))


def one_by(
    layout: Layout, what: Sequence[Any], columns: Sequence[Any], *, many: bool
) -> Select[Any]:
    """Return the statement for one row by these columns, or for several."""
    if many:
        whole = columns[0] if len(columns) == 1 else tuple_(*columns)
        return select(*what).where(whole.in_(bindparam("p_0", expanding=True)))
    values = (bindparam(f"p_{n}", type_=column.type) for n, column in enumerate(columns))
    return select(*what).where(*(c == v for c, v in zip(columns, values, strict=True)))
