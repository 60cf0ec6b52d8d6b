"""Results that are used again: the store, the requests' keys, the mark in the ledger. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "results",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="results_pkey"),
    )
    op.create_index("results_used_at_idx", "results", ["used_at"])
    op.add_column("requests", sa.Column("result_key", sa.Text()))
    op.add_column(
        "usage_records", sa.Column("reused", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("usage_records", "reused")
    op.drop_column("requests", "result_key")
    op.drop_table("results")
