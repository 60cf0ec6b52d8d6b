"""Change notices from Postgres: LISTEN with reconnection. A notice says "read again", never what changed. IO.

After every new connection comes a `Resync`, because notices sent while nobody listened are lost.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import psycopg
from psycopg import sql

CATALOG = "catalog"
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)  # between attempts to connect; the last one repeats
QUIET_SECONDS = 15.0  # a connection that heard nothing for so long is asked whether it lives

Notice = Literal["resync", "changed"]


async def listen(dsn: str, channels: Sequence[str] = (CATALOG,)) -> AsyncIterator[Notice]:
    """Endless. Bursts of notices that arrive while the consumer is busy come as one."""
    failures = 0
    while True:
        try:
            async for notice in _connected(dsn, channels):
                failures = 0
                yield notice
        except psycopg.Error:
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1


async def _connected(dsn: str, channels: Sequence[str]) -> AsyncIterator[Notice]:
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5)
    async with connection:
        for channel in channels:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield "resync"
        while True:
            heard = False
            async for _ in connection.notifies(timeout=QUIET_SECONDS, stop_after=1):
                heard = True
            if heard:
                yield "changed"
            else:
                await connection.execute("SELECT 1")
