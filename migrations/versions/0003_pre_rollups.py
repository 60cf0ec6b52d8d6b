"""The ledger's sums by hour and day, latency buckets, and the transaction that wrote each ledger row. IO."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Two steps, so that no ledger is rewritten: rows from before stay without, and the first fold takes them all.
TRANSACTION_COLUMN = (
    "ALTER TABLE usage_records ADD COLUMN txid bigint",
    "ALTER TABLE usage_records ALTER COLUMN txid SET DEFAULT ((pg_current_xact_id())::text)::bigint",
)
MEASURES = (
    "requests",
    "succeeded",
    "failed",
    "cancelled",
    "wait_ms",
    "load_ms",
    "run_ms",
    "images",
    "pixels",
    "video_ms",
)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _rollup(name: str, *keys: sa.Column[object]) -> None:
    op.create_table(
        name,
        *keys,
        *(sa.Column(measure, sa.BigInteger(), nullable=False) for measure in MEASURES),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint(*(key.name for key in keys), name=f"{name}_pkey"),
    )


def _dimensions() -> list[sa.Column[object]]:
    return [
        *_texts("slug", "organization", "version", "pool"),
        sa.Column("adapters", sa.ARRAY(sa.Text()), nullable=False),
        *_texts("currency"),
    ]


def upgrade() -> None:
    for statement in TRANSACTION_COLUMN:
        op.execute(statement)
    op.create_index("usage_records_txid_idx", "usage_records", ["txid"], postgresql_using="brin")
    _rollup("usage_hours", sa.Column("hour", sa.DateTime(timezone=True), nullable=False), *_dimensions())
    _rollup("usage_days", sa.Column("day", sa.Date(), nullable=False), *_dimensions())
    _rollup("scope_days", *_texts("scope"), sa.Column("day", sa.Date(), nullable=False))
    op.create_index("usage_hours_slug_hour_idx", "usage_hours", ["slug", "hour"])
    op.create_index("usage_days_slug_day_idx", "usage_days", ["slug", "day"])
    op.create_index("usage_days_organization_day_idx", "usage_days", ["organization", "day"])
    op.create_index("scope_days_day_idx", "scope_days", ["day"])
    op.create_table(
        "latency_days",
        *_texts("scope", "kind"),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "kind", "day", "bucket", name="latency_days_pkey"),
    )
    op.create_table(
        "rollup_state",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("folded_below", sa.BigInteger(), nullable=False),
        sa.Column("folded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("one", name="rollup_state_one_check"),
        sa.PrimaryKeyConstraint("one", name="rollup_state_pkey"),
    )


def downgrade() -> None:
    for table in ("rollup_state", "latency_days", "scope_days", "usage_days", "usage_hours"):
        op.drop_table(table)
    op.drop_index("usage_records_txid_idx", "usage_records")
    op.drop_column("usage_records", "txid")
