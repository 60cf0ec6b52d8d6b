"""The ledger's sums by hour, day and month, by variant, version, adapters, organization and pool; folded piece by piece. IO.

This module alone writes the rollup tables. A row belongs to the transaction that wrote it, and a fold takes all rows
of transactions that ended since the last one: late rows are in, none twice. Sums are whole numbers (milliseconds,
pixels), so that `rebuild` gives the very same rows. Planning over every day's partition costs more than a few new
rows, so the frequent fold looks at the last days' partitions only, and a whole one follows each hour.
"""

import asyncio
import datetime as dt
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from registry import partitions
from registry.database import Connection, Database, load_queries

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
TABLES = (
    "usage_hours",
    "usage_days",
    "customer_months",
    "organization_months",
    "variant_months",
    "adapter_months",
    "version_days",
    "scope_days",
    "latency_days",
)
PAUSE_SECONDS = 5.0
WHOLE_SECONDS = 3600.0  # until rows of requests older than these days are looked for
RECENT_DAYS = dt.timedelta(days=2)
ALL_ROWS = "txid < %(high)s OR txid IS NULL"
OLDER = "txid >= %(low)s AND txid < %(high)s AND request_id < %(recent_from)s"
RECENT = "txid >= %(low)s AND txid < %(high)s AND request_id >= %(recent_from)s"
FIRST_BUCKET_SECONDS = 0.01
BUCKETS_PER_OCTAVE = 4

log = structlog.get_logger("marquee.rollups")


async def fold(db: Database) -> int:
    """Adds what the ledger gained, wherever; returns how many rows. Several processes may try at once."""
    async with db.transaction() as connection:
        await connection.execute(QUERIES["lock"])
        return await _fold(connection)


async def fold_recent(db: Database) -> int:
    """Adds the gained rows of recent requests, which lie in few partitions; `fold` takes the others up later."""
    async with db.transaction() as connection:
        await connection.execute(QUERIES["lock"])
        bounds = await _bounds(connection)
        if bounds["low"] is None or bounds["recent_below"] > bounds["high"]:
            return await _fold(connection)
        count = await _add(connection, "usage_records", RECENT, bounds | {"low": bounds["recent_below"]})
        await connection.execute(QUERIES["advance_recent"], {"high": bounds["high"]})
        return count


async def rebuild(db: Database) -> int:
    """Starts over from the ledger; returns how many rows it has. Readers see the old sums until it is done."""
    async with db.transaction() as connection:
        await connection.execute(QUERIES["lock"])
        await connection.execute(QUERIES["empty"])
        return await _fold(connection)


async def _bounds(connection: Connection) -> dict[str, Any]:
    row = await (await connection.execute(QUERIES["bounds"])).fetchone()
    assert row is not None
    return dict(row)


async def _fold(connection: Connection) -> int:
    bounds = await _bounds(connection)
    if bounds["low"] is not None and bounds["recent_below"] > bounds["high"]:
        await connection.execute(QUERIES["empty"])  # a restored copy: its transactions are numbered anew
        bounds["low"] = None
    if bounds["low"] is None:
        count = await _fold_all(connection, bounds)
    else:
        count = await _add(connection, "usage_records", OLDER, bounds)
        count += await _add(connection, "usage_records", RECENT, bounds | {"low": bounds["recent_below"]})
        if not bounds["complete"]:
            await connection.execute(QUERIES["mend"])
    recent_from, _ = partitions.bounds(dt.datetime.now(dt.UTC).date() - RECENT_DAYS)
    await connection.execute(QUERIES["advance"], {"high": bounds["high"], "recent_from": recent_from})
    return count


async def _fold_all(connection: Connection, bounds: Mapping[str, Any]) -> int:
    """One partition at a time, so that no sort outgrows a day."""
    leaves = await (await connection.execute(QUERIES["leaves"])).fetchall()
    return sum([await _add(connection, leaf["name"], ALL_ROWS, bounds) for leaf in leaves])


async def _add(connection: Connection, source: str, rows: str, bounds: Mapping[str, Any]) -> int:
    """Never prepared: the planner must see the bounds to leave partitions out."""
    query = QUERIES["fold"].replace("{source}", source).replace("{rows}", rows)
    row = await (await connection.execute(query.encode(), bounds, prepare=False)).fetchone()
    return 0 if row is None else int(row["rows"])


async def differences(db: Database) -> Mapping[str, int]:
    """Per table, how many rows a rebuild would change. Nothing is kept of the try."""
    found: dict[str, int] = {}
    async with db.pool.connection() as connection, connection.transaction(force_rollback=True):
        await connection.execute(QUERIES["lock"])
        for table in TABLES:
            await connection.execute(
                f"CREATE TEMP TABLE was_{table} ON COMMIT DROP AS TABLE {table}".encode()
            )
        await connection.execute(QUERIES["empty"])
        await _fold(connection)
        for table in TABLES:
            query = (
                f"SELECT count(*) AS n FROM ((TABLE {table} EXCEPT TABLE was_{table})"  # noqa: S608  our own names
                f" UNION ALL (TABLE was_{table} EXCEPT TABLE {table})) AS d"
            )
            row = await (await connection.execute(query.encode())).fetchone()
            found[table] = 0 if row is None else int(row["n"])
    return found


async def keep(db: Database) -> None:
    """Folds every few seconds until cancelled, recent rows mostly; a failure is told and tried again."""
    whole_at = 0.0
    while True:
        try:
            if time.monotonic() >= whole_at:
                await fold(db)
                whole_at = time.monotonic() + WHOLE_SECONDS
            else:
                await fold_recent(db)
        except Exception as error:  # noqa: BLE001  pages may be late, the gateway must not fall
            log.warning("the ledger could not be folded", error=repr(error))
        await asyncio.sleep(PAUSE_SECONDS)


def quantile(buckets: Sequence[tuple[int, int]], share: float) -> float | None:
    """Seconds below which `share` of requests stayed, from (bucket, requests); right to within a tenth."""
    total = sum(requests for _, requests in buckets)
    reached = 0.0
    for bucket, requests in sorted(buckets):
        if requests and reached + requests >= share * total:
            inside = (share * total - reached) / requests
            return _lower(bucket) * (2 ** (inside / BUCKETS_PER_OCTAVE)) if bucket else _first(inside)
        reached += requests
    return None


def _lower(bucket: int) -> float:
    return FIRST_BUCKET_SECONDS * math.pow(2, bucket / BUCKETS_PER_OCTAVE)


def _first(inside: float) -> float:
    """The first bucket also holds everything faster, so it runs from zero."""
    return _lower(1) * inside
