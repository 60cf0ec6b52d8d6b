"""The catalogue, its history, keys and the usage ledger. IO."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# History is append-only by the database's own refusal, not by habit. Each change wakes the listeners at commit.
HISTORY = """
CREATE FUNCTION refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER changes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON changes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite();
CREATE FUNCTION tell_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('catalog', '');
    RETURN NULL;
END $$;
CREATE TRIGGER changes_tell AFTER INSERT ON changes FOR EACH STATEMENT EXECUTE FUNCTION tell_change();
"""
# Takes what no day's partition covers, so that a missing partition costs speed and never a record.
LEDGER = "CREATE TABLE usage_records_default PARTITION OF usage_records DEFAULT"


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("before", JSONB(), nullable=True),
        sa.Column("after", JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="changes_pkey"),
    )
    op.create_index("changes_at_idx", "changes", ["at"], unique=False)
    op.create_index("changes_kind_subject_idx", "changes", ["kind", "subject"], unique=False)
    op.create_table(
        "components",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("library", sa.Text(), nullable=False),
        sa.Column("class_name", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="components_pkey"),
    )
    op.create_table(
        "organizations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="organizations_pkey"),
    )
    op.create_table(
        "usage_records",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("adapters", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wait_seconds", sa.Float(), nullable=False),
        sa.Column("load_seconds", sa.Float(), nullable=False),
        sa.Column("run_seconds", sa.Float(), nullable=False),
        sa.Column("images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("megapixels", sa.Float(), server_default="0", nullable=False),
        sa.Column("video_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.Column("units", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("amount", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name="usage_records_pkey"),
        postgresql_partition_by="RANGE (request_id)",
    )
    op.create_index("usage_records_finished_at_idx", "usage_records", ["finished_at"], unique=False)
    op.create_index(
        "usage_records_organization_finished_at_idx",
        "usage_records",
        ["organization", "finished_at"],
        unique=False,
    )
    op.create_index(
        "usage_records_slug_finished_at_idx", "usage_records", ["slug", "finished_at"], unique=False
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["organization"], ["organizations.name"], name="keys_organization_fkey"),
        sa.PrimaryKeyConstraint("id", name="keys_pkey"),
        sa.UniqueConstraint("hash", name="keys_hash_key"),
    )
    op.create_index("keys_organization_idx", "keys", ["organization"], unique=False)
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("managed_by", sa.Text(), server_default="lab", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("managed_by IN ('catalog', 'lab')", name="models_managed_by_check"),
        sa.ForeignKeyConstraint(["owner"], ["organizations.name"], name="models_owner_fkey"),
        sa.PrimaryKeyConstraint("name", name="models_pkey"),
    )
    op.create_index("models_owner_idx", "models", ["owner"], unique=False)
    op.create_table(
        "variants",
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("input_schema", JSONB(), nullable=False),
        sa.Column("price", JSONB(), nullable=True),
        sa.Column("partner", JSONB(), nullable=True),
        sa.Column("source", JSONB(), nullable=True),
        sa.Column("pipeline_class", sa.Text(), nullable=True),
        sa.Column("provenance", sa.Text(), nullable=True),
        sa.Column("defaults", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("managed_by", sa.Text(), server_default="lab", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("managed_by IN ('catalog', 'lab')", name="variants_managed_by_check"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="variants_model_fkey"),
        sa.ForeignKeyConstraint(["owner"], ["organizations.name"], name="variants_owner_fkey"),
        sa.PrimaryKeyConstraint("slug", name="variants_pkey"),
    )
    op.create_index("variants_model_idx", "variants", ["model"], unique=False)
    op.create_index("variants_owner_idx", "variants", ["owner"], unique=False)
    op.create_table(
        "adapters",
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("manifest", JSONB(), nullable=True),
        sa.Column("source", JSONB(), nullable=False),
        sa.Column("weight_name", sa.Text(), nullable=True),
        sa.Column(
            "trigger_words", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False
        ),
        sa.Column("recommended_scale", sa.Float(), server_default="1", nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("provenance", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("managed_by", sa.Text(), server_default="lab", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("managed_by IN ('catalog', 'lab')", name="adapters_managed_by_check"),
        sa.ForeignKeyConstraint(["base"], ["variants.slug"], name="adapters_base_fkey"),
        sa.ForeignKeyConstraint(["owner"], ["organizations.name"], name="adapters_owner_fkey"),
        sa.PrimaryKeyConstraint("slug", name="adapters_pkey"),
    )
    op.create_index("adapters_base_idx", "adapters", ["base"], unique=False)
    op.create_index("adapters_digest_idx", "adapters", ["digest"], unique=False)
    op.create_index("adapters_owner_idx", "adapters", ["owner"], unique=False)
    op.create_table(
        "releases",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("shares", JSONB(), nullable=False),
        sa.Column("window", JSONB(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["variant"], ["variants.slug"], name="releases_variant_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="releases_pkey"),
    )
    op.create_index("releases_variant_idx", "releases", ["variant"], unique=False)
    op.create_table(
        "versions",
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("pipeline_class", sa.Text(), nullable=False),
        sa.Column("source", JSONB(), nullable=False),
        sa.Column("assets", JSONB(), nullable=False),
        sa.Column("state", sa.Text(), server_default="draft", nullable=False),
        sa.Column("report", JSONB(), nullable=True),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["variant"], ["variants.slug"], name="versions_variant_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("variant", "number", name="versions_pkey"),
    )
    op.create_index("versions_architecture_idx", "versions", ["architecture"], unique=False)
    op.create_index("versions_digest_idx", "versions", ["digest"], unique=False)
    op.create_table(
        "version_components",
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("files", JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["component"], ["components.digest"], name="version_components_component_fkey"
        ),
        sa.ForeignKeyConstraint(
            ["variant", "number"],
            ["versions.variant", "versions.number"],
            name="version_components_variant_fkey",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("variant", "number", "name", name="version_components_pkey"),
    )
    op.create_index("version_components_component_idx", "version_components", ["component"], unique=False)
    op.execute(HISTORY)
    op.execute(LEDGER)


def downgrade() -> None:
    op.drop_table("version_components")
    op.drop_table("versions")
    op.drop_table("releases")
    op.drop_table("adapters")
    op.drop_table("variants")
    op.drop_table("models")
    op.drop_table("keys")
    op.drop_table("usage_records")
    op.drop_table("organizations")
    op.drop_table("components")
    op.drop_table("changes")
    op.execute("DROP FUNCTION refuse_rewrite(), tell_change()")
