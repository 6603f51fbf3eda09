"""What the tests of PostgreSQL's feeds share; each brings ``other``, its foreign connection."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine

Run = Callable[..., None]


@pytest.fixture
def dsn(postgres_url: str) -> str:
    return postgres_url.replace("+psycopg", "")


@pytest.fixture
def run(other: psycopg.Connection[Any]) -> Run:
    def run(*statements: str) -> None:
        for statement in statements:
            other.execute(statement)  # type: ignore[call-overload]

    return run


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()
