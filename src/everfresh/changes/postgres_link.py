"""The connection that hears: made again when it is lost, and judged by whose server it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from everfresh.changes.postgres_look import history_of
from everfresh.connect.breaker import Breaker
from everfresh.connect.wire import Wire, conninfo
from everfresh.errors import ConfigurationError, ConnectionFailedError

__all__ = ["Link"]

_SETTINGS = (
    "SET search_path = pg_catalog; SET TimeZone = 'UTC'; SET default_transaction_read_only = off;"
    " SET plan_cache_mode = force_generic_plan"  # a look is planned once, not each time
)
_MAINTENANCE = 60.0  # seconds for one statement that installs or removes


class Link:
    """Hold a connection to a primary; not for several threads at once.

    ``base`` and ``timeline`` name the numbering of transactions there; a change of either means
    that nothing of before can be compared. ``suspect``: look once more which server it is.
    """

    def __init__(self, engine: Engine) -> None:
        self.wire: Wire | None = None
        self.base = self.timeline = ""
        self.suspect = False
        self.trouble = "it was not asked yet"
        self._breaker = Breaker(first=0.05)
        self._engine = engine
        self._parameters: str | None = None

    @property
    def parameters(self) -> str:
        """What libpq connects with; raises `ConnectionFailedError` and `MissingExtraError`."""
        if self._parameters is None:
            self._parameters = conninfo(self._engine)
        return self._parameters

    def ready(self) -> Wire | None:
        """Return the connection, made again if need be, but not too often; None if it cannot be."""
        wire = self.wire
        if wire is not None and not wire.closed and not self.suspect:
            return wire
        if not self._breaker.closed:
            return None
        try:
            self.drop()
            self.suspect = False
            self.wire = self._connect()
        except Exception as error:  # drivers raise what they like where there is no server
            self.failed(error)
            self._breaker.failed(str(error))
            return None
        self._breaker.worked()
        return self.wire

    def _connect(self) -> Wire:
        wire = Wire(self.parameters, settings=_SETTINGS)
        try:
            self.base, self.timeline = history_of(wire)
        except BaseException:
            wire.close()
            raise
        if not self.timeline:
            wire.close()
            raise ConnectionFailedError("it is a standby: its snapshots leave out what runs")
        return wire

    def failed(self, error: Exception) -> None:
        """Note why it cannot be used, and end the connection, in whatever state it is."""
        self.trouble = f"the database could not be asked: {error}"
        self.drop()

    def drop(self) -> None:
        """End the connection."""
        wire, self.wire = self.wire, None
        if wire is not None and not wire.closed:
            wire.close()

    def leave(self) -> None:
        """Leave the connection to a parent process."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.leave()

    @contextmanager
    def maintenance(self) -> Iterator[Wire]:
        """Yield a connection of its own, whose errors are told as `ConfigurationError`."""
        try:
            wire = Wire(self.parameters, timeout=_MAINTENANCE, settings=_SETTINGS)
        except ConnectionFailedError as error:
            raise ConfigurationError(f"{error}; nothing was done") from error
        try:
            yield wire
        except ConnectionFailedError as error:
            raise ConfigurationError(f"the database refused: {error}; nothing was done") from error
        finally:
            wire.close()
