"""Serves the file store and the weights that hosts cannot read themselves. Process edge.

Outputs need no key: their ids cannot be guessed, and clients that send one all the same are not refused. Files
never change, so their id is their ETag and caches may keep them for good.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from litestar import Response, Router, get, head
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Stream

from router.clients.door import AnyRequest, Headers, Home
from router.errors import UnknownFileError
from router.files import Stored

CHUNK_BYTES = 1 << 20
INLINE_BYTES = 4 << 20  # smaller files are read at once
SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
FOR_GOOD = "public, max-age=31536000, immutable"


def router(home: Home) -> Router:
    @get("/files/{file_id:str}", include_in_schema=False)
    async def read(request: AnyRequest, file_id: FromPath[str]) -> Response[Any] | Stream:
        return await _serve(_find(home, file_id), request)

    @head("/files/{file_id:str}", include_in_schema=False)
    async def look(file_id: FromPath[str]) -> Response[None]:
        file = _find(home, file_id)
        headers = _headers(file) | {"content-length": str(file.size_bytes)}
        return Response(None, headers=headers, media_type=file.media_type)

    @get("/blobs/{sha256:str}", include_in_schema=False)
    async def blob(request: AnyRequest, sha256: FromPath[str]) -> Response[Any] | Stream:
        house = home()
        house.caller(request, "host")
        path = house.core.catalogue.now.blob(sha256)
        if path is None and SHA256.fullmatch(sha256):
            path = house.loras.blob(sha256)
        if path is None or not await asyncio.to_thread(path.is_file):
            raise NotFoundException(f"no blob {sha256}")
        return await _serve(Stored(id=sha256, path=path, size_bytes=path.stat().st_size), request)

    return Router("/", route_handlers=[read, look, blob])


def _find(home: Home, file_id: str) -> Stored:
    try:
        return home().files.find(file_id)
    except UnknownFileError as error:
        raise NotFoundException(str(error)) from error


async def _serve(file: Stored, request: AnyRequest) -> Response[Any] | Stream:
    headers = _headers(file)
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(None, status_code=304, headers=headers)
    span = _span(request.headers.get("range"), file.size_bytes)
    if span is None:
        return await _send(file, 0, file.size_bytes, 200, headers)
    start, end = span
    if start >= end:
        headers["content-range"] = f"bytes */{file.size_bytes}"
        return Response(None, status_code=416, headers=headers)
    headers["content-range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    return await _send(file, start, end, 206, headers)


def _headers(file: Stored) -> Headers:
    headers = {
        "etag": f'"{file.id}"',
        "cache-control": FOR_GOOD,
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
    }
    if file.is_opaque:
        headers["content-disposition"] = "attachment"
    return headers


def _span(text: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The half-open span of one range; None for none, or one that may be ignored. Empty: it cannot be satisfied."""
    match = RANGE.fullmatch(text or "")
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size_bytes - int(match[2])), size_bytes
    end = int(match[2]) + 1 if match[2] else size_bytes
    return int(match[1]), min(end, size_bytes)


async def _send(file: Stored, start: int, end: int, status: int, headers: Headers) -> Response[Any] | Stream:
    if end - start <= INLINE_BYTES:
        content = await asyncio.to_thread(_read, file.path, start, end)
        return Response(content, status_code=status, headers=headers, media_type=file.media_type)
    headers["content-length"] = str(end - start)
    return Stream(
        _pieces(file.path, start, end), status_code=status, headers=headers, media_type=file.media_type
    )


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


async def _pieces(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    for offset in range(start, end, CHUNK_BYTES):
        yield await asyncio.to_thread(_read, path, offset, min(end, offset + CHUNK_BYTES))
