"""The router's side of a host's link: one authenticated WebSocket per host, frames of `loaders.protocol`. IO.

It describes a version or adapter once per link before the first message that names it. It knows nothing of requests:
`Hub` is who does. A host that does not read what it is sent is cut off rather than waited for.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
import structlog
from litestar import Router, WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from loaders import protocol
from loaders.protocol import Hello, Message
from registry.catalog import Digest
from router.catalogue import Catalogue
from router.errors import ForbiddenError, LinkRefusedError, UnauthorizedError
from router.snapshot import Snapshot

Socket = WebSocket[Any, Any, Any]

log = structlog.get_logger("marquee.links")

HELLO_SECONDS = 15.0
OUTBOX_MESSAGES = 10_000
POLICY_VIOLATION, TRY_AGAIN_LATER, UNAUTHORIZED = 1008, 1013, 4401


class Link:
    """A host that is connected now."""

    def __init__(self, socket: Socket, hello: Hello) -> None:
        self.hello = hello
        self.host_id = hello.host_id
        self.described: set[Digest] = set(hello.known)
        self._socket = socket
        self._outbox: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self.closing = False

    def send(self, *messages: Message) -> None:
        """Never waits. Order is kept."""
        if len(self._outbox) > OUTBOX_MESSAGES:
            self.close()
            return
        self._outbox.extend(protocol.encode(message) for message in messages)
        self._filled.set()

    def describe(self, snapshot: Snapshot, version: Digest, adapters: Iterable[Digest]) -> None:
        """Send what the host does not know yet of a version and adapters that the snapshot describes."""
        if version not in self.described:
            known = snapshot.described[version]
            self.send(
                protocol.DescribeVersion(digest=version, manifest=known.manifest, defaults=known.defaults)
            )
            self.described.add(version)
        for adapter in adapters:
            if adapter not in self.described:
                manifest = snapshot.described_adapters[adapter]
                self.send(protocol.DescribeAdapter(digest=adapter, manifest=manifest))
                self.described.add(adapter)

    def close(self) -> None:
        """What was sent before still goes out."""
        self.closing = True
        self._filled.set()

    async def write(self) -> None:
        """Until `close`; backpressure of the socket is waited out here."""
        while not self.closing:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                await self._socket.send_bytes(self._outbox.popleft())


class Hub(Protocol):
    """Who the links report to."""

    def join(self, link: Link) -> None:
        """Raises `LinkRefusedError`."""

    async def report(self, link: Link, message: protocol.FromHost) -> None: ...

    def leave(self, link: Link) -> None: ...


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Where a host that dials in finds us: the keys, and whether a dispatcher is active here."""

    catalogue: Catalogue
    hub: Callable[[], Hub | None]


def router(seat: Callable[[], Seat]) -> Router:
    """`seat` is asked on each call: it exists once the app runs."""

    @websocket("/hosts/link")
    async def host_link(socket: Socket) -> None:
        await socket.accept()
        link = await _admit(socket, seat())
        if link is not None:
            await _serve(socket, *link)

    return Router("/", route_handlers=[host_link])


async def _admit(socket: Socket, seat: Seat) -> tuple[Link, Hub] | None:
    """None when the host was sent away; the close frame says why."""
    try:
        seat.catalogue.now.caller(token_of(socket.headers.get("authorization")), "host")
        if (hub := seat.hub()) is None:
            await socket.close(code=TRY_AGAIN_LATER, reason="no dispatcher is active here")
            return None
        link = Link(socket, await _hello(socket))
        hub.join(link)
    except (UnauthorizedError, ForbiddenError) as error:
        await socket.close(code=UNAUTHORIZED, reason=str(error))
    except LinkRefusedError as error:
        log.warning("host refused", reason=error.reason)
        await socket.close(code=POLICY_VIOLATION, reason=error.reason)
    except protocol.ProtocolError as error:
        await socket.close(code=POLICY_VIOLATION, reason=str(error)[:100])
    except WebSocketDisconnect:
        pass
    else:
        return link, hub
    return None


def token_of(authorization: str | None) -> str | None:
    """The key in `Key …` or `Bearer …` (or Replicate's old `Token …`)."""
    kind, _, token = (authorization or "").partition(" ")
    return token.strip() if kind.lower() in {"key", "bearer", "token"} else None


async def _hello(socket: Socket) -> Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            message = protocol.decode_from_host(await socket.receive_bytes())
    except TimeoutError as error:
        raise LinkRefusedError("no hello") from error
    if not isinstance(message, Hello):
        raise LinkRefusedError("the first message must be a hello")
    if message.protocol != protocol.PROTOCOL_VERSION:
        spoken = f"this router speaks protocol {protocol.PROTOCOL_VERSION}, this host {message.protocol}"
        raise LinkRefusedError(f"{spoken}: upgrade the older one")
    return message


async def _serve(socket: Socket, link: Link, hub: Hub) -> None:
    log.info("host joined", host=link.host_id, name=link.hello.name, device=link.hello.device)
    writer = asyncio.create_task(link.write())
    reader = asyncio.create_task(_read(socket, link, hub))
    try:
        await asyncio.wait([writer, reader], return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.leave(link)
        for task in (writer, reader):
            task.cancel()
        for task in await _ended(writer, reader):
            if not task.cancelled() and (error := task.exception()) is not None:
                log.warning("link failed", host=link.host_id, error=repr(error))
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()
        log.info("host left", host=link.host_id)


async def _ended(*tasks: asyncio.Task[None]) -> set[asyncio.Task[None]]:
    done, _ = await asyncio.wait(tasks)
    return done


async def _read(socket: Socket, link: Link, hub: Hub) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while not link.closing:
            await hub.report(link, protocol.decode_from_host(await socket.receive_bytes()))
