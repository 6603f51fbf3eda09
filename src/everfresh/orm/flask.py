"""The ORM cache in Flask: one line beside Flask-SQLAlchemy's own.

::

    db = SQLAlchemy(app)
    everfresh = Everfresh(app, db)
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from everfresh.connect.engines import DIALECTS
from everfresh.engine.cache import Cache
from everfresh.engine.opening import open as open_cache
from everfresh.engine.reading import Questions, asked
from everfresh.errors import ConfigurationError, MissingExtraError
from everfresh.orm.query import CachingQuery
from everfresh.orm.timing import server_timing
from everfresh.orm.transparent import install

try:
    from flask import g
    from flask_sqlalchemy.query import Query as FlaskQuery
except ImportError as error:
    raise MissingExtraError("flask", "everfresh.orm.flask") from error

if TYPE_CHECKING:
    from flask import Flask, Response
    from flask_sqlalchemy import SQLAlchemy

__all__ = ["Everfresh", "FlaskCachingQuery"]


class FlaskCachingQuery(CachingQuery, FlaskQuery):
    """A `CachingQuery` with Flask-SQLAlchemy's ``get_or_404``, ``first_or_404``, ``paginate``."""


class Everfresh:
    """Answer an application's SELECTs from memory until a commit changes their rows.

    ``app.config["EVERFRESH"]`` holds the settings of `everfresh.open` and the options of
    `everfresh.orm.install`; with ``"server_timing": True`` responses tell what they asked.
    ``caches`` has the cache of each bind, ``cache`` that of the default one. Engines of databases
    other than SQLite and PostgreSQL are left alone.
    """

    def __init__(self, app: Flask | None = None, db: SQLAlchemy | None = None) -> None:
        self.caches: dict[str | None, Cache] = {}
        if app is not None:
            self.init_app(app, db)

    def init_app(self, app: Flask, db: SQLAlchemy | None = None) -> None:
        """Open a cache for each engine of this application."""
        db = db or app.extensions.get("sqlalchemy")
        if db is None:
            raise ConfigurationError(
                "Everfresh(app, db) needs Flask-SQLAlchemy: call SQLAlchemy(app) first"
            )
        settings = dict(app.config.get("EVERFRESH", {}))
        timing = settings.pop("server_timing", False)
        names = ("everything", "max_age", "row_limit")
        options = {name: settings.pop(name) for name in names if name in settings}
        with app.app_context():
            for name, engine in db.engines.items():
                if engine.dialect.name in DIALECTS:
                    self.caches[name] = open_cache(engine, **settings)
                    install(self.caches[name], engine, **options)
        app.extensions["everfresh"] = self
        if timing:
            _time(app)

    @property
    def cache(self) -> Cache:
        """The cache of the default bind."""
        return self.caches[None]

    def close(self) -> None:
        """Close every cache."""
        while self.caches:
            self.caches.popitem()[1].close()


def _time(app: Flask) -> None:
    @app.before_request
    def begin() -> None:
        stack = ExitStack()
        g.everfresh_questions = stack.enter_context(asked())
        g.everfresh_end = stack.close

    @app.after_request
    def tell(response: Response) -> Response:
        questions: Questions | None = g.get("everfresh_questions")
        if questions is not None:
            response.headers.add("Server-Timing", server_timing(questions))
        return response

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        close: Any = g.pop("everfresh_end", None)
        if close is not None:
            close()
