"""The dashboard reads sums from the indexes alone: a variant's or a customer's year lies together there. IO.

Folding waits while the indexes are made (about ten seconds a million rows of `usage_days`); readers do not.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

COVERED = {
    ("usage_hours_slug_hour_idx", "usage_hours", "slug", "hour"): ["requests"],
    ("usage_days_slug_day_idx", "usage_days", "slug", "day"): [
        "organization",
        "version",
        "adapters",
        "requests",
        "amount",
    ],
    ("usage_days_organization_day_idx", "usage_days", "organization", "day"): [
        "slug",
        "requests",
        "failed",
        "wait_ms",
        "load_ms",
        "run_ms",
        "amount",
    ],
}
# Reading from an index alone takes pages that a vacuum has seen; by default it waits for a fifth of a table to be new.
SOON = "autovacuum_vacuum_insert_scale_factor = 0.01"


def upgrade() -> None:
    for (name, table, *columns), covered in COVERED.items():
        op.drop_index(name, table)
        op.create_index(name, table, columns, postgresql_include=covered)
    for table in ("usage_hours", "usage_days"):
        op.execute(f"ALTER TABLE {table} SET ({SOON})")


def downgrade() -> None:
    for table in ("usage_hours", "usage_days"):
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_insert_scale_factor)")
    for name, table, *columns in COVERED:
        op.drop_index(name, table)
        op.create_index(name, table, columns)
