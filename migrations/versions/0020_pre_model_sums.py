"""Sums that a model's page and the movers read: by variant and month, by LoRA and month, by version and day. IO.

Readers are not touched. The tables are empty until the first fold of this release, which fills them from `usage_days`
(about 15 seconds at 20 million ledger rows) because `complete_at` is; a gateway of the release before folds past them, and the
next whole fold takes in what they miss.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "variant_months",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("month", "slug", name="variant_months_pkey"),
    )
    op.create_table(
        "adapter_months",
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slug", "month", "adapter", name="adapter_months_pkey"),
    )
    op.create_table(
        "version_days",
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slug", "day", "version", name="version_days_pkey"),
    )
    op.create_index(
        "customer_months_slug_month_idx",
        "customer_months",
        ["slug", "month"],
        postgresql_include=["organization", "requests", "amount"],
    )
    op.add_column("rollup_state", sa.Column("complete_at", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("rollup_state", "complete_at")
    op.drop_index("customer_months_slug_month_idx", "customer_months")
    for table in ("version_days", "adapter_months", "variant_months"):
        op.drop_table(table)
