"""fal's way to send a file before the input that names it. Process edge."""

import time
from typing import Any

from litestar import post, put
from litestar.params import FromPath

from router.clients import uploads
from router.clients.door import AnyRequest, Home, House, read_object
from router.errors import UnauthorizedError

PREFIX = "/fal"
HOLDS_SECONDS = 3600  # an address to upload to


def routes(home: Home) -> list[Any]:
    """Below fal's door."""

    @post("/rest/storage/upload/initiate", status_code=200)
    async def initiate(request: AnyRequest) -> dict[str, str]:
        return await _initiate(home(), request)

    @put("/rest/storage/upload/{token:str}", status_code=200, request_max_body_size=None)
    async def upload(request: AnyRequest, token: FromPath[str]) -> uploads.Uploaded:
        return await _upload(home(), request, token)

    return [initiate, upload]


async def _initiate(house: House, request: AnyRequest) -> dict[str, str]:
    """Where to send a file, and its address afterwards. Browsers send it without a key, so the address is a token."""
    house.caller(request)
    body = await read_object(request)
    media_type = uploads.kind(str(body.get("content_type", "")), str(body.get("file_name", "")))
    file_id, _ = house.files.place(media_type, time.time())
    token = house.signer.seal(f"{file_id}.{int(time.time()) + HOLDS_SECONDS}")
    origin = house.origin(request)
    return {
        "upload_url": f"{origin}{PREFIX}/rest/storage/upload/{token}",
        "file_url": f"{origin}/files/{file_id}",
    }


async def _upload(house: House, request: AnyRequest, token: str) -> uploads.Uploaded:
    """Raises `UnauthorizedError`: not an address of ours, or too old."""
    file_id, _, until = (house.signer.opened(token) or "").rpartition(".")
    if not until or time.time() > int(until):
        raise UnauthorizedError("ask for a new address to upload to: this one is over")
    return await uploads.keep(house, request, request.stream(), "", file_id)
