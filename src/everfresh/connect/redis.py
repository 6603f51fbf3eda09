"""From a URL to a client of Redis or Valkey whose every wait has a limit."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from everfresh.errors import ConfigurationError, MissingExtraError

__all__ = ["TIMEOUT", "connect", "shown"]

TIMEOUT = 0.5  # seconds for one answer: a cache that is slower than its database is none
SCHEMES = ("redis", "rediss", "unix")


def connect(url: str, *, timeout: float = TIMEOUT) -> Any:
    """Return a client for ``redis://``, ``rediss://`` (TLS) or ``unix://``; it connects when used.

    User and password of an ACL, the database's number and redis-py's own options (``ssl_ca_certs``
    …) are part of the URL. Raises `MissingExtraError` without redis-py, and `ConfigurationError`
    for a URL that it does not understand; the text never holds a password.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise MissingExtraError("redis", "redis://") from None
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1),  # once: a connection of the pool may be stale
        )
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{shown(url)} is no URL of a Redis: {error}") from None


def shown(url: str) -> str:
    """Return a URL that may be shown: without its password.

    >>> shown("rediss://app:secret@cache:6380/0?ssl_password=x&timeout=1")
    'rediss://app:***@cache:6380/0?…'
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        place = f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "this URL"
    if parts.username or parts.password:
        place = f"{parts.username or ''}{':***' if parts.password else ''}@{place}"
    query = "…" if parse_qs(parts.query) else ""
    return urlunsplit((parts.scheme, place, parts.path, query, ""))
