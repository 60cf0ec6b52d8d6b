"""The one `MetaData` and the registry's tables; `router.tables` adds the queue's. Pure declarations.

Each table has one writing module: `store` the catalogue and its history, `keys` the keys, `usage` the ledger.
"""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

NOW = text("now()")
NO_TEXTS = text("'{}'::text[]")
NO_FIELDS = text("'{}'::jsonb")


def _time(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=None if nullable else NOW)


organizations = Table(
    "organizations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("title", Text),
    _time("created_at"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organization", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("hash", LargeBinary, nullable=False, unique=True),  # sha256 of the whole token
    Column("scopes", ARRAY(Text), nullable=False),
    Column("title", Text),
    _time("created_at"),
    _time("revoked_at", nullable=True),
)

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("title", Text),
    Column("description", Text),
    Column("licence", Text),
    Column("managed_by", Text, nullable=False, server_default="lab"),  # `catalog`: catalog.yaml may remove it
    Column("revision", Integer, nullable=False, server_default="1"),  # counts edits; the ETag
    _time("created_at"),
    _time("updated_at"),
    CheckConstraint("managed_by IN ('catalog', 'lab')", name="managed_by"),
)

variants = Table(
    "variants",
    metadata,
    Column("slug", Text, primary_key=True),
    Column("model", ForeignKey("models.name"), nullable=False, index=True),
    Column("owner", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("task", Text, nullable=False),
    Column("name", Text),
    Column("description", Text),
    Column("tags", ARRAY(Text), nullable=False, server_default=NO_TEXTS),
    Column("licence", Text),
    Column("input_schema", JSONB, nullable=False),
    Column("price", JSONB),
    Column("partner", JSONB),
    Column("source", JSONB),
    Column("pipeline_class", Text),
    Column("provenance", Text),
    Column("defaults", JSONB, nullable=False, server_default=NO_FIELDS),
    Column("managed_by", Text, nullable=False, server_default="lab"),
    Column("revision", Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    CheckConstraint("managed_by IN ('catalog', 'lab')", name="managed_by"),
)

components = Table(
    "components",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("library", Text, nullable=False),
    Column("class_name", Text, nullable=False),
    Column("dtype", Text),
    Column("size_bytes", BigInteger, nullable=False),
    _time("created_at"),
)

versions = Table(
    "versions",
    metadata,
    Column("variant", ForeignKey("variants.slug", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", Text, nullable=False, index=True),
    Column("architecture", Text, nullable=False, index=True),
    Column("pipeline_class", Text, nullable=False),
    Column("source", JSONB, nullable=False),
    Column("assets", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="draft"),
    Column("report", JSONB),  # what validation found
    Column("revision", Integer, nullable=False, server_default="1"),
    _time("created_at"),
)

version_components = Table(
    "version_components",
    metadata,
    Column("variant", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", Text, primary_key=True),  # its role in the pipeline
    Column("position", Integer, nullable=False),
    Column("component", ForeignKey("components.digest"), nullable=False, index=True),
    Column("files", JSONB, nullable=False),  # config, weights, index: where this version's source keeps them
    ForeignKeyConstraint(["variant", "number"], ["versions.variant", "versions.number"], ondelete="CASCADE"),
)

releases = Table(
    "releases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("variant", ForeignKey("variants.slug", ondelete="CASCADE"), nullable=False, index=True),
    Column("shares", JSONB, nullable=False),
    Column("window", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    _time("created_at"),
    _time("withdrawn_at", nullable=True),
)

adapters = Table(
    "adapters",
    metadata,
    Column("slug", Text, primary_key=True),
    Column("owner", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("base", ForeignKey("variants.slug"), nullable=False, index=True),
    Column("digest", Text, index=True),
    Column("manifest", JSONB),  # None until the bytes are pinned
    Column("source", JSONB, nullable=False),
    Column("weight_name", Text),
    Column("trigger_words", ARRAY(Text), nullable=False, server_default=NO_TEXTS),
    Column("recommended_scale", Float, nullable=False, server_default="1"),
    Column("name", Text),
    Column("description", Text),
    Column("licence", Text),
    Column("provenance", Text),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("managed_by", Text, nullable=False, server_default="lab"),
    Column("revision", Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    CheckConstraint("managed_by IN ('catalog', 'lab')", name="managed_by"),
)

changes = Table(
    "changes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _time("at"),
    Column("actor", Text, nullable=False),  # a key's id, or `catalog`
    Column("kind", Text, nullable=False),  # organization, model, variant, version, release, adapter, key
    Column("subject", Text, nullable=False),
    Column("owner", Text),
    Column("before", JSONB),
    Column("after", JSONB),
    Index("changes_kind_subject_idx", "kind", "subject"),
    Index("changes_at_idx", "at"),
)

usage_records = Table(
    "usage_records",
    metadata,
    Column("request_id", Uuid, primary_key=True),  # UUIDv7; one usage record per request
    Column("organization", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("version", Text, nullable=False),  # digest
    Column("adapters", ARRAY(Text), nullable=False, server_default=NO_TEXTS),  # digests
    Column("pool", Text, nullable=False),
    Column("door", Text, nullable=False),
    Column("state", Text, nullable=False),  # succeeded, failed, cancelled
    Column("error", Text),  # the failure's name
    Column("attempt", Integer, nullable=False),
    Column("host_id", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    Column("wait_seconds", Float, nullable=False),
    Column("load_seconds", Float, nullable=False),
    Column("run_seconds", Float, nullable=False),
    Column("images", Integer, nullable=False, server_default="0"),
    Column("megapixels", Float, nullable=False, server_default="0"),
    Column("video_seconds", Float, nullable=False, server_default="0"),
    Column("unit", Text),
    Column("units", Numeric, nullable=False, server_default="0"),
    Column("amount", Numeric, nullable=False, server_default="0"),
    Column("currency", Text),
    Index("usage_records_organization_finished_at_idx", "organization", "finished_at"),
    Index("usage_records_slug_finished_at_idx", "slug", "finished_at"),
    Index("usage_records_finished_at_idx", "finished_at"),
    postgresql_partition_by="RANGE (request_id)",
)
