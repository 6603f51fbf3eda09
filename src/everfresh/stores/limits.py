"""How much a store may hold, and how large one entry may be: the same for every store."""

from __future__ import annotations

from everfresh.errors import ConfigurationError, ValueTooLargeError
from everfresh.kernel.entry import Entry

__all__ = ["check_limit", "check_size"]


def check_limit(max_bytes: int) -> None:
    """Raise `ConfigurationError` for a limit under which a store could hold nothing."""
    if max_bytes < 1:
        raise ConfigurationError(f"max_bytes must be at least 1 byte, not {max_bytes}")


def check_size(entry: Entry, max_bytes: int) -> None:
    """Raise `ValueTooLargeError` for an entry that is larger than a store may ever hold."""
    if entry.bytes > max_bytes:
        raise ValueTooLargeError(
            f"{entry.label or entry.key} takes {entry.bytes:,} bytes, over this store's limit "
            f"of {max_bytes:,}: raise max_bytes, or ask for less"
        )
