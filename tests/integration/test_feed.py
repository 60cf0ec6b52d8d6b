"""A change is heard within moments; a lost connection is followed by a resync."""

import asyncio

import psycopg

from registry import feed, keys
from registry.database import Database


async def test_changes_are_heard_and_a_lost_connection_resyncs(db: Database, dsn: str) -> None:
    notices = feed.listen(dsn)
    assert await asyncio.wait_for(anext(notices), 5) == "resync"
    await keys.create(db, "acme", ["run"])
    assert await asyncio.wait_for(anext(notices), 5) == "changed"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query ILIKE 'LISTEN%%'"
        )
    assert await asyncio.wait_for(anext(notices), 5) == "resync"
    await notices.aclose()


async def test_a_burst_is_heard_as_one_set_of_what_it_named(dsn: str) -> None:
    heard = feed.hear(dsn, ("ended",))
    assert await asyncio.wait_for(anext(heard), 5) is None
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("SELECT pg_notify('ended', x) FROM unnest(ARRAY['one', 'two']) x")
    assert await asyncio.wait_for(anext(heard), 5) == {"one", "two"}
    await heard.aclose()
