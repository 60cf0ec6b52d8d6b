"""Alembic's environment: one advisory lock, lock and statement timeouts, one transaction per step. IO.

A step that cannot get its table lock gives up instead of queueing every customer behind it; repeat it later.
"""

import sqlalchemy
from alembic import context

from registry import ledger_tables as _ledger_tables  # noqa: F401  adds the ledger to the metadata
from registry.tables import metadata
from router import tables as _queue_tables  # noqa: F401  adds the queue to the metadata

LOCK_KEY = 0x6D617271756565  # "marquee"
WAIT_SECONDS = 120  # for another process that is migrating
LOCK_SECONDS = 5
STATEMENT_SECONDS = 300


def run() -> None:
    engine: sqlalchemy.Engine = context.config.attributes["engine"]
    with engine.connect() as connection:
        _execute(connection, f"SET statement_timeout = '{WAIT_SECONDS}s'")
        _execute(connection, f"SELECT pg_advisory_lock({LOCK_KEY})")
        try:
            _execute(connection, f"SET lock_timeout = '{LOCK_SECONDS}s'")
            _execute(connection, f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
            context.configure(
                connection=connection,
                target_metadata=metadata,
                transaction_per_migration=True,
                compare_server_default=True,
            )
            with context.begin_transaction():
                context.run_migrations()
        finally:
            connection.rollback()
            _execute(connection, f"SELECT pg_advisory_unlock({LOCK_KEY})")


def _execute(connection: sqlalchemy.Connection, statement: str) -> None:
    """In its own transaction: a session-level lock or setting must not ride on a migration's."""
    connection.execute(sqlalchemy.text(statement))
    connection.commit()


run()
