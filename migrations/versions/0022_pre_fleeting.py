"""Requests whose callers want nothing kept, and the way from a result's key to the requests that share it. IO.

What was said of 0021's index holds for this one too, but it has only the requests whose results may be used again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("fleeting", sa.Column("request_id", sa.Uuid(), primary_key=True))
    op.create_index(
        "requests_result_key_idx",
        "requests",
        ["result_key"],
        postgresql_where=sa.text("result_key IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("requests_result_key_idx", "requests")
    op.drop_table("fleeting")
