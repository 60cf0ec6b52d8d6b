"""The one `MetaData` and the registry's tables; `router.tables` adds the queue's. Pure declarations.

Each table has one writing module: `store` the catalogue and its history, `keys` the keys, `usage` the ledger,
`rollups` its sums.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
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
    SmallInteger,
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
TRANSACTION = text("((pg_current_xact_id())::text)::bigint")


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
    Column("digest", Text, index=True),  # this and the next are known once it is validated
    Column("architecture", Text, index=True),
    Column("pipeline_class", Text),
    Column("source", JSONB, nullable=False),
    Column("assets", JSONB),
    Column("state", Text, nullable=False, server_default="draft"),
    Column("report", JSONB),  # what validation is doing, or found
    Column("created_by", Text),  # a key's id
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
    _time("created_at"),
)

adapter_releases = Table(
    "adapter_releases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("adapter", ForeignKey("adapters.slug", ondelete="CASCADE"), nullable=False, index=True),
    Column("shares", JSONB, nullable=False),
    Column("window", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    _time("created_at"),
    _time("withdrawn_at", nullable=True),
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
    _time("fetched_at"),
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
    _time("created_at"),
    Index("writes_created_at_idx", "created_at"),
)

uploads = Table(
    "uploads",  # bytes lie in files beside the database; how much of each arrived is the file's length
    metadata,
    Column("id", Text, primary_key=True),
    Column("organization", ForeignKey("organizations.name"), nullable=False, index=True),
    Column("files", JSONB, nullable=False),  # announced: path, size_bytes, sha256
    _time("created_at"),
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
    Column("reused", Boolean, nullable=False, server_default=text("false")),
    Index("usage_records_organization_finished_at_idx", "organization", "finished_at"),
    Index("usage_records_slug_finished_at_idx", "slug", "finished_at"),
    Column("txid", BigInteger, server_default=TRANSACTION),  # who wrote the row; `rollups` folds by it
    Index("usage_records_finished_at_idx", "finished_at"),
    Index("usage_records_txid_idx", "txid", postgresql_using="brin"),
    postgresql_partition_by="RANGE (request_id)",
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


def _rollup(name: str, *keys: Column[Any]) -> Table:
    """Sums of the ledger in whole numbers, so that folding piece by piece and all at once agree to the row."""
    measures = [Column(measure, BigInteger, nullable=False) for measure in MEASURES]
    return Table(name, metadata, *keys, *measures, Column("amount", Numeric, nullable=False))


def _dimensions() -> tuple[Column[Any], ...]:
    texts = [Column(name, Text, primary_key=True) for name in ("slug", "organization", "version", "pool")]
    return (
        *texts,
        Column("adapters", ARRAY(Text), primary_key=True),
        Column("currency", Text, primary_key=True),
    )


usage_hours = _rollup(
    "usage_hours", Column("hour", DateTime(timezone=True), primary_key=True), *_dimensions()
)
usage_days = _rollup("usage_days", Column("day", Date, primary_key=True), *_dimensions())
scope_days = _rollup(  # `scope` is empty for everything, `s:` and a slug, or `o:` and an organization
    "scope_days", Column("scope", Text, primary_key=True), Column("day", Date, primary_key=True)
)
customer_months = Table(  # what each customer used: a year of it is read at once
    "customer_months",
    metadata,
    Column("month", Date, primary_key=True),  # its first day
    Column("organization", Text, primary_key=True),
    Column("slug", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("amount", Numeric, nullable=False),
)
Index("usage_hours_slug_hour_idx", usage_hours.c.slug, usage_hours.c.hour)
Index("usage_days_slug_day_idx", usage_days.c.slug, usage_days.c.day)
Index("usage_days_organization_day_idx", usage_days.c.organization, usage_days.c.day)
Index("scope_days_day_idx", scope_days.c.day)

latency_days = Table(  # how many succeeded requests fell into which bucket of seconds
    "latency_days",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("kind", Text, primary_key=True),  # wait, load, run
    Column("day", Date, primary_key=True),
    Column("bucket", SmallInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
)

rollup_state = Table(
    "rollup_state",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("folded_below", BigInteger, nullable=False),  # every ledger row of an older transaction is folded
    Column(
        "recent_below", BigInteger, nullable=False
    ),  # the same for rows whose id is `recent_from` or later
    Column("recent_from", Uuid, nullable=False),
    _time("folded_at"),
    CheckConstraint("one", name="one"),
)
