"""Versions and releases of adapters; LoRAs that customers bring. What catalogue files pinned becomes version 1. IO."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# The previous release goes on reading and writing `adapters` alone; its pinned bytes stay public as they were.
VERSIONS = """
INSERT INTO adapter_versions (adapter, number, digest, manifest, source, weight_name, state)
SELECT slug, version, digest, manifest, source, weight_name, 'validated' FROM adapters WHERE manifest IS NOT NULL
"""
RELEASES = """
INSERT INTO adapter_releases (adapter, shares, "window", created_by, created_at)
SELECT slug, jsonb_build_array(jsonb_build_object('version', version, 'percent', 100)),
       jsonb_build_object('public_from', to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
       'catalog', updated_at
FROM adapters WHERE manifest IS NOT NULL
"""


def upgrade() -> None:
    _create_versions()
    _create_releases()
    _create_brought()
    op.execute(VERSIONS)
    op.execute(RELEASES)


def _create_versions() -> None:
    op.create_table(
        "adapter_versions",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text()),
        sa.Column("manifest", JSONB()),
        sa.Column("source", JSONB(), nullable=False),
        sa.Column("weight_name", sa.Text()),
        sa.Column("state", sa.Text(), server_default="draft", nullable=False),
        sa.Column("report", JSONB()),
        sa.Column("created_by", sa.Text()),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter"], ["adapters.slug"], name="adapter_versions_adapter_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("adapter", "number", name="adapter_versions_pkey"),
    )
    op.create_index("adapter_versions_digest_idx", "adapter_versions", ["digest"])


def _create_releases() -> None:
    op.create_table(
        "adapter_releases",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("shares", JSONB(), nullable=False),
        sa.Column("window", JSONB(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["adapter"], ["adapters.slug"], name="adapter_releases_adapter_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="adapter_releases_pkey"),
    )
    op.create_index("adapter_releases_adapter_idx", "adapter_releases", ["adapter"])


def _create_brought() -> None:
    op.create_table(
        "brought_adapters",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("weight_name", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("manifest", JSONB(), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization"], ["organizations.name"], name="brought_adapters_organization_fkey"
        ),
        sa.PrimaryKeyConstraint(
            "organization", "path", "weight_name", "architecture", name="brought_adapters_pkey"
        ),
    )
    op.create_index("brought_adapters_digest_idx", "brought_adapters", ["digest"])


def downgrade() -> None:
    op.drop_table("brought_adapters")
    op.drop_table("adapter_releases")
    op.drop_table("adapter_versions")
