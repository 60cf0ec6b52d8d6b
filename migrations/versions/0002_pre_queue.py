"""The durable queue: requests and attempts, a partition a day by the request's UUIDv7. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Takes what no day's partition covers, so that a missing partition costs speed and never a request.
DEFAULTS = (
    "CREATE TABLE requests_default PARTITION OF requests DEFAULT",
    "CREATE TABLE attempts_default PARTITION OF attempts DEFAULT",
)


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("adapters", sa.JSON(), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("taken", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("host_faults", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=True),
        _time("created_at", nullable=False),
        _time("start_deadline"),
        _time("started_at"),
        _time("finished_at"),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="requests_state_check"
        ),
        sa.PrimaryKeyConstraint("id", name="requests_pkey"),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index(
        "requests_open_idx",
        "requests",
        ["pool", "state", "taken", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "attempts",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=False),
        _time("assigned_at", nullable=False),
        _time("ended_at"),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("decision", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", "number", name="attempts_pkey"),
        postgresql_partition_by="RANGE (request_id)",
    )
    for statement in DEFAULTS:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("attempts")
    op.drop_table("requests")
