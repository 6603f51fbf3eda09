"""everfresh: cached SQL that is never stale.

>>> import everfresh
>>> cache = everfresh.open("sqlite://")
>>> cache.sql("SELECT :n AS answer", n=42)[0].answer
42
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everfresh.engine.aio import AsyncCache
    from everfresh.engine.cache import Cache
    from everfresh.engine.opening import (
        open,  # noqa: A004 - meant to be used as everfresh.open
        open_async,
    )
    from everfresh.engine.receipts import Receipt
    from everfresh.engine.rows import Row, Rows
    from everfresh.errors import EverfreshError
    from everfresh.kernel.freshness import Freshness, bounded, ttl
    from everfresh.settings import Settings

__all__ = [
    "AsyncCache",
    "Cache",
    "EverfreshError",
    "Freshness",
    "Receipt",
    "Row",
    "Rows",
    "Settings",
    "bounded",
    "open",
    "open_async",
    "ttl",
]
__version__ = "0.1.0"

# looked up on first use, so that `import everfresh` costs nothing: SQLAlchemy and sqlglot are
# imported by `open`
_HOMES = {
    "AsyncCache": "everfresh.engine.aio",
    "Cache": "everfresh.engine.cache",
    "EverfreshError": "everfresh.errors",
    "Freshness": "everfresh.kernel.freshness",
    "Receipt": "everfresh.engine.receipts",
    "Row": "everfresh.engine.rows",
    "Rows": "everfresh.engine.rows",
    "Settings": "everfresh.settings",
    "bounded": "everfresh.kernel.freshness",
    "open": "everfresh.engine.opening",
    "open_async": "everfresh.engine.opening",
    "ttl": "everfresh.kernel.freshness",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'everfresh' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
