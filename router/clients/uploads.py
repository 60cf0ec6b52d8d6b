"""Files that an input will name, sent before it. Process edge.

They lie in the file store as outputs do: under ids that nobody can guess, for the retention's days. `POST /v1/files`
takes a plain body; the doors have their clients' own ways, which end here too.
"""

import asyncio
import mimetypes
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Response, Router, post

from registry import edge
from router.clients.door import AnyRequest, Home, House
from router.errors import (
    BodyTooLargeError,
    ForbiddenError,
    MalformedBodyError,
    NoRoomError,
    RouterError,
    UnauthorizedError,
)
from router.files import SUFFIXES, WEIGHTS, Draft

LIMIT_BYTES = 1 << 30
CHUNK_BYTES = 1 << 20
NAME = "x-file-name"
PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    UnauthorizedError: (401, "Key needed"),
    ForbiddenError: (403, "Not allowed"),
    MalformedBodyError: (400, "Malformed request"),
    BodyTooLargeError: (413, "File too large"),
    NoRoomError: (507, "No room"),
    RouterError: (503, "Not available"),
}


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that inputs may name by `url`."""

    id: str
    url: str
    content_type: str
    size_bytes: int
    sha256: str


def router(home: Home) -> Router:
    """`home` is asked on each call."""

    @post("/v1/files", status_code=201)
    async def upload(request: AnyRequest) -> Response[Uploaded]:
        house = home()
        house.caller(request)
        media_type = kind(request.headers.get("content-type", ""), request.headers.get(NAME, ""))
        return Response(await keep(house, request, request.stream(), media_type))

    handlers: dict[Any, Any] = edge.problem_handlers(PROBLEMS)
    return Router(
        "/",
        route_handlers=[upload],
        exception_handlers=handlers,
        request_max_body_size=None,  # counted while it arrives
        include_in_schema=False,
    )


def kind(content_type: str, name: str) -> str:
    """The media type under which it is served again: as declared, else by the file's name."""
    if name.endswith(".safetensors"):
        return WEIGHTS
    declared = content_type.partition(";")[0].strip().lower()
    return declared if declared in SUFFIXES else mimetypes.guess_type(name)[0] or declared


async def keep(
    house: House,
    request: AnyRequest,
    chunks: AsyncIterator[bytes],
    media_type: str,
    file_id: str | None = None,
) -> Uploaded:
    """Under a fresh id, or under one that was promised. Raises `BodyTooLargeError`, `MalformedBodyError`, `NoRoomError`."""
    draft = house.files.draft()
    try:
        await _receive(draft, chunks)
        kept = await asyncio.to_thread(draft.keep, media_type, time.time(), file_id)
    except OSError as error:
        raise NoRoomError(f"the file cannot be stored: {error.strerror}") from error
    finally:
        draft.discard()
    stored = house.files.find(kept)
    return Uploaded(
        id=kept,
        url=f"{house.origin(request)}/files/{kept}",
        content_type=stored.media_type,
        size_bytes=draft.size_bytes,
        sha256=draft.sha256,
    )


async def _receive(draft: Draft, chunks: AsyncIterator[bytes]) -> None:
    """A megabyte a write, in a thread: disks are slow."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        if draft.size_bytes + len(pending) > LIMIT_BYTES:
            raise BodyTooLargeError(LIMIT_BYTES)
        if len(pending) >= CHUNK_BYTES:
            await asyncio.to_thread(draft.write, bytes(pending))
            pending.clear()
    if pending:
        await asyncio.to_thread(draft.write, bytes(pending))
    if draft.size_bytes == 0:
        raise MalformedBodyError("the file is empty")
