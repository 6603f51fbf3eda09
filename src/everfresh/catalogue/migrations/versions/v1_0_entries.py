"""Kept answers, what they depend on, settings and audits."""

import sqlalchemy as sa
from alembic import op

revision = "1.0"
down_revision = None
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "entry",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("detail", sa.LargeBinary),
        sa.Column("database", sa.Text, nullable=False),
        sa.Column("filled_at", sa.Double, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text),
        sa.Column("hits", sa.BigInteger, nullable=False),
        sa.Column("fills", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("change", sa.Text),
        sa.Column("score", sa.Double),
        sa.Column("deadline", sa.Double),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_entry"),
        sa.CheckConstraint("state IN ('fresh', 'stale', 'dropped')", name=op.f("ck_entry_state")),
    )
    op.create_table(
        "dependency",
        sa.Column("id", _NUMBER, nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("table_name", sa.Text),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("parent", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_dependency"),
        sa.ForeignKeyConstraint(
            ["entry"], ["entry.key"], name="fk_dependency_entry", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_setting"),
    )
    op.create_table(
        "audit",
        sa.Column("id", _NUMBER, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("checked", sa.BigInteger, nullable=False),
        sa.Column("stale", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    for table, column in _INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column])


_INDEXES = (
    ("entry", "kind"),
    ("entry", "state"),
    ("entry", "updated_at"),
    ("dependency", "entry"),
    ("dependency", "table_name"),
    ("dependency", "parent"),
    ("audit", "at"),
)


def downgrade() -> None:
    """Drop the tables."""
    for table in ("audit", "setting", "dependency", "entry"):
        op.drop_table(table)
