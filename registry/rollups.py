"""The ledger's sums by hour and day, by variant, version, adapters, organization and pool; folded piece by piece. IO.

This module alone writes the rollup tables. A row belongs to the transaction that wrote it, and a fold takes all rows
of transactions that ended since the last one: late rows are in, none twice. Sums are whole numbers (milliseconds,
pixels), so that `rebuild` gives the very same rows.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from registry.database import Connection, Database, load_queries

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
TABLES = ("usage_hours", "usage_days", "scope_days", "latency_days")
PAUSE_SECONDS = 5.0
FIRST_BUCKET_SECONDS = 0.01
BUCKETS_PER_OCTAVE = 4

log = structlog.get_logger("marquee.rollups")


async def fold(db: Database) -> int:
    """Adds what the ledger gained; returns how many rows. Several processes may try at once."""
    async with db.transaction() as connection:
        await connection.execute(QUERIES["lock"])
        return await _fold(connection)


async def rebuild(db: Database) -> int:
    """Starts over from the ledger; returns how many rows it has. Readers see the old sums until it is done."""
    async with db.transaction() as connection:
        await connection.execute(QUERIES["lock"])
        await connection.execute(QUERIES["empty"])
        return await _fold(connection)


async def _fold(connection: Connection) -> int:
    bounds = await (await connection.execute(QUERIES["bounds"])).fetchone()
    assert bounds is not None
    low, high = bounds["low"], bounds["high"]
    if low is not None and low > high:  # a restored copy: its transactions are numbered anew
        await connection.execute(QUERIES["empty"])
        low = None
    limits = {"low": low or 0, "high": high, "all": low is None}
    row = await (await connection.execute(QUERIES["fold"], limits)).fetchone()
    await connection.execute(QUERIES["advance"], {"high": high})
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
    """Folds every few seconds until cancelled; a failure is told and tried again."""
    while True:
        try:
            await fold(db)
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
