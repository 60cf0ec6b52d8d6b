"""An organization's requests in order: `GET /v1/requests` reads a page of them from the index. IO.

An index of a partitioned table cannot be made concurrently, and this one holds every kept request: with a million of
them accepting waits for seconds (not measured), which submitters' patience covers; with many more, make it beforehand on
each partition, concurrently, and Postgres takes those.
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "requests_organization_id_idx",
        "requests",
        ["organization", "id"],
        postgresql_include=["slug", "state"],
    )


def downgrade() -> None:
    op.drop_index("requests_organization_id_idx", "requests")
