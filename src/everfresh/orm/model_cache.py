"""The document's cache of one model, and the mixin that gives it to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from sqlalchemy import inspect
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import get_history

from everfresh.engine.attaching import cache_of
from everfresh.engine.cache import Cache
from everfresh.engine.reading import Reading
from everfresh.errors import ConfigurationError
from everfresh.orm.entities import UNKNOWN, Entities, Form
from everfresh.orm.lists import Order, attribute_of, counting, in_order, listing, one_by
from everfresh.orm.options import FromCache
from everfresh.orm.pages import Page, place_from, place_of
from everfresh.orm.regions import reading_in, region_of, tag_of

__all__ = ["CacheableMixin", "ModelCache"]

_FORMS = 1000  # forms of questions that one model remembers


class ModelCache:
    """Read the objects of one model from a cache, as objects of the session.

    ``regions`` maps labels to regions, ``label`` is the one used; without regions it is the cache
    of the session's engine. `CacheableMixin` makes it as ``Model.cache``. The session is that of
    ``Model.query`` (Flask-SQLAlchemy, or a scoped_session's query_property), or the one given to
    `using`.
    """

    def __init__(self, model: type, regions: Mapping[str, Any] | None, label: str) -> None:
        self.model = model
        self.regions = regions
        self.label = label
        mapper: Any = inspect(model)
        if not isinstance(mapper, Mapper):
            raise ConfigurationError(f"{model!r} is not a mapped class")
        self.pk: str = (
            getattr(model, "cache_pk", None)
            or mapper.get_property_by_column(mapper.primary_key[0]).key
        )
        self._mapper = mapper
        self._entities = Entities(
            mapper,
            self._reading,
            lambda: region_of(self.regions, self.label),
            lambda key: self._cache_key(_shown(key)),
        )
        self._forms: dict[Any, Any] = {}
        self._session: Session | None = None
        self._pk_columns = len(mapper.primary_key)
        self._single = self._pk_columns == 1

    def using(self, session: Session) -> ModelCache:
        """Return this cache for a session of your own (of an AsyncSession: in ``run_sync``)."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._session = getattr(session, "sync_session", session)
        return made

    # -- one object

    def get(self, pk: Any) -> Any:
        """Return the object with this primary key, None if there is none.

        Equivalent to the Model.query.get(pk) but using cache. A composite key is a tuple in the
        order of the columns, or a dict by attribute.
        """
        session = self._session or self._found_session()
        if type(pk) in (int, str) and self._single:
            key: tuple[Any, ...] = (pk,)
        else:
            key = self._key_of(pk)
        found = self._entities.layout.find(session, key)
        if found is None:
            found = self._entities.one(session, key)
        if found is not UNKNOWN:
            return found
        values = {f"p_{n}": value for n, value in enumerate(key)}
        form = self._get_form()
        rows = self._entities.objects(session, form, values, self._cache_key(_shown(key)))
        return rows[0] if rows else None

    def get_many(self, pks: Any) -> list[Any]:
        """Return the objects with these primary keys, in their order, None where there is none.

        What is not kept is asked for in one statement.
        """
        session = self._session or self._found_session()
        keys = [self._key_of(pk) for pk in pks]
        if not keys:
            return []
        return self._entities.many(session, self._get_form(), self._many_form(), keys)

    def get_by(self, **values: Any) -> Any:
        """Return the object with these values of unique columns, None if there is none."""
        if not values:
            raise TypeError("get_by takes at least one attribute, such as email=…")
        found = self.all(limit=2, **values)
        if len(found) > 1:
            raise TypeError(f"several rows match {', '.join(values)}: use filter")
        return found[0] if found else None

    # -- lists

    def filter(
        self,
        order_by: Order = "asc",
        offset: int | None = None,
        limit: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield the objects whose attributes have these values, all without any.

        ``order_by``: "asc" or "desc" of the primary key, or attributes by name, ``"-name"`` for
        descending, alone or in a list; ``offset`` and ``limit`` count rows. Raises TypeError for an
        attribute that the model does not have.
        """
        yield from self.all(order_by, offset, limit, **kwargs)

    def all(
        self,
        order_by: Order = "asc",
        offset: int | None = None,
        limit: int | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Return what `filter` yields, as a list."""
        session = self._session or self._found_session()
        probe: tuple[Any, ...] | None = None
        if type(order_by) is str:
            values = (offset, limit, *kwargs.values())
            probe = ("list", order_by, *kwargs, *values, *map(type, values))
            found = self._entities.loaded(session, probe)
            if found is not None:
                return found
        form, given = self._list_form(order_by, offset, limit, kwargs)
        return self._entities.objects(session, form, given, self._cache_key(**kwargs), probe)

    def count(self, **kwargs: Any) -> int:
        """Return how many rows have these values."""
        session = self._session or self._found_session()
        nulls = {name: value is None for name, value in kwargs.items()}
        name = ("count", *nulls.items())
        statement = self._forms.get(name)
        if statement is None:
            statement = self._remember(name, counting(self._mapper, nulls))
        values = {f"a_{n}": v for n, v in kwargs.items() if v is not None}
        return int(self._entities.scalar(session, statement, values))

    def page(
        self, order_by: Order = "asc", limit: int = 20, after: str | None = None, **kwargs: Any
    ) -> Page:
        """Return one page of a list; ``after`` is the ``next`` of the page before it.

        Unlike an offset it costs the same for every page, and no row is shown twice or left out
        because others were inserted meanwhile. The attributes of the order must not be NULL.
        """
        session = self._session or self._found_session()
        order = in_order(self._mapper, order_by)
        names = [self._mapper.get_property_by_column(column).key for column, _ in order]
        form, values = self._list_form(order_by, None, limit + 1, kwargs, after=after is not None)
        if after is not None:
            kinds = [_python_type(column) for column, _ in order]
            values |= {f"k_{n}": value for n, value in enumerate(place_from(after, kinds))}
        found = self._entities.objects(session, form, values, self._cache_key(**kwargs))
        more = len(found) > limit
        items = found[:limit]
        last = [getattr(items[-1], name) for name in names] if more else None
        return Page(items, None if last is None else place_of(last))

    # -- read-only objects, for the fastest path

    def struct(self, pk: Any) -> Any:
        """Return a read-only object of a primary key, None if there is none.

        It is a frozen `msgspec.Struct` of the loaded columns, shared by all readers.
        """
        session = self._session or self._found_session()
        values = {f"p_{n}": value for n, value in enumerate(self._key_of(pk))}
        form = self._get_form()
        found = self._entities.structs(session, form, values, "")
        return found[0] if found else None

    def structs(
        self,
        order_by: Order = "asc",
        offset: int | None = None,
        limit: int | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Return read-only objects, as `filter` would yield session objects."""
        session = self._session or self._found_session()
        form, values = self._list_form(order_by, offset, limit, kwargs)
        return self._entities.structs(session, form, values, self._cache_key(**kwargs))

    # -- the document's keys

    def flush(self, key: str) -> None:
        """Drop what is kept under a key: "user.id[4]", "address.user_id=4[all]", or a name."""
        bind = (self._session or self._found_session()).get_bind(self._mapper)
        cache = cache_of(bind)
        if cache is not None and cache.executions is not None:
            cache.executions.invalidate(tag_of(self.label, key))
        region = region_of(self.regions, self.label)
        if region is not None and not isinstance(region, Cache):
            region.delete(key)

    def from_cache(self, cache_key: str | None = None, pk: Any = None) -> FromCache:
        """Build the option that answers a statement from this model's region.

        Without a key the statement and its parameters are one.
        """
        if pk is not None:
            cache_key = self._cache_key(pk)
        return FromCache(self.label, cache_key).among(self.regions)

    def _cache_key(self, pk: Any = "all", **kwargs: Any) -> str:
        """Generate a key as '<tablename>.<column>[<value>]'.

        'user.id[all]': all users; 'address.user_id=4[all]': all addresses linked to user 4;
        'user.id[4]': the user with id 4.
        """
        table: Any = self._mapper.local_table
        condition = "".join(f"{name}={value}" for name, value in kwargs.items()) or self.pk
        return f"{table.name}.{condition}[{pk}]"

    def _columns(self) -> list[str]:
        return [a.key for a in self._mapper.column_attrs if a.key != self.pk]

    def _flush_all(self, obj: Any) -> None:
        """Drop the object, the lists of its old and new values, and the list of all, by hand.

        Commits do so by themselves.
        """
        for column in self._columns():
            added, _, deleted = get_history(obj, column)
            for value in [*(deleted or ()), *(added or ())]:
                self.flush(self._cache_key(**{column: value}))
        self.flush(self._cache_key())
        self.flush(self._cache_key(getattr(obj, self.pk)))

    # -- forms of questions

    def _reading(self, key: str) -> Reading:
        return reading_in(self.regions, self.label, key)

    def _by(self, name: str, columns: Any) -> Form:
        layout = self._entities.layout
        form: Form = self._remember(
            name, self._entities.form(name, lambda what: one_by(layout, what, columns, many=False))
        )
        return form

    def _many_form(self) -> Form:
        layout, columns = self._entities.layout, self._mapper.primary_key
        form: Form = self._forms.get("many") or self._remember(
            "many",
            self._entities.form("many", lambda what: one_by(layout, what, columns, many=True)),
        )
        return form

    def _get_form(self) -> Form:
        form: Form = self._forms.get("get") or self._by("get", self._mapper.primary_key)
        return form

    def _list_form(
        self,
        order_by: Order,
        offset: int | None,
        limit: int | None,
        kwargs: dict[str, Any],
        *,
        after: bool = False,
    ) -> tuple[Form, dict[str, Any]]:
        _check_number("offset", offset)
        _check_number("limit", limit)
        parts = list(order_by) if isinstance(order_by, (list, tuple)) else [order_by]
        order_key = tuple(map(str, parts))
        nulls = tuple((name, value is None) for name, value in kwargs.items())
        name = (order_key, offset is not None, limit is not None, after, nulls)
        form = self._forms.get(name)
        if form is None:
            for attribute in kwargs:
                attribute_of(self._mapper, attribute)
            layout, order = self._entities.layout, in_order(self._mapper, order_by)
            form = self._remember(
                name,
                self._entities.form(
                    name,
                    lambda what: listing(
                        layout,
                        what,
                        dict(nulls),
                        order,
                        offset=offset is not None,
                        limit=limit is not None,
                        after=after,
                    ),
                ),
            )
        values = {f"a_{n}": value for n, value in kwargs.items() if value is not None}
        if offset is not None:
            values["n_offset"] = offset
        if limit is not None:
            values["n_limit"] = limit
        return form, values

    def _remember(self, name: Any, form: Any) -> Any:
        if len(self._forms) >= _FORMS:
            self._forms.clear()
        self._forms[name] = form
        return form

    def _key_of(self, pk: Any) -> tuple[Any, ...]:
        if isinstance(pk, Mapping):
            names = [self._mapper.get_property_by_column(c).key for c in self._mapper.primary_key]
            pk = tuple(pk[name] for name in names)
        key = pk if isinstance(pk, tuple) else (pk,)
        if len(key) != self._pk_columns:
            raise TypeError(
                f"the primary key of {self.model.__name__} has {self._pk_columns} columns, "
                f"not {len(key)}"
            )
        return key

    def _found_session(self) -> Session:
        query = getattr(self.model, "query", None)
        session: Any = getattr(query, "session", None)
        if session is None:
            raise ConfigurationError(
                f"{self.model.__name__}.cache does not know your session: write "
                f"{self.model.__name__}.cache.using(session), or give the model a "
                f"scoped_session's query_property()"
            )
        found: Session = getattr(session, "sync_session", session)
        return found


def _shown(key: tuple[Any, ...]) -> Any:
    return key[0] if len(key) == 1 else key


def _python_type(column: Any) -> Any:
    try:
        return column.type.python_type
    except NotImplementedError:
        return Any


def _check_number(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise TypeError(f"{name} is a number of rows from 0, not {value!r}")


class _Accessor:
    """Give a model its cache, and an object its own view of it."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        made = owner.__dict__.get("_everfresh_cache")
        if made is None or made.regions is not owner.cache_regions:
            made = ModelCache(owner, owner.cache_regions, owner.cache_label)
            owner._everfresh_cache = made  # noqa: SLF001 - our own, kept on the model
        return made if instance is None else ObjectCache(made, instance)


class ObjectCache:
    """Read what belongs to one object from the cache: ``user.cache.addresses``.

    Everything else is the model's cache.
    """

    def __init__(self, cache: ModelCache, instance: Any) -> None:
        self._cache = cache
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        if name in self._cache._mapper.relationships:  # noqa: SLF001 - a part of the class above
            return self._related(name)
        return getattr(self._cache, name)

    def _related(self, name: str) -> Any:
        from everfresh.orm.related import related

        return related(self._cache, self._instance, name)


class CacheableMixin:
    """Give a model ``Model.cache``.

    Insert, update and delete outdate the object, the lists that its old and new values belong to
    and the list of all, when they are committed.
    """

    cache_label: ClassVar[str] = "default"
    cache_regions: ClassVar[Mapping[str, Any] | None] = None
    cache_pk: ClassVar[str | None] = None
    cache: ClassVar[Any] = _Accessor()
