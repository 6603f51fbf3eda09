"""Fixtures every test may use: real servers, fresh databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everfresh.testing.servers import PostgresServer, ValkeyServer, postgres_server, valkey_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session; a failure to start fails the tests that need it."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One Valkey for the session."""
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of a database of this module's own."""
    url = postgres.fresh_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """SQLAlchemy URL of a new SQLite file."""
    return f"sqlite:///{tmp_path / 'data.db'}"
