"""The router's side of the link, scripted: a real WebSocket server that greets hosts, assigns, and hears reports."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve

from loaders import protocol
from loaders.protocol import AttemptKey

KEY = "mq_testhost_secret"


class FakeRouter:
    """One link at a time. `settle=False` leaves finished attempts unsettled, to see them said again."""

    def __init__(self) -> None:
        self.hellos: asyncio.Queue[protocol.Hello] = asyncio.Queue()
        self.heard: asyncio.Queue[protocol.FromHost] = asyncio.Queue()
        self.outputs: dict[tuple[AttemptKey, int], bytes] = {}
        self.settle = True
        self.abandon: tuple[AttemptKey, ...] = ()
        self.close_code: int | None = None  # what a refused host hears
        self._socket: ServerConnection | None = None
        self._server: Server | None = None
        self.url = ""

    async def start(self, port: int = 0) -> None:
        self._server = await serve(self._serve, "127.0.0.1", port, max_size=None)
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def cut(self) -> None:
        """Loses the link as a crash would."""
        assert self._socket is not None
        self._socket.transport.abort()

    async def send(self, *messages: protocol.Message) -> None:
        assert self._socket is not None
        for message in messages:
            await self._socket.send(protocol.encode(message))

    async def hear(self, *kinds: type, seconds: float = 90.0) -> Any:
        """The next report of one of these kinds; others are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                message = await self.heard.get()
                if isinstance(message, kinds):
                    return message

    async def hello(self) -> protocol.Hello:
        async with asyncio.timeout(60):
            return await self.hellos.get()

    async def _serve(self, socket: ServerConnection) -> None:
        request = socket.request
        assert request is not None
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            await socket.close(4401, "no such key")
            return
        if self.close_code is not None:
            await socket.close(self.close_code, "not now")
            return
        self._socket = socket
        async for frame in socket:
            assert isinstance(frame, bytes)
            message = protocol.decode_from_host(frame)
            if isinstance(message, protocol.Hello):
                await self.send(protocol.Welcome(pool=message.pool, abandon=self.abandon))
                await self.hellos.put(message)
                continue
            if isinstance(message, protocol.OutputChunk):
                key = (message.attempt, message.index)
                self.outputs[key] = self.outputs.get(key, b"") + message.data
            if isinstance(message, protocol.Done | protocol.Failed) and self.settle:
                await self.send(protocol.Settled(attempt=message.attempt))
            await self.heard.put(message)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[FakeRouter]:
    router = FakeRouter()
    await router.start()
    try:
        yield router
    finally:
        await router.stop()
