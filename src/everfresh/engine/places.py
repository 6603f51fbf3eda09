"""Where recorded rows lie, if not in the cache's own memory."""

from __future__ import annotations

from typing import Any, Protocol

from everfresh.engine.recorded import Recorded
from everfresh.stores.dogpile import DogpileStore

__all__ = ["Lodged", "Place", "region_place"]


class Lodged:
    """Stand for rows that lie elsewhere: the name they lie under, and the token of their fill."""

    __slots__ = ("name", "token")
    nbytes = 500

    def __init__(self, name: str, token: str) -> None:
        self.name = name
        self.token = token


class Place(Protocol):
    """Keep recorded rows; the cache's own entry says whether they are fresh."""

    def put(self, label: str, found: Recorded) -> Lodged:
        """Keep rows; ``label`` is the statement they answer."""

    def get(self, lodged: Lodged) -> Recorded | None:
        """Return the rows of just that fill, None if they have gone."""

    def discard(self) -> None:
        """Forget the rows under this place's name, if it has one."""


class RegionPlace:
    """Keep rows in a dogpile.cache region, under a name or the statement's text."""

    def __init__(
        self, store: DogpileStore, name: str, expiration_time: float | None, *, ignore: bool
    ) -> None:
        self._store = store
        self._name = name
        self._expiration_time = expiration_time
        self._ignore = ignore

    def put(self, label: str, found: Recorded) -> Lodged:
        """Keep rows; a region that fails keeps none."""
        name = self._name or label
        parts = (found.rows, found.description, found.rowcount, found.mutable)
        return Lodged(name, self._store.put(name, parts))

    def get(self, lodged: Lodged) -> Recorded | None:
        """Return the rows of just that fill."""
        parts = self._store.get(
            lodged.name, lodged.token, self._expiration_time, ignore_expiration=self._ignore
        )
        return None if parts is None else Recorded(*parts)

    def discard(self) -> None:
        """Forget the rows under this place's name."""
        if self._name:
            self._store.discard(self._name)


def region_place(
    region: Any, name: str, expiration_time: float | None = None, *, ignore: bool = False
) -> RegionPlace:
    """Return the place for one statement in a dogpile.cache region.

    ``expiration_time`` is in seconds, None for the region's own; ``ignore`` takes rows of any age.
    """
    return RegionPlace(DogpileStore(region), name, expiration_time, ignore=ignore)
