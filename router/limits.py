"""How much one key may ask: calls per minute, and no more promises than the pool can keep. IO.

The rate is one bucket per key in Postgres, whatever the number of gateways; a gateway leases a few tokens at a time,
so that not every call asks the database. How many of a key's requests run at once is the dispatcher's: see `turns`.
"""

import asyncio
import math
from collections import defaultdict
from pathlib import Path

import msgspec
import psycopg

from registry.catalog import Variant
from registry.database import Database, load_queries
from registry.defaults import LONGEST_WAIT
from router.errors import OverloadedError, QueueUnavailableError

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
BURST_SECONDS = 10.0  # of the rate that may come at once
LEASE_SECONDS = 0.25  # of the rate that a gateway takes at a time, and how long it may keep it


class Lease(msgspec.Struct):
    """Tokens in a gateway's hand; what is not used in time is lost."""

    tokens: int = 0
    until: float = 0.0


class Limiter:
    """`per_minute` None: nothing is limited."""

    def __init__(self, db: Database, per_minute: int | None) -> None:
        self._db = db
        self._per_second = None if per_minute is None else per_minute / 60
        self._leases: dict[str, Lease] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def admit(self, key_id: str) -> None:
        """Raises `OverloadedError`, which says when the next token is there, and `QueueUnavailableError`."""
        if self._per_second is None or self._take(key_id):
            return
        async with self._locks[key_id]:  # one asks the database for all that wait
            if not self._take(key_id):
                await self._lease(key_id, self._per_second)

    def _take(self, key_id: str) -> bool:
        lease = self._leases.get(key_id)
        if lease is None or not lease.tokens or lease.until < asyncio.get_running_loop().time():
            return False
        lease.tokens -= 1
        return True

    async def _lease(self, key_id: str, per_second: float) -> None:
        parameters = {
            "key_id": key_id,
            "per_second": per_second,
            "burst": max(1.0, per_second * BURST_SECONDS),
            "wanted": max(1, int(per_second * LEASE_SECONDS)),
        }
        try:
            async with self._db.transaction() as connection:
                await connection.execute(QUERIES["begin"], parameters)
                row = await (await connection.execute(QUERIES["lease"], parameters)).fetchone()
        except psycopg.OperationalError as error:
            raise QueueUnavailableError("the database does not answer") from error
        assert row is not None, "the bucket was made a statement before"
        if not row["granted"]:
            raise OverloadedError("this key's rate limit is reached", (1 - row["tokens"]) / per_second)
        until = asyncio.get_running_loop().time() + LEASE_SECONDS
        self._leases[key_id] = Lease(row["granted"] - 1, until)


def longest_wait(variant: Variant, common_seconds: float | None) -> float | None:
    """The variant's own bound, else everybody's; a lab's that is no number is passed over."""
    own = variant.defaults.get(LONGEST_WAIT)
    if isinstance(own, int | float) and not isinstance(own, bool):
        return float(own)
    return common_seconds


def refuse_long_wait(expected_seconds: float, longest_seconds: float | None) -> None:
    """Raises `OverloadedError` when a new request would wait longer than we want to promise."""
    if longest_seconds is not None and expected_seconds > longest_seconds:
        raise OverloadedError(
            f"about {expected_seconds:.0f} s of work wait already", expected_seconds - longest_seconds
        )


def retry_after(error: OverloadedError) -> str:
    """The header's value: whole seconds, never 0."""
    return str(max(1, math.ceil(error.retry_after_seconds)))
