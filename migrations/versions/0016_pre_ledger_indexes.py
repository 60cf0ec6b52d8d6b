"""The ledger without two wide indexes: who used what is read from its sums, and a day's rows lie together anyway. IO."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("usage_records_organization_finished_at_idx", "usage_records")
    op.drop_index("usage_records_finished_at_idx", "usage_records")
    op.create_index(
        "usage_records_finished_at_idx", "usage_records", ["finished_at"], postgresql_using="brin"
    )


def downgrade() -> None:
    op.drop_index("usage_records_finished_at_idx", "usage_records")
    op.create_index("usage_records_finished_at_idx", "usage_records", ["finished_at"])
    op.create_index(
        "usage_records_organization_finished_at_idx", "usage_records", ["organization", "finished_at"]
    )
