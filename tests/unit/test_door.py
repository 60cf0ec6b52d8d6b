"""Streams stay alive while nothing happens, and end with their source."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from litestar import Litestar

from router.clients import replicate, uploads
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


class EverybodysHouse:
    """Asks nobody for a key."""

    def caller(self, request: Any) -> None: ...


async def test_a_form_whose_length_is_not_told_is_cut_off_at_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "LIMIT_BYTES", 1000)
    house: Any = EverybodysHouse()
    app = Litestar(route_handlers=[replicate.router(lambda: house)], logging_config=None)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--z\r\ncontent-disposition: form-data; name="content"; filename="a"\r\n\r\n'
        for _ in range(100):
            sent += 1
            yield bytes(10_000)

    headers = {"content-type": "multipart/form-data; boundary=z"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.post("/replicate/v1/files", content=endless(), headers=headers)
    assert (answer.status_code, sent < 10) == (413, True)
