"""The catalogue's database: made, versioned, upgraded, refused."""

import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from everfresh.catalogue import (
    Catalogue,
    downgrade,
    entry,
    open_catalogue,
    set_setting,
    setting,
    upgrade,
    version,
)
from everfresh.catalogue.models import Base, EntryRow
from everfresh.catalogue.records import upsert
from everfresh.catalogue.schema import HEAD, VERSION_TABLE, _config, revisions
from everfresh.errors import (
    CatalogueError,
    CatalogueVersionError,
    ConfigurationError,
    MissingExtraError,
    UnknownURLError,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/catalogue.db"
        return
    server = request.getfixturevalue("postgres")
    fresh = server.fresh_database()
    yield fresh
    server.drop_database(fresh)


def row(key="k", **values):
    return {
        "key": key, "kind": "sql", "label": "SELECT 1", "detail": b"d", "database": "x",
        "filled_at": 1.5, "cost": 0.25, "bytes": 10, "digest": None, "hits": 0, "fills": 1,
        "state": "fresh", "reason": "", "change": None, "score": 1.0, "deadline": None,
        "origin": "fill", "updated_at": 1.5,
        **values,
    }  # fmt: skip


def run(url, *statements):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_an_empty_database_gets_the_tables_at_first_use(url):
    assert version(url) is None
    with Catalogue(url) as catalogue:
        assert version(url) is None  # nothing is made before it is needed
        assert catalogue.version() == HEAD
    with open_catalogue(url) as again:
        assert again.version() == HEAD
    assert version(url) == HEAD


def test_asking_for_the_version_makes_no_file(tmp_path):
    assert version(f"sqlite:///{tmp_path}/none.db") is None
    assert list(tmp_path.iterdir()) == []


def test_the_migrations_make_what_the_models_say(url):
    with open_catalogue(url) as catalogue, catalogue.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_the_version_we_need_is_the_last_there_is():
    assert ScriptDirectory.from_config(_config()).get_current_head() == HEAD
    assert HEAD in revisions()


def test_up_and_down_with_data_in_it(url):
    with open_catalogue(url) as catalogue, catalogue.writing() as connection:
        upsert(connection, EntryRow, [row()])
    assert upgrade(url) == HEAD  # nothing to do
    with open_catalogue(url) as catalogue:
        assert entry(catalogue, "k").label == "SELECT 1"
    assert downgrade(url, "base") == "base"
    assert version(url) is None
    assert upgrade(url) == HEAD
    with open_catalogue(url) as catalogue:
        assert entry(catalogue, "k") is None


def test_a_downgrade_that_fails_leaves_all_as_it_was(url):
    with open_catalogue(url) as catalogue, catalogue.writing() as connection:
        upsert(connection, EntryRow, [row()])
    run(url, "DROP TABLE setting")
    with pytest.raises(CatalogueError):
        downgrade(url, "base")
    with open_catalogue(url) as catalogue:
        assert entry(catalogue, "k").bytes == 10


def test_a_newer_schema_says_to_upgrade_everfresh(url):
    open_catalogue(url).close()
    run(url, f"UPDATE {VERSION_TABLE} SET version_num = '99.0'")
    with pytest.raises(CatalogueVersionError, match="upgrade everfresh") as caught:
        open_catalogue(url)
    assert "99.0" in str(caught.value)


def test_an_older_schema_names_the_command(url, monkeypatch):
    open_catalogue(url).close()
    monkeypatch.setattr("everfresh.catalogue.database.HEAD", "9.9")
    with pytest.raises(CatalogueVersionError, match="everfresh catalogue upgrade") as caught:
        open_catalogue(url)
    assert url.partition("://")[0] in str(caught.value)


def test_a_foreign_database_is_refused_and_not_touched(url):
    run(url, "CREATE TABLE precious (n INTEGER)")
    for refused in (open_catalogue, upgrade, lambda url: downgrade(url, "base")):
        with pytest.raises(CatalogueError, match="no catalogue of everfresh"):
            refused(url)
    engine = sa.create_engine(url)
    assert sa.inspect(engine).get_table_names() == ["precious"]
    engine.dispose()


def test_two_programs_tables_beside_ours_are_no_matter(url):
    open_catalogue(url).close()
    run(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))")
    open_catalogue(url).close()


def test_processes_that_create_it_at_once_all_work(url):
    code = (
        "import sys; from everfresh.catalogue import open_catalogue, set_setting\n"
        "sys.stdin.readline()\n"
        "c = open_catalogue(sys.argv[1]); set_setting(c, sys.argv[2], 1)"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, f"n{n}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(3)
    ]
    for worker in workers:
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.communicate(timeout=60)[1].decode() == ""
    with open_catalogue(url) as catalogue:
        assert [setting(catalogue, f"n{n}") for n in range(3)] == [1, 1, 1]


def test_a_catalogue_in_memory_lives_as_long_as_it_is_open(tmp_path, monkeypatch):
    with open_catalogue("sqlite://") as catalogue:
        set_setting(catalogue, "a", [1, {"b": None}])
        monkeypatch.chdir(tmp_path)
        assert setting(catalogue, "a") == [1, {"b": None}]


def test_a_relative_path_is_of_the_folder_it_was_named_in(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with Catalogue("sqlite:///catalogue.db") as catalogue:
        monkeypatch.chdir(tmp_path / "other")
        set_setting(catalogue, "a", 1)
    assert (tmp_path / "catalogue.db").exists()
    assert list((tmp_path / "other").iterdir()) == []


def test_what_is_no_url_of_ours_is_refused(monkeypatch):
    for wrong in ("nonsense", "mysql://host/name", ""):
        with pytest.raises(UnknownURLError, match="sqlite://"):
            Catalogue(wrong)
    with pytest.raises(ConfigurationError, match="aiosqlite"):
        Catalogue("sqlite+aiosqlite:///x.db")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"everfresh\[postgres\]"):
        Catalogue("postgresql://host/name")


def test_passwords_are_not_shown():
    catalogue = Catalogue("postgresql://user:secret@127.0.0.1:1/name?connect_timeout=1")
    with pytest.raises(CatalogueError) as caught:
        catalogue.check()
    assert "secret" not in str(caught.value)


def test_opening_what_is_up_to_date_imports_no_alembic(tmp_path):
    url = f"sqlite:///{tmp_path}/catalogue.db"
    open_catalogue(url).close()
    code = (
        "import sys; from everfresh.catalogue import open_catalogue\n"
        "open_catalogue(sys.argv[1]).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
