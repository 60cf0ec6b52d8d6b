"""Drafts, answers by Idempotency-Key, uploads. IO."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KNOWN_ONCE_VALIDATED = ("digest", "architecture", "pipeline_class", "assets")
NOW = sa.text("now()")


def upgrade() -> None:
    for name in KNOWN_ONCE_VALIDATED:
        op.alter_column("versions", name, nullable=True)
    op.add_column("versions", sa.Column("created_by", sa.Text()))
    op.create_table(
        "writes",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("body", JSONB()),
        sa.Column("etag", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("organization", "key", name="writes_pkey"),
    )
    op.create_index("writes_created_at_idx", "writes", ["created_at"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("files", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="uploads_pkey"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.name"], name="uploads_organization_fkey"),
    )
    op.create_index("uploads_organization_idx", "uploads", ["organization"])


def downgrade() -> None:
    """Drafts go: the schema before cannot hold them, and nobody can call them."""
    op.drop_table("uploads")
    op.drop_table("writes")
    op.drop_column("versions", "created_by")
    op.execute("DELETE FROM versions WHERE digest IS NULL")
    for name in KNOWN_ONCE_VALIDATED:
        op.alter_column("versions", name, nullable=False)
