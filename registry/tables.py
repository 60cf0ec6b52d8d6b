"""The one `MetaData` and the registry's tables; `router.tables` adds the queue's. Pure declarations.

Each table has one writing module: `store` the catalogue and its history, `keys` the keys. The ledger's tables are in
`ledger_tables`.
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
    Table,
    Text,
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


def time(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=None if nullable else NOW)


organizations = Table(
    "organizations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("title", Text),
    time("created_at"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organization", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("hash", LargeBinary, nullable=False, unique=True),  # sha256 of the whole token
    Column("scopes", ARRAY(Text), nullable=False),
    Column("title", Text),
    time("created_at"),
    time("revoked_at", nullable=True),
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
    time("created_at"),
    time("updated_at"),
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
    Column("tags", ARRAY(Text, dimensions=1), nullable=False, server_default=NO_TEXTS),
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
    time("created_at"),
    time("updated_at"),
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
    time("created_at"),
)

versions = Table(
    "versions",
    metadata,
    Column("variant", ForeignKey("variants.slug", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", Text, index=True),  # this and the next are known once it is validated
    Column("architecture", Text, index=True),
    Column("pipeline_class", Text),
    Column("source", JSONB, nullable=False),
    Column("assets", JSONB),
    Column("state", Text, nullable=False, server_default="draft"),
    Column("report", JSONB),  # what validation is doing, or found
    Column("created_by", Text),  # a key's id
    Column("revision", Integer, nullable=False, server_default="1"),
    time("created_at"),
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
    time("created_at"),
    time("withdrawn_at", nullable=True),
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
    time("created_at"),
    time("updated_at"),
    CheckConstraint("managed_by IN ('catalog', 'lab')", name="managed_by"),
)

adapter_versions = Table(
    "adapter_versions",
    metadata,
    Column("adapter", ForeignKey("adapters.slug", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", Text, index=True),  # this and the manifest are known once it is validated
    Column("manifest", JSONB),
    Column("source", JSONB, nullable=False),
    Column("weight_name", Text),
    Column("state", Text, nullable=False, server_default="draft"),
    Column("report", JSONB),
    Column("created_by", Text),
    Column("revision", Integer, nullable=False, server_default="1"),
    time("created_at"),
)

adapter_releases = Table(
    "adapter_releases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("adapter", ForeignKey("adapters.slug", ondelete="CASCADE"), nullable=False, index=True),
    Column("shares", JSONB, nullable=False),
    Column("window", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    time("created_at"),
    time("withdrawn_at", nullable=True),
)

brought_adapters = Table(
    "brought_adapters",  # LoRAs that customers brought by address; each is its organization's own
    metadata,
    Column("organization", ForeignKey("organizations.name"), primary_key=True),
    Column("path", Text, primary_key=True),  # as the customer writes it: an address, or a repository
    Column("weight_name", Text, primary_key=True),  # empty: the repository holds only one
    Column("architecture", Text, primary_key=True),
    Column("digest", Text, nullable=False, index=True),
    Column("manifest", JSONB, nullable=False),
    time("fetched_at"),
)

writes = Table(
    "writes",  # answers by Idempotency-Key, so that a repeated request is answered and not repeated
    metadata,
    Column("organization", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),  # digest of method, address and body
    Column("status", Integer),
    Column("body", JSONB),
    Column("etag", Text),
    time("created_at"),
    Index("writes_created_at_idx", "created_at"),
)

uploads = Table(
    "uploads",  # bytes lie in files beside the database; how much of each arrived is the file's length
    metadata,
    Column("id", Text, primary_key=True),
    Column("organization", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("files", JSONB, nullable=False),  # announced: path, size_bytes, sha256
    time("created_at"),
)

changes = Table(
    "changes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    time("at"),
    Column("actor", Text, nullable=False),  # a key's id, or `catalog`
    Column("kind", Text, nullable=False),  # organization, model, variant, version, release, adapter, key
    Column("subject", Text, nullable=False),
    Column("owner", Text),
    Column("before", JSONB),
    Column("after", JSONB),
    Index("changes_kind_subject_idx", "kind", "subject"),
    Index("changes_at_idx", "at"),
)
