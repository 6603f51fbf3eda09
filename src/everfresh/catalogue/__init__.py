"""The database of record: what is kept, why, from what, and what became of it.

A `Catalogue` is a SQLite file or a PostgreSQL database, named by URL. A `Recorder` writes to it
behind the answers; `entries` reads it; `records` holds settings, audits and the deletion of old
history. Its tables are in `models`, and only Alembic's migrations change them.
"""

from everfresh.catalogue.database import Catalogue, downgrade, open_catalogue, upgrade, version
from everfresh.catalogue.entries import Impact, Listing, Totals, entry, impact, listed, totals
from everfresh.catalogue.models import AuditRow, DependencyRow, EntryRow, SettingRow
from everfresh.catalogue.recorder import Pace, Recorder
from everfresh.catalogue.records import (
    audits,
    forget,
    record_audit,
    set_setting,
    setting,
    settings,
)

__all__ = [
    "AuditRow",
    "Catalogue",
    "DependencyRow",
    "EntryRow",
    "Impact",
    "Listing",
    "Pace",
    "Recorder",
    "SettingRow",
    "Totals",
    "audits",
    "downgrade",
    "entry",
    "forget",
    "impact",
    "listed",
    "open_catalogue",
    "record_audit",
    "set_setting",
    "setting",
    "settings",
    "totals",
    "upgrade",
    "version",
]
