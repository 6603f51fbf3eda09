"""What a catalogue holds besides entries, and letting old history go."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from everfresh.catalogue.database import Catalogue
from everfresh.catalogue.models import AuditRow, Base, DependencyRow, EntryRow, SettingRow
from everfresh.errors import ConfigurationError
from everfresh.kernel.ports import Clock

__all__ = ["audits", "forget", "record_audit", "set_setting", "setting", "settings", "upsert"]


def setting(catalogue: Catalogue, name: str, default: Any = None) -> Any:
    """Return a setting of this catalogue, the default if it was never set."""
    return settings(catalogue).get(name, default)


def settings(catalogue: Catalogue) -> dict[str, Any]:
    """Return every setting of this catalogue by name."""
    with catalogue.reading() as connection:
        rows = connection.execute(
            select(SettingRow.name, SettingRow.value).order_by(SettingRow.name)
        )
        return {name: json.loads(value) for name, value in rows}


def set_setting(catalogue: Catalogue, name: str, value: Any) -> None:
    """Set a setting to a value that JSON carries; None takes it back.

    >>> with Catalogue("sqlite://") as catalogue:
    ...     set_setting(catalogue, "max_bytes", 1000)
    ...     setting(catalogue, "max_bytes")
    1000
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the setting {name!r} must be plain data: {error}") from None
    with catalogue.writing() as connection:
        if value is None:
            connection.execute(delete(SettingRow).where(SettingRow.name == name))
        else:
            row = {"name": name, "value": text, "updated_at": time.time()}
            upsert(connection, SettingRow, [row])


def record_audit(catalogue: Catalogue, checked: int, stale: int, at: float | None = None) -> None:
    """Note that this many answers were checked and this many found stale."""
    row = {"at": time.time() if at is None else at, "checked": checked, "stale": stale}
    with catalogue.writing() as connection:
        connection.execute(insert(AuditRow), row)


def audits(catalogue: Catalogue, since: float = 0.0, limit: int = 1000) -> list[AuditRow]:
    """Return the latest audits after a time (seconds since 1970), the oldest of them first."""
    newest = select(AuditRow).where(AuditRow.at >= since).order_by(AuditRow.at.desc())
    with catalogue.session() as session:
        return list(session.scalars(newest.limit(limit)))[::-1]


def forget(
    catalogue: Catalogue,
    older_than: float | None = None,
    keep: int | None = None,
    wall: Clock = time.time,
) -> int:
    """Delete history and return how many entries went; fresh ones stay.

    Of the stale and dropped ones those go that have been so for more than ``older_than`` seconds,
    and all but the latest ``keep``; audits go by age alone.
    """
    gone = select(EntryRow.key).where(EntryRow.state != "fresh")
    before = None if older_than is None else wall() - older_than
    with catalogue.writing() as connection:
        keys: set[str] = set()
        if before is not None:
            keys.update(connection.scalars(gone.where(EntryRow.updated_at < before)))
            connection.execute(delete(AuditRow).where(AuditRow.at < before))
        if keep is not None:
            latest = gone.order_by(EntryRow.updated_at.desc(), EntryRow.key)
            keys.update(list(connection.scalars(latest))[keep:])
        _delete(connection, sorted(keys))
    return len(keys)


def _delete(connection: Connection, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), 500):
        chunk = keys[start : start + 500]
        connection.execute(delete(DependencyRow).where(DependencyRow.entry.in_(chunk)))
        connection.execute(delete(EntryRow).where(EntryRow.key.in_(chunk)))


def upsert(
    connection: Connection,
    model: type[Base],
    rows: Sequence[dict[str, Any]],
    *,
    added: Sequence[str] = (),
    kept: Sequence[str] = (),
) -> None:
    """Insert rows, or update those whose primary key is there.

    ``added`` columns are summed; ``kept`` ones stay where the new row has NULL. Only the columns
    that the rows name are changed.
    """
    table = model.__table__
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(model)
    keys = [column.name for column in table.primary_key]
    changed: dict[str, ColumnElement[Any]] = {}
    for name in rows[0]:
        new = statement.excluded[name]
        if name in added:
            changed[name] = table.c[name] + new
        elif name in kept:
            changed[name] = func.coalesce(new, table.c[name])
        elif name not in keys:
            changed[name] = new
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)
