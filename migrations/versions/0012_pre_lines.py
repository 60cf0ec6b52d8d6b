"""Waiting requests by line: each organization's oldest can be found whatever the others have waiting. IO.

An index of a partitioned table cannot be made concurrently; this one holds only what waits and runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
OPEN = sa.text("state IN ('queued', 'running')")


def upgrade() -> None:
    columns = ["pool", "state", "taken", "organization", "priority", "id"]
    op.create_index("requests_lines_idx", "requests", columns, postgresql_where=OPEN)
    op.drop_index("requests_open_idx", "requests")


def downgrade() -> None:
    op.create_index("requests_open_idx", "requests", ["pool", "state", "taken", "id"], postgresql_where=OPEN)
    op.drop_index("requests_lines_idx", "requests")
