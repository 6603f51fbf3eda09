"""The suite itself; see conftest.py."""

from sqlalchemy.testing.suite import *  # noqa: F403
