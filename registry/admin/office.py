"""What every admin route shares: who asks, reading bodies, repeating writes, ETags. Process edge.

Every write wants an `Idempotency-Key`, every edit an `If-Match`. In addresses a slug's slashes are written `~`.
A scope is enough for one's own organization; `operate` does everything for everybody.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import sqlalchemy
from litestar import Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from registry import choices, desk, keys, validation
from registry.catalog import Caller, Record, Scope, digest_of
from registry.database import Database
from registry.errors import InvalidRequestError, MissingHeaderError, RegistryError, UnknownCallerError
from registry.goods import Goods
from registry.reading import Place
from registry.writes import Answer, once

AnyRequest = Request[Any, Any, Any]
Body = TypeVar("Body", bound=Record)
PUBLISH: Scope = "models:publish"
READ: Scope = "models:read"
MOST_DIGITS = 10  # of a revision


async def _nobody_resolves() -> None:
    """Where no calls are answered nobody waits."""


class Office:
    """What the admin API works with, and the validations it has begun.

    `known` waits until this process resolves calls by all that was committed, so that a lab's release, retirement or
    key holds here once it is answered.
    """

    def __init__(
        self,
        db: Database,
        place: Place,
        known: Callable[[], Awaitable[None]] = _nobody_resolves,
        upload_bytes: int | None = None,
    ) -> None:
        """`upload_bytes` that one organization's uploads may hold; None: as much as the disk."""
        self.db = db
        self.place = place
        self.known = known
        self.upload_bytes = upload_bytes
        self._running: set[asyncio.Task[Any]] = set()

    def begin_validation(self, actor: str, slug: str, number: int, goods: Goods) -> None:
        task = asyncio.create_task(validation.validate(self.db, self.place, actor, slug, number, goods))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, RegistryError)
        ):
            validation.log.error("validation failed", exc_info=error)

    async def close(self) -> None:
        """Interrupted validations become drafts again."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running))


Home = Callable[[], Office]


async def caller_of(office: Office, request: AnyRequest) -> Caller:
    """By `Authorization: Key …` or `Bearer …`. Raises `UnknownCallerError`."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    caller = await keys.verify(office.db, token.strip()) if kind.lower() in {"key", "bearer"} else None
    if caller is None:
        raise UnknownCallerError("a valid key is needed: Authorization: Key …")
    return caller


def name_of(address: str) -> str:
    return address.replace("~", "/")


async def body_of(request: AnyRequest, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.ValidationError as error:
        place, reason = choices.told(error, kind)
        raise InvalidRequestError(".".join(place) or "body", reason) from error
    except msgspec.DecodeError as error:
        raise InvalidRequestError("body", str(error)) from error


def revision_of(request: AnyRequest) -> int:
    """From `If-Match: "7"`. Raises `MissingHeaderError`."""
    given = request.headers.get("if-match", "").strip().strip('"')
    if not (given.isascii() and given.isdigit() and len(given) < MOST_DIGITS):
        raise MissingHeaderError("an edit needs If-Match with the ETag of what it edits")
    return int(given)


@contextlib.contextmanager
def _storable() -> Iterator[None]:
    """What no column can hold is the asker's fault: a zero byte in a text, a number beyond all numbers."""
    try:
        yield
    except sqlalchemy.exc.DataError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise InvalidRequestError("request", f"it cannot be stored or looked up: {reason}") from error


async def write(
    home: Home, request: AnyRequest, scope: Scope, work: Callable[[AsyncSession, Caller], Awaitable[Answer]]
) -> Response[Any]:
    office = home()
    caller = await caller_of(office, request)
    desk.require(caller, scope)
    key = request.headers.get("idempotency-key", "")
    if not 1 <= len(key) <= 200:
        raise MissingHeaderError("a write needs an Idempotency-Key of up to 200 characters")
    body = hashlib.sha256(await request.body()).hexdigest()
    fingerprint = digest_of([request.method, request.url.path, request.url.query, body])
    with _storable():
        answer = await once(
            office.db, caller.organization, key, fingerprint, lambda session: work(session, caller)
        )
    await office.known()
    return respond(answer.body, answer.status, answer.etag)


async def read(
    home: Home, request: AnyRequest, scope: Scope, work: Callable[[AsyncSession, Caller], Awaitable[Answer]]
) -> Response[Any]:
    office = home()
    caller = await caller_of(office, request)
    desk.require(caller, scope)
    with _storable():
        async with office.db.sessions() as session:
            answer = await work(session, caller)
    return respond(msgspec.to_builtins(answer.body), answer.status, answer.etag)


def respond(body: Any, status: int, etag: str | None = None) -> Response[Any]:
    headers = {"etag": f'"{etag}"'} if etag else {}
    return Response(body if status != 204 else None, status_code=status, headers=headers)
