"""The ORM cache in Flask; the document's application, in a real browser."""

import importlib.util
import shutil
import threading
from pathlib import Path

import flask
import pytest
from flask_sqlalchemy import SQLAlchemy
from selenium import webdriver
from selenium.webdriver.common.by import By
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.serving import make_server

from everfresh.errors import ConfigurationError
from everfresh.orm import CacheableMixin, FromCache, query_callable, regions
from everfresh.orm.flask import Everfresh, FlaskCachingQuery

APP = Path(__file__).parents[2] / "examples/flask_app/app.py"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/test.db")
    before = regions.get("default")
    spec = importlib.util.spec_from_file_location("flask_example", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.everfresh.close()
    with module.app.app_context():
        module.db.engine.dispose()
    regions.pop("default", None)
    if before is not None:
        regions["default"] = before


@pytest.fixture
def served(example):
    server = make_server("127.0.0.1", 0, example.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def browser(tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail("this test needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path}/profile"]:
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    made.set_page_load_timeout(30)
    yield made
    made.quit()


def test_the_documents_application_in_a_browser(served, browser):
    def rows():
        return [row.text for row in browser.find_elements(By.TAG_NAME, "tr")]

    browser.get(f"{served}/init_db")
    assert browser.current_url == f"{served}/"
    assert len(rows()) == 50
    assert all("view (0)" in row for row in rows())
    browser.get(f"{served}/views/1/")
    assert rows() == []
    for count in (1, 2):
        browser.get(served)
        browser.find_elements(By.CSS_SELECTOR, "a.update")[6].click()
        assert browser.find_element(By.TAG_NAME, "b").text == str(count)
        browser.find_element(By.LINK_TEXT, "back").click()
        assert f"view ({count})" in rows()[6]
        browser.find_elements(By.CSS_SELECTOR, "a.view")[6].click()
        assert browser.find_element(By.TAG_NAME, "b").text == str(count)
        browser.get(f"{served}/views/{count}/")
        assert len(rows()) == 1
    browser.get(f"{served}/views/1/")
    assert rows() == []
    browser.get(f"{served}/views/0/")
    assert len(rows()) == 49
    timing = browser.execute_script(
        "return performance.getEntriesByType('navigation')[0].serverTiming.map(t => t.name)"
    )
    assert timing[:2] == ["db", "cache"]


def test_the_application_asks_once_and_says_so(example):
    client = example.app.test_client()
    client.get("/init_db")
    first, second = client.get("/"), client.get("/")
    assert first.data == second.data
    assert 'cache;desc="0 hits"' in first.headers["Server-Timing"]
    assert 'db;dur=0.0;desc="0 statements"' in second.headers["Server-Timing"]
    assert 'cache;desc="1 hits"' in second.headers["Server-Timing"]
    assert client.get("/9999/").status_code == 404


def test_two_binds_have_a_cache_each(tmp_path):
    class Base(DeclarativeBase):
        pass

    app = flask.Flask("two")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/one.db"
    app.config["SQLALCHEMY_BINDS"] = {"other": f"sqlite:///{tmp_path}/two.db"}
    db = SQLAlchemy(model_class=Base)
    db.init_app(app)

    class Here(CacheableMixin, db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)

    class There(CacheableMixin, db.Model):
        __bind_key__ = "other"
        query_class = query_callable(regions, FlaskCachingQuery)
        id: Mapped[int] = mapped_column(primary_key=True)

    with app.app_context():
        db.create_all()
    extension = Everfresh()
    extension.init_app(app)
    assert set(extension.caches) == {None, "other"}
    assert extension.cache is extension.caches[None]
    assert app.extensions["everfresh"] is extension
    for _ in range(2):
        with app.app_context():
            assert Here.cache.get(1) is None
            assert There.cache.get(1) is None
    with app.app_context():
        db.session.add_all([Here(id=1), There(id=1)])
        db.session.commit()
    for _ in range(2):
        with app.app_context():
            assert Here.cache.get(1).id == There.cache.get(1).id == 1
            found = There.query.options(FromCache()).paginate(page=1, per_page=5)
            assert [one.id for one in found.items] == [1]
    assert all(cache.stats().hits for cache in extension.caches.values())
    extension.close()
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def test_an_application_without_a_database_says_what_to_do():
    with pytest.raises(ConfigurationError, match="SQLAlchemy"):
        Everfresh(flask.Flask("none"))
