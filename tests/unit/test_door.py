"""Streams stay alive while nothing happens, and end with their source."""

import asyncio
from collections.abc import AsyncIterator

from router.clients.door import with_heartbeat


async def test_silence_gives_a_heartbeat() -> None:
    go = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "first"
        await go.wait()
        yield "last"

    heard: list[str | None] = []
    async for item in with_heartbeat(source(), 0.01):
        heard.append(item)
        if heard.count(None) == 2:
            go.set()
    assert (heard[0], heard[-1]) == ("first", "last")
    assert heard.count(None) >= 2
