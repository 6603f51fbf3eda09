"""Keep records in this process's own memory."""

from __future__ import annotations

from everfresh.tables.local.table import LocalStorageTable

__all__ = ["LocalStorageTable"]
