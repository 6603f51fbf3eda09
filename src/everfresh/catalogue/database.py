"""The catalogue's database: opened by URL, made at first use, upgraded when told to.

Its tables are made by Alembic's migrations beside this file, whose version lies in a table of
the catalogue's own name, so that it never meets another program's.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from everfresh.catalogue.engines import WRITES, make_engine, missing_file, switch_to_wal
from everfresh.catalogue.schema import HEAD, holds_others, migrate, revisions, stored_version
from everfresh.errors import CatalogueError, CatalogueUnavailableError, CatalogueVersionError
from everfresh.kernel.closing import Closing

__all__ = ["Catalogue", "downgrade", "open_catalogue", "upgrade", "version"]

_LOCK = 0x45464341  # the advisory lock under which PostgreSQL makes or migrates the tables

_opened: weakref.WeakSet[Catalogue] = weakref.WeakSet()


class Catalogue(Closing):
    """Hold the connections to one catalogue; nothing is opened before it is needed.

    ``url`` is a SQLAlchemy URL of a SQLite file or a PostgreSQL database; ``sqlite://`` is one
    in memory. An empty database gets the tables at the first use. Raises, at any use:
    `CatalogueUnavailableError` when it cannot be reached, `CatalogueVersionError` when its schema
    is older or newer, `CatalogueError` when it is no catalogue or is damaged.

    >>> with Catalogue("sqlite://") as catalogue:
    ...     catalogue.version()
    '1.0'
    """

    def __init__(self, url: str | URL) -> None:
        self.engine = make_engine(url)
        self.name = self.engine.url.render_as_string(hide_password=True)
        self._writer = self.engine.execution_options(**{WRITES: True})
        self._ready = False
        self._lock = Lock()
        _opened.add(self)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection to read with."""
        self.check()
        with self._errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session to read with; what it loads stays usable when it is closed."""
        with self.reading() as connection, Session(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a transaction, which is committed at the end."""
        self.check()
        with self._transaction() as connection:
            yield connection

    def check(self) -> None:
        """Make the tables if the database is empty; raise unless it is a catalogue of ours."""
        if self._ready:
            return
        with self._lock, self._errors():
            with self.engine.connect() as connection:
                known = self._known(connection)
            if known is None:
                self._create()
            self._ready = True

    def version(self) -> str:
        """Return the version of the schema."""
        with self.reading() as connection:
            return str(stored_version(connection))

    def found_version(self) -> str | None:
        """Return the version of the schema as it is, None if there is none; make nothing."""
        with self._errors(), self.engine.connect() as connection:
            return stored_version(connection)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def forked(self) -> None:
        """Leave the parent's connections to the parent."""
        self._lock = Lock()
        self.engine.dispose(close=False)

    def migrate(self, revision: str, *, up: bool) -> None:
        """Bring the schema to a revision, up or down, in one transaction."""
        with self._lock, self._transaction(locked=True) as connection:
            if stored_version(connection) is None and holds_others(connection):
                raise self._foreign()
            migrate(connection, revision, up=up)
        self._ready = False

    def _known(self, connection: Connection) -> str | None:
        """Return the schema's version if this everfresh works with it, None for an empty one."""
        found = stored_version(connection)
        if found == HEAD:
            return found
        if found is None:
            if holds_others(connection):
                raise self._foreign()
            return None
        if found in revisions():
            raise CatalogueVersionError(
                f"the catalogue {self.name} has schema {found}, and this everfresh needs {HEAD}: "
                f"run  everfresh catalogue upgrade {self.name}"
            )
        raise CatalogueVersionError(
            f"the catalogue {self.name} has schema {found}, newer than {HEAD}, the last this "
            f"everfresh knows: upgrade everfresh"
        )

    def _create(self) -> None:
        if self.engine.dialect.name == "sqlite":
            switch_to_wal(self.engine)
        with self._transaction(locked=True) as connection:
            if self._known(connection) is None:  # another process may have been faster
                migrate(connection, HEAD, up=True)

    def _foreign(self) -> CatalogueError:
        return CatalogueError(
            f"{self.name} holds tables, but no catalogue of everfresh: name an empty database"
        )

    @contextmanager
    def _transaction(self, *, locked: bool = False) -> Iterator[Connection]:
        with self._errors(), self._writer.begin() as connection:
            if locked and connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK})
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLAlchemy's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:  # from a connection used without SQLAlchemy
            raise CatalogueUnavailableError(
                f"the catalogue {self.name} cannot be used now: {error}"
            ) from error
        except (OperationalError, InterfaceError) as error:
            self._ready = False  # when it is back, it is looked at again before it is used
            raise CatalogueUnavailableError(
                f"the catalogue {self.name} cannot be used now: {error.orig}"
            ) from error
        except DBAPIError as error:
            self._ready = False
            if error.connection_invalidated:
                raise CatalogueUnavailableError(
                    f"the connection to the catalogue {self.name} was lost: {error.orig}"
                ) from error
            raise CatalogueError(
                f"the catalogue {self.name} is damaged, or no database: {error.orig}"
            ) from error
        except SQLAlchemyError as error:
            raise CatalogueUnavailableError(
                f"the catalogue {self.name} cannot be used now: {error}"
            ) from error


def open_catalogue(url: str | URL) -> Catalogue:
    """Return the catalogue of this URL, made if there is none; raises what `Catalogue` does."""
    catalogue = Catalogue(url)
    try:
        catalogue.check()
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def upgrade(url: str | URL, revision: str = HEAD) -> str:
    """Bring a catalogue's schema up to a revision; return the version it has then."""
    return _migrate(url, revision, up=True)


def downgrade(url: str | URL, revision: str) -> str:
    """Take a catalogue's schema back to a revision, ``"base"`` for none; return the version."""
    return _migrate(url, revision, up=False)


def version(url: str | URL) -> str | None:
    """Return the version of a catalogue's schema, None if there is no catalogue; make nothing."""
    with Catalogue(url) as catalogue:
        return None if missing_file(catalogue.engine) else catalogue.found_version()


def _migrate(url: str | URL, revision: str, *, up: bool) -> str:
    with Catalogue(url) as catalogue:
        catalogue.migrate(revision, up=up)
        return catalogue.found_version() or "base"


def _after_fork() -> None:
    for catalogue in list(_opened):
        catalogue.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
