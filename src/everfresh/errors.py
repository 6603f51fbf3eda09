"""The errors of everfresh: one root, and each is also the built-in it resembles.

::

    EverfreshError
    ├── ConfigurationError (ValueError)      a setting or an argument of open() is wrong
    │   ├── UnknownURLError                  no part is registered for this URL
    │   └── MissingExtraError (ImportError)  an optional dependency is not installed
    ├── DatabaseNotFoundError (FileNotFoundError)
    ├── ConnectionFailedError (ConnectionError)  a server cannot be reached, or failed to answer
    ├── ClosedError (RuntimeError)           the cache was closed
    ├── UnkeyableError (TypeError)           a value has no canonical form for a key
    ├── StatementError (ValueError)          a statement cannot be run as it stands
    ├── RecursiveFillError (RuntimeError)    a computation asked for its own result
    ├── CodecError (ValueError)              a value cannot be encoded, or bytes not decoded
    │   └── SignatureError                   a pickle was not signed with this key
    ├── StoreError (RuntimeError)            a store could not do what it was asked
    │   ├── ValueTooLargeError (ValueError)  a value is over the store's limit
    │   └── StoreUnavailableError            a store's file or server cannot be used now
    ├── CatalogueError (RuntimeError)        a catalogue could not do what it was asked
    │   ├── CatalogueUnavailableError        its file or server cannot be used now
    │   └── CatalogueVersionError            its schema is older or newer than this everfresh
    ├── TableError (ValueError)              a cached table was asked what it cannot do
    ├── NoRecordError (KeyError)             there is no such record
    ├── AbortedError (RuntimeError)          a change of a cached table was called off
    ├── NotKeptError (KeyError)              no entry is kept under this key
    └── micro.FormattingError (RuntimeError) the callback of a micro-cache raised
"""

from __future__ import annotations

__all__ = [
    "AbortedError",
    "CatalogueError",
    "CatalogueUnavailableError",
    "CatalogueVersionError",
    "ClosedError",
    "CodecError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DatabaseNotFoundError",
    "EverfreshError",
    "MissingExtraError",
    "NoRecordError",
    "NotKeptError",
    "RecursiveFillError",
    "SignatureError",
    "StatementError",
    "StoreError",
    "StoreUnavailableError",
    "TableError",
    "UnkeyableError",
    "UnknownURLError",
    "ValueTooLargeError",
]


class EverfreshError(Exception):
    """Root of every error that everfresh raises by itself."""


class ConfigurationError(EverfreshError, ValueError):
    """A setting or an argument is wrong; the text says which values are right."""


class UnknownURLError(ConfigurationError):
    """No part of everfresh is registered for the scheme of this URL."""


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the text holds the command that installs it."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs an extra: run  pip install 'everfresh[{extra}]'")
        self.extra = extra


class DatabaseNotFoundError(EverfreshError, FileNotFoundError):
    """The database file named by a URL does not exist."""


class ConnectionFailedError(EverfreshError, ConnectionError):
    """A server cannot be reached, did not answer in time, or refused what it was asked."""


class ClosedError(EverfreshError, RuntimeError):
    """The cache was closed before it was asked."""


class TableError(EverfreshError, ValueError):
    """A cached table, or a part of one, was asked what it cannot do; the text says what it can."""


class NoRecordError(EverfreshError, KeyError):
    """There is no such record."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AbortedError(EverfreshError, RuntimeError):
    """A load or adjustment of a cached table was called off; the table is as it was before."""


class UnkeyableError(EverfreshError, TypeError):
    """A value has no canonical form, so no key can be made of it."""


class StatementError(EverfreshError, ValueError):
    """A statement cannot be run as it stands."""


class RecursiveFillError(EverfreshError, RuntimeError):
    """A computation asked the cache for the result it is computing itself."""


class CodecError(EverfreshError, ValueError):
    """A value cannot be encoded, or bytes cannot be decoded."""


class SignatureError(CodecError):
    """A pickle does not carry a signature made with this installation's key."""


class StoreError(EverfreshError, RuntimeError):
    """A store could not do what it was asked."""


class ValueTooLargeError(StoreError, ValueError):
    """A value is larger than the store may hold."""


class StoreUnavailableError(StoreError):
    """A store's file or server cannot be used now; nothing was kept or forgotten."""


class CatalogueError(EverfreshError, RuntimeError):
    """A catalogue could not do what it was asked."""


class CatalogueUnavailableError(CatalogueError):
    """A catalogue's file or server cannot be used now."""


class CatalogueVersionError(CatalogueError):
    """A catalogue's schema is of another version; the text says what to upgrade."""


class NotKeptError(EverfreshError, KeyError):
    """No entry is kept under this key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
