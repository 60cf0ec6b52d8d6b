"""Servers that customers' LoRAs lie on are strangers: one that drips holds up nobody but who named it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from registry import hub
from registry.brought import Wish
from registry.catalog import Digest, OrganizationName
from registry.errors import AddressError
from registry.reading import Place
from router.files import FileStore
from router.loras import Loras

NOTHING: Any = None


@pytest.fixture
async def dripping() -> AsyncIterator[tuple[str, set[str]]]:
    """An address whose answer never ends, and the paths that were asked for."""
    asked: set[str] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
        writer.write(b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.05)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def wish(address: str, organization: str, number: int) -> Wish:
    return Wish(
        organization=OrganizationName(organization),
        path=f"{address}/{organization}-{number}.safetensors",
        weight_name="",
        architecture=Digest("a"),
    )


async def test_downloads_that_drip_leave_threads_for_everybody_else(
    tmp_path: Path, dripping: tuple[str, set[str]]
) -> None:
    address, asked = dripping
    place = Place(home=tmp_path, endpoint=hub.Endpoint(url=address), allow_private=True, examine=NOTHING)
    loras = Loras(NOTHING, NOTHING, place, FileStore(tmp_path / "files"), 1 << 20)
    wishes = [*(wish(address, "greedy", n) for n in range(40)), wish(address, "modest", 0)]
    fetching = [asyncio.create_task(loras._fetch(one, NOTHING)) for one in wishes]
    async with asyncio.timeout(5):
        while "/modest-0.safetensors" not in asked:
            await asyncio.sleep(0.02)
        assert await asyncio.to_thread(str, 1) == "1"
    loras.close()
    async with asyncio.timeout(5):
        ended = await asyncio.gather(*fetching, return_exceptions=True)
    assert {type(one) for one in ended} == {AddressError}
    assert list(loras.folder.iterdir()) == []
