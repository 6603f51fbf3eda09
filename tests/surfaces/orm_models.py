"""Models for the tests of the ORM cache, their engines, and a count of what reaches the driver."""

import contextlib
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from everfresh.orm import CacheableMixin


class Base(DeclarativeBase):
    pass


class User(CacheableMixin, Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(sa.String(80))
    email: Mapped[str] = mapped_column(sa.String(120), unique=True)
    views: Mapped[int | None] = mapped_column(default=0)
    addresses: Mapped[list["Address"]] = relationship(back_populates="user", cascade="all, delete")


class Address(CacheableMixin, Base):
    __tablename__ = "address"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id"))
    town: Mapped[str]
    user: Mapped[User] = relationship(back_populates="addresses")


class Seat(CacheableMixin, Base):
    """A composite key, a version counter and a mutable value."""

    __tablename__ = "seat"
    row: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(sa.String(5), primary_key=True)
    version: Mapped[int] = mapped_column()
    facts: Mapped[dict] = mapped_column(sa.JSON, default=dict)
    __mapper_args__: ClassVar = {"version_id_col": version}


class Animal(CacheableMixin, Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(sa.ForeignKey("animal.id"), primary_key=True)
    tricks: Mapped[int] = mapped_column(default=0)
    __mapper_args__: ClassVar = {"polymorphic_identity": "dog"}


@contextlib.contextmanager
def reaching(engine):
    """Gather the texts that reach the driver's cursor through SQLAlchemy."""
    seen = []
    wrapped = engine.dialect.__dict__["do_execute"]
    names = wrapped.__code__.co_freevars
    cell = wrapped.__closure__[names.index("original")]
    original = cell.cell_contents

    def note(cursor, statement, *rest, **named):
        seen.append(statement)
        return original(cursor, statement, *rest, **named)

    cell.cell_contents = note
    try:
        yield seen
    finally:
        cell.cell_contents = original


def fill(session):
    session.add_all(
        User(id=n, username=f"name{n}", email=f"u{n}@example.org", views=n % 3)
        for n in range(1, 10)
    )
    session.flush()
    session.add_all(
        Address(id=n, user_id=n % 4 + 1, town=("Oslo", "Rome", "Łódź")[n % 3]) for n in range(1, 13)
    )
    session.add_all(Seat(row=r, place=p, facts={"p": [r]}) for r in (0, 1) for p in "ab")
    session.add_all([Animal(id=1, name="Tom"), Dog(id=2, name="Rex", tricks=3)])
    session.commit()
