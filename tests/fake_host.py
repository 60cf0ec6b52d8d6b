"""A host that speaks the real protocol over a real WebSocket and runs nothing: its pictures say what it was asked."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import websockets

from loaders import protocol
from loaders.protocol import (
    Assign,
    AttemptKey,
    Cancel,
    Done,
    Failed,
    Held,
    Hello,
    OutputChunk,
    OutputFile,
    Progress,
    Settled,
    Speeds,
    Started,
    Timings,
    Welcome,
)

SPEEDS = Speeds(disk_to_memory=1e9, memory_to_device=1e10, network_to_disk=1e8)
PREVIEW = b"RIFF a small picture"
HOW = {"lora": "kept: the merged copies are held (kept 0.000 s)"}


class FakeHost:
    """Keeps what it did over links: `assigned` in order, `unsettled` reports that it would repeat.

    `hold` makes it keep assignments running until `release` is set; `fail_with` makes it report that instead.
    """

    def __init__(
        self, url: str, key: str, host_id: str = "host-1", *, slots: int = 2, pool: str = "local"
    ) -> None:
        self.url = url.replace("http", "ws", 1) + "/hosts/link"
        self.key = key
        self.host_id = host_id
        self.slots = slots
        self.pool = pool
        self.assigned: list[Assign] = []
        self.described: list[str] = []
        self.cancelled: list[AttemptKey] = []
        self.settled: list[AttemptKey] = []
        self.abandoned: list[AttemptKey] = []
        self.staged: list[protocol.Stage] = []
        self.running: dict[AttemptKey, Assign] = {}
        self.unsettled: dict[AttemptKey, list[protocol.Message]] = {}
        self.release = asyncio.Event()
        self.release.set()
        self.fail_with: dict[str, Any] | None = None
        self.connected = asyncio.Event()
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._socket: Any = None
        self._held: set[str] = set()

    @contextlib.asynccontextmanager
    async def linked(self) -> AsyncIterator["FakeHost"]:
        """One link, until the end of the block or until the router closes it."""
        self.connected.clear()
        serving = asyncio.create_task(self.serve())
        waiting = asyncio.create_task(self.connected.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        try:
            yield self
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            if not serving.cancelled() and (error := serving.exception()) is not None:
                raise error

    async def hears(self, *, assigned: int = 0, cancelled: int = 0) -> None:
        """Returns once it was told so much: callers may hear of a change before a host does."""
        async with asyncio.timeout(30):
            while len(self.assigned) < assigned or len(self.cancelled) < cancelled:
                await asyncio.sleep(0.01)

    def hello(self) -> Hello:
        return Hello(
            protocol=protocol.PROTOCOL_VERSION,
            host_id=self.host_id,
            name=self.host_id,
            device="cpu",
            pool=self.pool,
            zone=None,
            speed=1.0,
            budgets={"device": 1 << 40, "memory": 1 << 40, "disk": 1 << 40},
            speeds=SPEEDS,
            held=(),
            running=tuple(self.running),
            finished=tuple(self.unsettled),
            slots=self.slots,
        )

    async def serve(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with websockets.connect(self.url, additional_headers=headers, compression=None) as self._socket:
            await self._send(self.hello())
            runs = [asyncio.create_task(self._resume(key)) for key in self.running]
            try:
                async for frame in self._socket:
                    task = await self._receive(protocol.decode_to_host(frame))
                    if task is not None:
                        runs.append(task)
            except websockets.ConnectionClosed:
                pass
            finally:
                self.close_code, self.close_reason = self._socket.close_code, self._socket.close_reason
                for task in runs:
                    task.cancel()

    async def _receive(self, message: protocol.ToHost) -> "asyncio.Task[None] | None":
        match message:
            case Welcome(abandon=abandon):
                self.abandoned.extend(abandon)
                for key in abandon:
                    self.running.pop(key, None)
                    self.unsettled.pop(key, None)
                self.connected.set()
                for reports in tuple(self.unsettled.values()):
                    await self._send(*reports)
            case protocol.DescribeVersion(digest=digest) | protocol.DescribeAdapter(digest=digest):
                self.described.append(digest)
            case Assign():
                self.assigned.append(message)
                self.running[message.attempt] = message
                return asyncio.create_task(self._run(message))
            case Cancel(attempt=key):
                self.cancelled.append(key)
                if self.running.pop(key, None) is not None:
                    await self._report(
                        key, Failed(attempt=key, kind="cancelled", error="cancelled", message="")
                    )
            case protocol.Stage():
                self.staged.append(message)
            case Settled(attempt=key):
                self.settled.append(key)
                self.unsettled.pop(key, None)
            case _:
                pass
        return None

    async def _resume(self, key: AttemptKey) -> None:
        await self._run(self.running[key])

    async def _run(self, assign: Assign) -> None:
        key = assign.attempt
        await self._send(Started(attempt=key, phase="running"))
        if not self.release.is_set():
            preview = PREVIEW if assign.input.get(protocol.PREVIEWS) else b""
            await self._send(Progress(attempt=key, step=1, steps=4, preview=preview))
            await self.release.wait()
        if self.running.pop(key, None) is None:
            return
        if self.fail_with is not None:
            await self._report(key, Failed(attempt=key, **self.fail_with))
            return
        await self._report(key, *self.outputs(assign))

    def finish(self, assign: Assign) -> None:
        """It ended while there was no link: it is told with the next one."""
        del self.running[assign.attempt]
        self.unsettled[assign.attempt] = list(self.outputs(assign))

    def outputs(self, assign: Assign) -> tuple[OutputChunk, Done]:
        key, content = assign.attempt, picture(assign)
        output = OutputFile(
            index=0, content_type="image/png", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(),
            width=64, height=64,
        )  # fmt: skip
        result = {"seed": assign.input.get("seed"), "has_nsfw_concepts": [False]}
        done = Done(attempt=key, outputs=(output,), result=result, timings=Timings(run=0.01), how=HOW)
        return OutputChunk(attempt=key, index=0, data=content), done

    async def _report(self, key: AttemptKey, *reports: protocol.Message) -> None:
        self.unsettled[key] = list(reports)
        await self._send(*reports)

    async def _send(self, *messages: protocol.Message) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            for message in messages:
                await self._socket.send(protocol.encode(message))

    def holds(self, digest: str, size_bytes: int) -> protocol.Message:
        return protocol.Residency(added=(Held(digest=digest, tier="device", size_bytes=size_bytes),))


def picture(assign: Assign) -> bytes:
    """Bytes that depend on all that should matter, so that a test sees what ran."""
    said = {"version": assign.version, "adapters": assign.adapters, "input": assign.input}
    return b"\x89PNG" + msgspec.json.encode(said, order="sorted")
