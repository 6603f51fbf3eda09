"""A dogpile.cache region as a place for values.

A region cannot fence: whoever writes last wins, however old its value. So each value carries the
token of the fill that made it, and a reader, who knows from the cache's own entry which fill is
fresh, takes no other. What other processes put there is of fills that this one has not followed.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

__all__ = ["DogpileStore"]

_log = logging.getLogger(__name__)
_TAG = "everfresh"


class DogpileStore:
    """Keep values in a region, each with a token; a region that is down keeps nothing.

    >>> from dogpile.cache import make_region
    >>> store = DogpileStore(make_region().configure("dogpile.cache.memory"))
    >>> token = store.put("user.id[4]", ("Ada",))
    >>> store.get("user.id[4]", token), store.get("user.id[4]", "another")
    (('Ada',), None)
    """

    def __init__(self, region: Any) -> None:
        self.region = region

    def put(self, key: str, value: object) -> str:
        """Keep a value; return the token to ask for it with."""
        token = uuid.uuid4().hex
        try:
            self.region.set(key, (_TAG, token, value))
        except Exception as error:  # whatever its backend raises: the database answers instead
            _log.warning("a dogpile.cache region did not keep a value: %s", error)
        return token

    def get(
        self,
        key: str,
        token: str,
        expiration_time: float | None = None,
        *,
        ignore_expiration: bool = False,
    ) -> Any:
        """Return the value that was put with this token, None if it is not there.

        ``expiration_time`` is in seconds; None takes the region's own.
        """
        try:
            found = self.region.get(
                key, expiration_time=expiration_time, ignore_expiration=ignore_expiration
            )
        except Exception as error:
            _log.warning("a dogpile.cache region did not give a value: %s", error)
            return None
        if isinstance(found, (tuple, list)) and len(found) == 3 and found[0] == _TAG:
            return found[2] if found[1] == token else None
        return None

    def discard(self, key: str) -> None:
        """Forget a key."""
        try:
            self.region.delete(key)
        except Exception as error:
            _log.warning("a dogpile.cache region did not delete a value: %s", error)
