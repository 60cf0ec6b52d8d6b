"""The usage ledger, which `usage` alone writes, and its sums, which `rollups` alone writes. Pure declarations."""

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
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from registry.tables import NO_TEXTS, metadata, time

TRANSACTION = text("((pg_current_xact_id())::text)::bigint")

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
    Index("usage_records_slug_finished_at_idx", "slug", "finished_at"),
    Column("txid", BigInteger, server_default=TRANSACTION),  # who wrote the row; `rollups` folds by it
    Index("usage_records_finished_at_idx", "finished_at", postgresql_using="brin"),
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
BY_SLUG, BY_ORGANIZATION = "s:", "o:"
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
organization_months = Table(  # the same over all models
    "organization_months",
    metadata,
    Column("month", Date, primary_key=True),
    Column("organization", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("amount", Numeric, nullable=False),
)
variant_months = Table(  # and over all customers
    "variant_months",
    metadata,
    Column("month", Date, primary_key=True),
    Column("slug", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("amount", Numeric, nullable=False),
)
adapter_months = Table(  # which LoRAs each variant was called with; a call with two counts for both
    "adapter_months",
    metadata,
    Column("slug", Text, primary_key=True),
    Column("month", Date, primary_key=True),
    Column("adapter", Text, primary_key=True),  # digest
    Column("requests", BigInteger, nullable=False),
)
version_days = Table(  # which version of each variant answered
    "version_days",
    metadata,
    Column("slug", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("version", Text, primary_key=True),  # digest
    Column("requests", BigInteger, nullable=False),
)
# What pages read of a variant or a customer lies in the index itself, in order.
Index(
    "customer_months_slug_month_idx",
    customer_months.c.slug,
    customer_months.c.month,
    postgresql_include=["organization", "requests", "amount"],
)
Index("usage_hours_slug_hour_idx", usage_hours.c.slug, usage_hours.c.hour, postgresql_include=["requests"])
Index(
    "usage_days_slug_day_idx",
    usage_days.c.slug,
    usage_days.c.day,
    postgresql_include=["organization", "version", "adapters", "requests", "amount"],
)
Index(
    "usage_days_organization_day_idx",
    usage_days.c.organization,
    usage_days.c.day,
    postgresql_include=["slug", "requests", "failed", "wait_ms", "load_ms", "run_ms", "amount"],
)
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
    Column(
        "complete_at", BigInteger
    ),  # both summed, when every table here was known to hold all that is folded
    time("folded_at"),
    CheckConstraint("one", name="one"),
)
