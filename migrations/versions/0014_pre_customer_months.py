"""What each customer used, by month: the page of customers reads a year of it. IO.

Readers are not touched. It comes with 0009, after which a gateway of the release before cannot fold.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "customer_months",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("month", "organization", "slug", name="customer_months_pkey"),
    )
    op.execute(
        "INSERT INTO customer_months SELECT date_trunc('month', day)::date, organization, slug,"
        " sum(requests), sum(amount) FROM usage_days GROUP BY 1, 2, 3"
    )


def downgrade() -> None:
    op.drop_table("customer_months")
