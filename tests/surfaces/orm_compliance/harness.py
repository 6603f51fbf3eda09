"""Run SQLAlchemy's own dialect compliance suite, with everfresh on every engine it makes.

``EVERFRESH_COMPLIANCE`` is ``off`` (SQLAlchemy alone), ``on``, or ``twice``: then each answer that
was kept is given once more from memory, so that hits are what is tested. It is the conftest of a
folder that `test_orm_compliance.py` makes.
"""

import atexit
import contextlib
import os

import pytest
import sqlalchemy

MODE = os.environ.get("EVERFRESH_COMPLIANCE", "off")
counts = {"hits": 0, "caches": 0}
caches, opening = {}, []
make = sqlalchemy.create_engine


def create_engine(*args, **kwargs):
    """Make an engine that is followed; the suite deletes SQLite files when it disposes of one."""
    engine = make(*args, **kwargs)
    if MODE != "off" and engine.dialect.name in ("sqlite", "postgresql"):
        follow(engine)
        sqlalchemy.event.listen(engine, "engine_disposed", unfollow)
        sqlalchemy.event.listen(engine, "engine_connect", lambda connection: follow(engine))
    return engine


def follow(engine):
    if not opening and cache_of(engine) is None:
        opening.append(engine)
        with contextlib.suppress(everfresh.errors.ConfigurationError):  # one thread's memory
            caches[id(engine)] = everfresh.open(engine)
            everfresh.orm.install(caches[id(engine)], engine)
            counts["caches"] += 1
        opening.clear()


def unfollow(engine):
    cache = caches.pop(id(engine), None)
    if cache is not None:
        cache.close()


if MODE != "off":
    import everfresh.errors
    import everfresh.orm
    from everfresh.engine.attaching import cache_of
    from everfresh.engine.executions import Executions

    sqlalchemy.create_engine = create_engine
    answer = Executions.answer

    def twice(self, run, cursor, text, parameters, context):
        counters = self.board.counters
        before = counters.fills + counters.refreshes
        answer(self, run, cursor, text, parameters, context)
        kept = counters.fills + counters.refreshes > before
        if kept and "stream_results" not in context.execution_options:
            again = []
            answer(self, lambda: again.append(1), cursor, text, parameters, context)
            assert not again, text
            counts["hits"] += 1

    if MODE == "twice":
        Executions.answer = twice


@atexit.register
def tell():
    if MODE != "off":
        print(f"\neverfresh: {counts['caches']} caches, {counts['hits']} second answers")


pytest.register_assert_rewrite("sqlalchemy.testing.assertions")
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: E402, F403
