"""A request remembers the trace that it belongs to. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("traceparent", sa.Text()))


def downgrade() -> None:
    op.drop_column("requests", "traceparent")
