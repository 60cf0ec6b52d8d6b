"""A host for chaos: real protocol and a pretended run of some milliseconds; killed and started again from outside."""

import asyncio
import contextlib
import itertools
import random
import sys

import websockets

from loaders.protocol import Assign, AttemptKey
from tests.fake_host import FakeHost

RETRY_SECONDS = 0.3


class PretendHost(FakeHost):
    """Takes its time, and forgets everything when it dies."""

    async def _run(self, assign: Assign) -> None:
        await asyncio.sleep(random.uniform(0.02, 0.3))
        await super()._run(assign)

    async def _resume(self, key: AttemptKey) -> None:
        if key in self.running:
            await super()._resume(key)


async def serve(urls: str, key: str, name: str) -> None:
    """Tries one gateway after the other: only the one that dispatches takes hosts."""
    host = PretendHost("", key, name, slots=2)
    for url in itertools.cycle(urls.split(",")):
        host.url = url.replace("http", "ws", 1) + "/hosts/link"
        with contextlib.suppress(OSError, websockets.WebSocketException):
            await host.serve()
        await asyncio.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
