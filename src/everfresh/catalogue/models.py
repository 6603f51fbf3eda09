"""The tables of the catalogue. Times are wall-clock seconds since 1970."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = ["STATES", "AuditRow", "Base", "DependencyRow", "EntryRow", "SettingRow"]

STATES = ("fresh", "stale", "dropped")

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
_Blob = bytes  # a row has a column of that name
_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER alone


class Base(DeclarativeBase):
    """Hold the schema of the catalogue."""

    metadata = MetaData(naming_convention=_NAMES)


class EntryRow(Base):
    """Hold what is known of one kept answer, also after its value went.

    ``detail`` is MessagePack of what a surface needs to ask again. ``reason`` and ``origin`` are
    of the last fill, or ``reason`` of what ended it; ``change`` is what made it stale last.
    ``cost`` is in seconds, ``hits`` and ``fills`` are over all processes.
    """

    __tablename__ = "entry"
    __table_args__ = (CheckConstraint("state IN ('fresh', 'stale', 'dropped')", name="state"),)

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text, index=True)
    label: Mapped[str] = mapped_column(Text)
    detail: Mapped[_Blob | None] = mapped_column(LargeBinary)
    database: Mapped[str] = mapped_column(Text)
    filled_at: Mapped[float] = mapped_column(Double)
    cost: Mapped[float] = mapped_column(Double)
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str | None] = mapped_column(Text)
    hits: Mapped[int] = mapped_column(BigInteger)
    fills: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(Text, index=True)
    reason: Mapped[str] = mapped_column(Text)
    change: Mapped[str | None] = mapped_column(Text)
    score: Mapped[float | None] = mapped_column(Double)
    deadline: Mapped[float | None] = mapped_column(Double)
    origin: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[float] = mapped_column(Double, index=True)

    dependencies: Mapped[list[DependencyRow]] = relationship(
        order_by="DependencyRow.id", passive_deletes=True, cascade="all, delete-orphan"
    )


class DependencyRow(Base):
    """Hold one thing an entry depends on: a table under a condition, or another entry.

    With neither ``table_name`` nor ``parent`` it is the whole database. ``condition`` is SQL-like
    text for people, empty for the whole table.
    """

    __tablename__ = "dependency"

    id: Mapped[int] = mapped_column(_Number, primary_key=True)
    entry: Mapped[str] = mapped_column(ForeignKey("entry.key", ondelete="CASCADE"), index=True)
    table_name: Mapped[str | None] = mapped_column(Text, index=True)
    condition: Mapped[str] = mapped_column(Text)
    parent: Mapped[str | None] = mapped_column(Text, index=True)


class SettingRow(Base):
    """Hold one setting of this catalogue as JSON."""

    __tablename__ = "setting"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[float] = mapped_column(Double)


class AuditRow(Base):
    """Hold the outcome of one audit: how many answers were checked, how many were stale."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(_Number, primary_key=True)
    at: Mapped[float] = mapped_column(Double, index=True)
    checked: Mapped[int] = mapped_column(BigInteger)
    stale: Mapped[int] = mapped_column(BigInteger)
