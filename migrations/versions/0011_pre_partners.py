"""What a partner calls an attempt of ours, so that a restart goes on asking for it instead of paying twice. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("partner_request_id", sa.Text()))


def downgrade() -> None:
    op.drop_column("attempts", "partner_request_id")
