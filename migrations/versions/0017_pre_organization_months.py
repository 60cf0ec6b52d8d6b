"""How much each customer used by month, all models together: the page of customers begins with it. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "organization_months",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("month", "organization", name="organization_months_pkey"),
    )
    op.execute(
        "INSERT INTO organization_months SELECT month, organization, sum(requests), sum(amount)"
        " FROM customer_months GROUP BY 1, 2"
    )


def downgrade() -> None:
    op.drop_table("organization_months")
