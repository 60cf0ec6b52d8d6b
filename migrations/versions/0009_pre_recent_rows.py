"""The rollups' state tells recent ledger rows from older ones; readers are not touched. IO.

The columns have no default on purpose: a gateway of the release before cannot note a fold meanwhile, so it cannot
count a row twice. It logs that, and its pages read what the new gateways fold.
"""

import datetime as dt

import sqlalchemy as sa
from alembic import op

from registry import partitions

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollup_state", sa.Column("recent_below", sa.BigInteger()))
    op.add_column("rollup_state", sa.Column("recent_from", sa.Uuid()))
    recent_from, _ = partitions.bounds(dt.datetime.now(dt.UTC).date() - dt.timedelta(days=2))
    op.execute(f"UPDATE rollup_state SET recent_below = folded_below, recent_from = '{recent_from}'")  # noqa: S608  our own uuid
    for column in ("recent_below", "recent_from"):
        op.alter_column("rollup_state", column, nullable=False)


def downgrade() -> None:
    op.execute("TRUNCATE usage_hours, usage_days, scope_days, latency_days, rollup_state")
    for column in ("recent_below", "recent_from"):
        op.drop_column("rollup_state", column)
