"""What the suite may ask of the databases of the tests."""

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements


class Requirements(SuiteRequirements):
    """The suite's own, but no second schema: on SQLite that would be an attached file."""

    @property
    def schemas(self):
        return exclusions.closed()
