"""Waiting requests by their deadline to start: those that missed it are found whatever else waits. IO.

An index of a partitioned table cannot be made concurrently; this one holds only what waits with a deadline.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("state = 'queued' AND start_deadline IS NOT NULL")
    op.create_index("requests_deadlines_idx", "requests", ["pool", "start_deadline"], postgresql_where=where)


def downgrade() -> None:
    op.drop_index("requests_deadlines_idx", "requests")
