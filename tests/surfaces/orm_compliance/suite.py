"""The suite itself; see harness.py."""

from sqlalchemy.testing.suite import *  # noqa: F403
