"""What every door does alike: who calls, what the body says, where files are reached. Process edge."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import msgspec
from litestar import Request
from litestar import types as asgi
from litestar.exceptions import ClientException

from registry.catalog import Caller, OrganizationName, Scope
from router.core import Core
from router.errors import BodyTooLargeError, MalformedBodyError
from router.files import FileStore
from router.links import token_of
from router.loras import Loras
from router.requests import StoredFile
from router.signatures import Signer

BODY_LIMIT_BYTES = 20 << 20  # pictures may come as data URIs; larger files are uploaded first
AnyRequest = Request[Any, Any, Any]
Headers = dict[str, str]
DEEPEST = 64  # levels of a body, far from where Python's own limit ends in an unexpected error
TOO_DEEP = "the body is nested too deeply"
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
ONCE = "idempotency-key"
STORE = "x-fal-store-io"  # in: 0, keep nothing of its contents
LONGEST_KEY = 200  # characters, as the admin API's
Item = TypeVar("Item")


# The newest request ids of an organization, from a cursor on, and the cursor of what is older.
Recent = Callable[[OrganizationName, str | None], Awaitable[tuple[Sequence[str], str | None]]]


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What all doors lead to; made once per process by its composition root."""

    core: Core
    files: FileStore
    signer: Signer
    loras: Loras
    recent: Recent
    private_webhooks: bool = False  # whether they may call addresses inside private networks
    public_url: str | None = None  # None: whatever name the caller used

    def caller(self, request: AnyRequest, scope: Scope = "run") -> Caller:
        """Raises `UnauthorizedError`, `ForbiddenError`."""
        return self.core.catalogue.now.caller(token_of(request.headers.get("authorization")), scope)

    def origin(self, request: AnyRequest) -> str:
        """Scheme and host by which this caller reaches us."""
        if self.public_url is not None:
            return self.public_url
        return f"{request.scope['scheme']}://{request.headers.get('host', 'localhost')}"

    def base64_of(self, file: StoredFile) -> str:
        return base64.b64encode(self.files.find(file.id).path.read_bytes()).decode()

    def data_uri(self, file: StoredFile) -> str:
        return f"data:{file.content_type};base64,{self.base64_of(file)}"


class Answer(msgspec.Struct, kw_only=True):
    """A JSON answer as it goes out, with nothing to look up or convert: the framework's own costs a tenth of a run."""

    content: Any
    status_code: int = 200
    headers: Headers = msgspec.field(default_factory=dict)
    encode: Callable[[Any], bytes] = msgspec.json.encode

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = self.encode(self.content)
        headers = {"content-type": "application/json", "content-length": str(len(body)), **self.headers}
        encoded = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": self.status_code, "headers": encoded})
        await send({"type": "http.response.body", "body": body, "more_body": False})


Home = Callable[[], House]  # the house exists once the app runs


class Asked(TypedDict):
    """The part of `Wishes` that every family's callers say in the same headers."""

    once: str | None
    fleeting: bool


def asked(request: AnyRequest) -> Asked:
    """Raises `MalformedBodyError`."""
    key = request.headers.get(ONCE)
    if key is not None and len(key) > LONGEST_KEY:
        raise MalformedBodyError(f"an Idempotency-Key has at most {LONGEST_KEY} characters")
    return Asked(once=key or None, fleeting=request.headers.get(STORE) == "0")


async def read_object(request: AnyRequest) -> Mapping[str, Any]:
    """The body's JSON object; none at all counts as empty. Raises `BodyTooLargeError`, `MalformedBodyError`."""
    try:
        body = await request.body()
    except ClientException as error:
        if error.status_code == 413:
            raise BodyTooLargeError(BODY_LIMIT_BYTES) from error
        raise
    if not body:
        return {}
    try:
        return parsed(body, dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise MalformedBodyError(f"the body is not a JSON object: {error}") from error


def parsed(text: bytes, kind: type[Item]) -> Item:
    """JSON from outside. Raises `MalformedBodyError` where it is nested too deeply, and msgspec's own errors."""
    try:
        found = msgspec.json.decode(text, type=kind)
    except RecursionError as error:
        raise MalformedBodyError(TOO_DEEP) from error
    if text.count(b"[") + text.count(b"{") > DEEPEST and _is_deep(found):
        raise MalformedBodyError(TOO_DEEP)
    return found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


async def with_heartbeat(
    source: AsyncIterator[Item], seconds: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[Item | None]:
    """What `source` gives, and None whenever it gave nothing for so long: proxies close what is silent."""
    upcoming = asyncio.ensure_future(anext(source, None))
    try:
        while True:
            done, _ = await asyncio.wait([upcoming], timeout=seconds)
            if not done:
                yield None
                continue
            item = upcoming.result()
            if item is None:
                return
            yield item
            upcoming = asyncio.ensure_future(anext(source, None))
    finally:
        upcoming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await upcoming
