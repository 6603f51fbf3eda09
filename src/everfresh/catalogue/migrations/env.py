"""What Alembic runs; the connection comes from `catalogue.database`."""

from alembic import context

from everfresh.catalogue.models import Base
from everfresh.catalogue.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
