"""The catalogue in memory: whose clock it goes by, and when it knows what was written."""

import asyncio
from datetime import timedelta

from registry import keys, store
from registry.database import Database
from router.catalogue import Catalogue

LOADING = timedelta(seconds=2)


async def test_a_slow_load_does_not_put_its_clock_back(db: Database, monkeypatch) -> None:
    """By half of it, as if the database had told its time in the middle: launches opened late by that much."""
    load = store.load_catalog

    async def slowly(database: Database) -> store.CatalogRows:
        rows = await load(database)
        await asyncio.sleep(LOADING.total_seconds())
        return rows

    monkeypatch.setattr(store, "load_catalog", slowly)
    async with Catalogue.open(db) as catalogue:
        before = await store.now(db)
        assert before - LOADING / 4 < catalogue.clock() < await store.now(db) + LOADING / 4


async def test_what_was_committed_is_known_once_it_has_caught_up(db: Database, dsn: str) -> None:
    async with Catalogue.open(db) as catalogue:
        for organization in ("acme", "zeta"):
            made = await keys.create(db, organization, ["run"])
            await catalogue.caught_up()
            assert catalogue.now.caller(made.token, "run").organization == organization
        await catalogue.caught_up()  # nothing new: nobody waits
