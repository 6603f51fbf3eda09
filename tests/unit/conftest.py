"""An empty catalogue in each kind of database."""

import pytest
import sqlalchemy as sa

from everfresh.catalogue import open_catalogue


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def place(request, tmp_path_factory):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('c')}/catalogue.db"
        return
    server = request.getfixturevalue("postgres")
    fresh = server.fresh_database()
    yield fresh
    server.drop_database(fresh)


@pytest.fixture
def catalogue(place):
    with open_catalogue(place) as opened:
        yield opened
        with opened.writing() as connection:
            for table in ("dependency", "entry", "setting", "audit"):
                connection.execute(sa.text(f"DELETE FROM {table}"))
