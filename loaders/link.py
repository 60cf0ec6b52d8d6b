"""The host's side of the link: one WebSocket to the pool's router, opened again whenever it is lost.

IO, asyncio. It carries assignments to the engine and reports back, keeps every finished attempt with its outputs
until the router says `Settled`, and says them again on a new link. All its state is touched on the event loop
alone. It refuses to know what a run is.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from loaders import keepalive, protocol, trails
from loaders.engine import Event
from loaders.errors import KeyRefusedError
from loaders.protocol import AttemptKey
from loaders.running import Finished
from registry.catalog import Digest
from registry.tracing import NO_TRACES, Traces

log = structlog.get_logger("marquee.link")

PATH = "/hosts/link"
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
OPEN_SECONDS = 10.0
SETTLE_SECONDS = 30.0  # that a host which ends waits for a router to have its results
FAREWELL_SECONDS = 2.0  # for the last words to leave
LOOK_SECONDS = 0.02
UNAUTHORIZED = 4401
MAX_MESSAGE_BYTES = 64 << 20  # a manifest of a hundred thousand files
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Worker(Protocol):
    """What the link drives: `loaders.engine.Engine`, or a fake that needs no torch."""

    def describe(self, description: protocol.DescribeVersion | protocol.DescribeAdapter) -> None: ...
    def submit(self, assign: protocol.Assign) -> None: ...
    def cancel(self, attempt: AttemptKey) -> None: ...
    def stage(self, stage: protocol.Stage) -> None: ...
    def drop(self, digests: tuple[Digest, ...]) -> None: ...
    def drain(self) -> tuple[AttemptKey, ...]: ...
    def held(self) -> tuple[protocol.Held, ...]: ...
    def known(self) -> tuple[Digest, ...]: ...
    def know_peers(self, urls: Sequence[str]) -> None: ...


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The router, and how a host signs in to it."""

    url: str  # http(s)://host:port, as customers know it
    key: str

    @property
    def socket_url(self) -> str:
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))

    @property
    def is_local(self) -> bool:
        return urlsplit(self.url).hostname in LOOPBACK


def next_backoff(last_seconds: float, lasted_seconds: float) -> float:
    """Seconds. Begins anew after a link that lasted; a router that loses each one at once is asked ever more rarely."""
    if last_seconds == 0 or lasted_seconds > LONGEST_BACKOFF_SECONDS:
        return FIRST_BACKOFF_SECONDS
    return min(last_seconds * 2, LONGEST_BACKOFF_SECONDS)


class Link:
    """Call `heard` from any thread with the engine's events; await `run` on the loop."""

    def __init__(
        self,
        address: Address,
        worker: Worker,
        *,
        hello: protocol.Hello,
        loop: asyncio.AbstractEventLoop,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._traces = traces
        self._traced: dict[AttemptKey, tuple[str, float]] = {}  # whose trace, and when we got it
        self._address = address
        self._worker = worker
        self._hello = hello  # who we are; what we hold and run is filled in for each link
        self._loop = loop
        self._accepted: set[AttemptKey] = set()
        self._unsettled: dict[AttemptKey, Finished | protocol.Failed] = {}
        self._abandoned: set[AttemptKey] = set()
        self._outbox: asyncio.Queue[bytes] | None = None  # None: there is no link
        self._welcomed = False
        self._draining = False

    def heard(self, event: Event) -> None:
        """The engine's listener; any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._fold, event)

    async def run(self) -> None:
        """Until cancelled. Raises `KeyRefusedError` when the router refuses the key."""
        backoff_seconds = 0.0
        while True:
            began = time.monotonic()
            try:
                async with self._connection() as socket:
                    keepalive.watch(socket.transport.get_extra_info("socket").fileno())
                    await self._serve(socket)
            except InvalidStatus as error:
                if error.response.status_code in {401, 403}:
                    raise KeyRefusedError("the router does not accept this host's key") from error
                log.warning("link refused", status=error.response.status_code)
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code == UNAUTHORIZED:
                    raise KeyRefusedError(error.rcvd.reason) from error
                log.warning("link lost", error=str(error))
            except (OSError, TimeoutError, WebSocketException, protocol.ProtocolError) as error:
                log.warning("no link", error=str(error) or type(error).__name__)
            lasted_seconds = time.monotonic() - began if self._welcomed else 0.0
            self._welcomed = False
            backoff_seconds = next_backoff(backoff_seconds, lasted_seconds)
            # Hosts that lost one router all at once should not come back all at once.
            await asyncio.sleep(backoff_seconds * random.uniform(0.5, 1.5))  # noqa: S311

    async def drain(self, timeout_seconds: float, hurry: asyncio.Event) -> None:
        """No more work: hands back what has not begun, and waits until the rest is settled.

        What still runs when the time is up, or at `hurry`, goes back as well: that is no fault of this host's.
        """
        self._draining = True
        self._hand_back(self._worker.drain())
        await _until(lambda: not self._accepted or hurry.is_set(), timeout_seconds)
        if self._accepted:
            self._abandoned.update(self._accepted)
            self._hand_back(tuple(self._accepted))
        await _until(lambda: self._is_settled or hurry.is_set(), SETTLE_SECONDS)
        await _until(lambda: not self._outbox or self._outbox.empty(), FAREWELL_SECONDS)

    def _hand_back(self, returned: Sequence[AttemptKey]) -> None:
        self._accepted.difference_update(returned)
        self._send(protocol.Draining(returned=tuple(returned)))

    @property
    def _is_settled(self) -> bool:
        return not self._accepted and not self._unsettled

    def _connection(self) -> connect:
        return connect(
            self._address.socket_url,
            additional_headers={"Authorization": f"Bearer {self._address.key}"},
            compression=None,  # outputs are compressed already
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_SECONDS,
            ping_interval=keepalive.PING_SECONDS,
            ping_timeout=keepalive.PONG_SECONDS,
            proxy=None if self._address.is_local else True,
        )

    async def _serve(self, socket: ClientConnection) -> None:
        outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._outbox = outbox
        self._greet()
        writer = asyncio.create_task(self._write(socket, outbox))
        try:
            async for frame in socket:
                if isinstance(frame, bytes):
                    self._obey(protocol.decode_to_host(frame))
            log.info("link closed", code=socket.close_code, reason=socket.close_reason)
        finally:
            self._outbox = None
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, socket: ClientConnection, outbox: asyncio.Queue[bytes]) -> None:
        with contextlib.suppress(WebSocketException):  # the reader sees the loss as well
            while True:
                await socket.send(await outbox.get())

    def _greet(self) -> None:
        """Who we are, then whatever the router has not settled."""
        self._send(
            msgspec.structs.replace(
                self._hello,
                held=self._worker.held(),
                running=tuple(self._accepted),
                finished=tuple(self._unsettled),
                known=self._worker.known(),
            )
        )
        for report in self._unsettled.values():
            self._report(report)
        if self._draining:
            self._send(protocol.Draining())

    def _obey(self, message: protocol.ToHost) -> None:
        match message:
            case protocol.Welcome(abandon=abandon):
                log.info("linked", pool=message.pool)
                self._welcomed = True
                self._abandon(abandon)
            case protocol.Peers(urls=urls):
                self._worker.know_peers(urls)
            case protocol.DescribeVersion() | protocol.DescribeAdapter():
                self._worker.describe(message)
            case protocol.Assign():
                self._accept(message)
            case protocol.Cancel(attempt=attempt):
                self._worker.cancel(attempt)
            case protocol.Settled(attempt=attempt):
                self._unsettled.pop(attempt, None)
            case protocol.Stage():
                self._worker.stage(message)
            case protocol.Drop(digests=digests):
                self._worker.drop(digests)

    def _accept(self, assign: protocol.Assign) -> None:
        if self._draining:
            self._send(protocol.Draining(returned=(assign.attempt,)))
        elif assign.attempt not in self._accepted and assign.attempt not in self._unsettled:
            self._accepted.add(assign.attempt)
            if self._traces.on and assign.traceparent:
                self._traced[assign.attempt] = (assign.traceparent, time.time())
            self._worker.submit(assign)

    def _abandon(self, attempts: Sequence[AttemptKey]) -> None:
        for attempt in attempts:
            if self._unsettled.pop(attempt, None) is None and attempt in self._accepted:
                self._abandoned.add(attempt)
                self._worker.cancel(attempt)

    def _fold(self, event: Event) -> None:
        if isinstance(event, Finished | protocol.Failed):
            self._accepted.discard(event.attempt)
            self._tell_trace(event)
            if event.attempt in self._abandoned:
                self._abandoned.discard(event.attempt)
            else:
                self._unsettled[event.attempt] = event
                self._report(event)
        elif isinstance(event, protocol.Residency) or event.attempt not in self._abandoned:
            self._send(event)

    def _tell_trace(self, event: Finished | protocol.Failed) -> None:
        if (traced := self._traced.pop(event.attempt, None)) is not None:
            timings = event.timings if isinstance(event, protocol.Failed) else event.done.timings
            error = event.error if isinstance(event, protocol.Failed) else ""
            trails.tell(self._traces, *traced, time.time(), timings, error)

    def _report(self, report: Finished | protocol.Failed) -> None:
        if isinstance(report, protocol.Failed):
            self._send(report)
            return
        for index, data in enumerate(report.outputs):
            for start in range(0, len(data), protocol.OUTPUT_CHUNK_BYTES):
                piece = data[start : start + protocol.OUTPUT_CHUNK_BYTES]
                self._send(protocol.OutputChunk(attempt=report.attempt, index=index, data=piece))
        self._send(report.done)

    def _send(self, message: protocol.Message) -> None:
        """Without a link nothing is lost: the next hello says what matters."""
        if self._outbox is not None:
            self._outbox.put_nowait(protocol.encode(message))


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    """Or the time is up."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:  # noqa: ASYNC110  several things, once in a process
        await asyncio.sleep(LOOK_SECONDS)
