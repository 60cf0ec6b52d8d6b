"""Daily partitions of tables whose key is a UUIDv7: the id's time names the day. Bounds are pure; the rest is IO.

Partitions are made ahead of time. Each table has a default partition as well, so that a day nobody prepared costs
speed and never a row.
"""

import datetime as dt
import uuid
from collections.abc import Sequence

import psycopg
import structlog
from psycopg import sql

from registry.database import Connection

DAYS_AHEAD = 7
LOCK_SECONDS = 2.0  # that a table's own lock is waited for: whoever wants the table waits behind us meanwhile

log = structlog.get_logger("marquee.partitions")


def uuid7(unix_milliseconds: int, randomness: int) -> uuid.UUID:
    """A UUIDv7 from its time and 74 random bits."""
    low = (randomness & ((1 << 62) - 1)) | (0b10 << 62)
    high = (randomness >> 62) & 0xFFF
    return uuid.UUID(int=(unix_milliseconds << 80) | (0x7 << 76) | (high << 64) | low)


def bounds(day: dt.date) -> tuple[uuid.UUID, uuid.UUID]:
    """The first id of a UTC day and the first of the next."""
    return _first(day), _first(day + dt.timedelta(days=1))


def _first(day: dt.date) -> uuid.UUID:
    midnight = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    return uuid.UUID(int=int(midnight.timestamp() * 1000) << 80)


def name_of(table: str, day: dt.date) -> str:
    return f"{table}_{day:%Y%m%d}"


async def prepare(
    connection: Connection, tables: Sequence[str], today: dt.date, days: int = DAYS_AHEAD
) -> int:
    """Makes the missing partitions of today and the `days` after it; returns how many. Repeat at least daily.

    Raises `psycopg.errors.LockNotAvailable` when somebody reads a table for longer than we wait; try again later.
    """
    made = 0
    for table in tables:
        for offset in range(days + 1):
            try:
                made += await _make(connection, table, today + dt.timedelta(days=offset))
            except (
                psycopg.errors.CheckViolation
            ) as error:  # rows of that day came first: they stay where they are
                log.warning("a day stays in the default partition", table=table, error=str(error).strip())
    return made


async def _make(connection: Connection, table: str, day: dt.date) -> bool:
    name = name_of(table, day)
    if await _exists(connection, name):
        return False
    low, high = bounds(day)
    statement = sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})")
    async with connection.transaction():
        # Gateways start at once, and IF NOT EXISTS does not keep two of them from making the same table.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('partitions'))")
        if await _exists(connection, name):
            return False
        await _wait_briefly(connection)
        await connection.execute(
            statement.format(
                sql.Identifier(name), sql.Identifier(table), sql.Literal(str(low)), sql.Literal(str(high))
            )
        )
    return True


async def _exists(connection: Connection, name: str) -> bool:
    """By a scan: `to_regclass` may answer from before somebody else's commit while a transaction goes on."""
    query = "SELECT 1 FROM pg_class WHERE relname = %s AND pg_table_is_visible(oid)"
    return await (await connection.execute(query, [name])).fetchone() is not None


async def drop_before(connection: Connection, table: str, day: dt.date) -> tuple[str, ...]:
    """Drops the partitions of days before `day`; returns their names. Raises as `prepare` does."""
    rows = await connection.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = to_regclass(%s) AND relname ~ '_[0-9]{8}$' AND right(relname, 8) < %s ORDER BY relname",
        [table, f"{day:%Y%m%d}"],
    )
    names = tuple(row["relname"] for row in await rows.fetchall())
    for name in names:  # another gateway may drop it at this moment
        async with connection.transaction():
            await _wait_briefly(connection)
            await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
    return names


async def _wait_briefly(connection: Connection) -> None:
    """Until the transaction's end. A backup may hold a table for hours, and submits must not wait behind us for it."""
    bound = sql.Literal(f"{LOCK_SECONDS * 1000:.0f}ms")
    await connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(bound))
