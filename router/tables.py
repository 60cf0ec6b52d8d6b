"""The queue's tables, added to the one `MetaData`. `queue` alone writes requests and attempts, `webhooks` the webhooks,
`limits` the quotas, `foresight` the memory, `results` the results, `repeats` the callers' own names. Pure.

Requests and attempts are partitioned by ranges of the request's UUIDv7, a day each: old days are dropped whole, and an id names
its partition. `taken` says that a dispatcher has the row in memory, so that others do not take it up.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)

from registry.tables import metadata

requests = Table(
    "requests",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("adapters", JSON, nullable=False),
    Column("input", JSON, nullable=False),
    Column("pool", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("door", Text, nullable=False),
    Column("webhook_url", Text),
    Column("origin", Text, nullable=False),
    Column("taken", Boolean, nullable=False, server_default=text("false")),
    Column("state", Text, nullable=False, server_default=text("'queued'")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("host_faults", Integer, nullable=False, server_default=text("0")),
    Column("host_id", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("start_deadline", DateTime(timezone=True)),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("outcome", JSON),
    Column("traceparent", Text),
    Column("result_key", Text),  # its outcome may be used again under it
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
    Index(
        "requests_lines_idx",
        "pool",
        "state",
        "taken",
        "organization",
        "priority",
        "id",
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
    Index(
        "requests_deadlines_idx",
        "pool",
        "start_deadline",
        postgresql_where=text("state = 'queued' AND start_deadline IS NOT NULL"),
    ),
    Index("requests_result_key_idx", "result_key", postgresql_where=text("result_key IS NOT NULL")),
    Index("requests_organization_id_idx", "organization", "id", postgresql_include=["slug", "state"]),
    postgresql_partition_by="RANGE (id)",
)

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", Uuid, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("host_id", Text, nullable=False),
    Column("assigned_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("ended", Text),
    Column("decision", JSON),
    Column("partner_request_id", Text),  # the partner's own name of it, once it has taken it
    postgresql_partition_by="RANGE (request_id)",
)

fleeting = Table(  # requests of which nothing is kept, once they have ended and were told of
    "fleeting",
    metadata,
    Column("request_id", Uuid, primary_key=True),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("request_id", Uuid, primary_key=True),
    Column("url", Text, nullable=False),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("next_at", DateTime(timezone=True)),  # None: delivered, or given up
    Column("delivered_at", DateTime(timezone=True)),
    Column("last_error", Text),
    Index("webhooks_next_at_idx", "next_at", postgresql_where=text("next_at IS NOT NULL")),
)

quotas = Table(
    "quotas",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("tokens", Float, nullable=False),  # calls that may be made at once, as of `at`
    Column("at", DateTime(timezone=True), nullable=False),
)

dispatcher_memory = Table(
    "dispatcher_memory",
    metadata,
    Column("pool", Text, primary_key=True),
    Column("saved_at", DateTime(timezone=True), nullable=False),
    Column("content", JSON, nullable=False),
)

results = Table(
    "results",
    metadata,
    Column("key", Text, primary_key=True),
    Column("outcome", JSON, nullable=False),
    Column("used_at", DateTime(timezone=True), nullable=False, index=True),
)

repeats = Table(
    "repeats",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("key", Text, primary_key=True),  # the caller's `Idempotency-Key`
    Column("asked", Text, nullable=False),  # digest of slug and input
    Column("request_id", Uuid, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()"), index=True),
)
