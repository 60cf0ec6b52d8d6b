"""What is older than the retention goes, the ledger excepted; partitions for the days ahead come. IO.

Days are dropped whole, but not from the day on of which a request still waits or runs: accepted is accepted. Every
gateway does this, at its start and every hour; whoever comes second finds nothing to do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import sqlalchemy
import structlog

from registry import database, partitions, upload_space, writes
from registry.database import Connection, Database
from router import ids, repeats, results, tables
from router.errors import QueueUnavailableError
from router.files import FileStore
from router.loras import Loras
from router.queue import Queue
from router.requests import RequestId

log = structlog.get_logger("marquee.gateway")

QUERIES = database.load_queries(Path(__file__).with_suffix(".sql"))
EXPIRING = (tables.attempts.name, tables.requests.name)
PARTITIONED = (*EXPIRING, "usage_records")
EVERY_SECONDS = 3600.0
FETCHABLE = timedelta(hours=1)  # fal's, for results that it does not store
AT_ONCE = 500


class Housekeeping:
    """Of one gateway."""

    def __init__(
        self,
        db: Database,
        queue: Queue,
        files: FileStore,
        loras: Loras,
        home: Path,
        retention_days: int,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._db = db
        self._queue = queue
        self._files = files
        self._loras = loras
        self._home = home
        self._days = timedelta(days=retention_days)
        self._today = today

    async def once(self) -> None:
        today = self._today()
        async with self._db.pool.connection() as connection:
            await partitions.prepare(connection, PARTITIONED, today)
            oldest = await _oldest_kept(connection, today - self._days)
            for table in EXPIRING:
                await partitions.drop_before(connection, table, oldest)
            first, _ = partitions.bounds(oldest)
            for query in ("drop_strays", "drop_stray_attempts", "drop_webhooks", "drop_fleeting"):
                await connection.execute(QUERIES[query], {"first": first})
            await results.drop_before(connection, oldest)
            await repeats.forget_old(connection)
        async with self._db.sessions.begin() as session:
            await writes.forget_old(session)
            await upload_space.forget(session, self._home, self._days)
        await asyncio.to_thread(self._files.drop_before, oldest)
        await self._loras.keep_house(self._days)

    async def let_pass(self) -> None:
        """Erases what its callers did not want kept; their hour to fetch it is over."""
        while past := await self._queue.past(FETCHABLE, AT_ONCE):
            for request_id in past:
                gone = await self._queue.erase(request_id)
                await asyncio.to_thread(self._files.drop_all, gone or ())
            await self._queue.forgotten(past)

    async def try_once(self) -> None:
        """What does not work now is tried again in an hour; no gateway fails to start over it."""
        await _tried(self.once)

    async def for_ever(self) -> None:
        """Until cancelled. Erasing may take long, so no start waits for it, and it waits for no days that cannot go."""
        while True:
            await _tried(self.let_pass)
            await asyncio.sleep(EVERY_SECONDS)
            await self.try_once()


async def _tried(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError, QueueUnavailableError, OSError) as error:
        log.warning("housekeeping failed", error=str(error).strip())


async def _oldest_kept(connection: Connection, oldest: date) -> date:
    """The day before which everything may go."""
    first, _ = partitions.bounds(oldest)
    found = await (await connection.execute(QUERIES["oldest_open"], {"first": first})).fetchone()
    if found is None or found["id"] is None:
        return oldest
    day = ids.created_at(RequestId(str(found["id"]))).date()
    log.warning("days are kept for a request that has not ended", request=str(found["id"]), day=str(day))
    return day
