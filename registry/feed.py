"""Change notices from Postgres: LISTEN with reconnection. A notice says what to read again, never what it reads now. IO.

After every new connection comes a resync, because notices sent while nobody listened are lost.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Literal

import psycopg
from psycopg import sql

from registry import database

CATALOG = "catalog"
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)  # between attempts to connect; the last one repeats
QUIET_SECONDS = 15.0  # a connection that heard nothing for so long is asked whether it lives

Notice = Literal["resync", "changed"]


async def listen(dsn: str, channels: Sequence[str] = (CATALOG,)) -> AsyncIterator[Notice]:
    """Endless. Bursts of notices that arrive while the consumer is busy come as one."""
    async with contextlib.aclosing(hear(dsn, channels)) as heard:
        async for said in heard:
            yield "resync" if said is None else "changed"


async def hear(dsn: str, channels: Sequence[str]) -> AsyncGenerator[frozenset[str] | None]:
    """What the notices named, a burst as one set. None after each new connection: anything may have been missed."""
    failures = 0
    while True:
        try:
            async for said in _connected(dsn, channels):
                failures = 0
                yield said
        except psycopg.Error:
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1


async def _connected(dsn: str, channels: Sequence[str]) -> AsyncIterator[frozenset[str] | None]:
    connection = await database.connect(dsn)
    async with connection:
        for channel in channels:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield None
        while True:
            notices = connection.notifies(timeout=QUIET_SECONDS, stop_after=1)
            if said := frozenset([notice.payload async for notice in notices]):
                yield said
            else:
                await connection.execute("SELECT 1")
