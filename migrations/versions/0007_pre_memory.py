"""What a dispatcher remembers over a restart: demand and learned run times. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dispatcher_memory",
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("pool", name="dispatcher_memory_pkey"),
    )


def downgrade() -> None:
    op.drop_table("dispatcher_memory")
