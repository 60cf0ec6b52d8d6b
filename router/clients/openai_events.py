"""A request of OpenAI's image routes as its clients follow it: pictures of the run, then what it made. Process edge.

One event a picture. What other models do not know (quality, background, tokens) is said as OpenAI says what it left to itself.
"""

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from registry.catalog import Caller
from router.clients.door import HEARTBEAT, House, with_heartbeat
from router.errors import InvalidInputError, Issue
from router.requests import Failure, Status, StoredFile

MOST_PARTIAL = 3  # pictures of a run, as at OpenAI
NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def partial_images(body: Mapping[str, Any]) -> int:
    """How many pictures of the run are wished for. Raises `InvalidInputError`."""
    count = body.get("partial_images") or 0
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_PARTIAL:
        said = f"say a whole number from 0 to {MOST_PARTIAL}"
        raise InvalidInputError([Issue(location=("partial_images",), message=said, kind="value_error")])
    return count


async def follow(
    house: House, caller: Caller, request_id: str, wished: int, event: str
) -> AsyncIterator[bytes]:
    """Until its end; a comment when nothing happens for long. `event`: how its route's events begin."""
    told = 0
    async for status in with_heartbeat(house.core.watch(caller, request_id)):
        if status is None:
            yield HEARTBEAT
        elif not status.state.is_final:
            if told < wished and _is_due(status, told, wished):
                yield _event(f"{event}.partial_image", _partial(status, told))
                told += 1
        elif status.outcome is not None and status.outcome.failure is not None:
            yield _error(status.outcome.failure)
        elif status.outcome is not None:
            for file in status.outcome.files:
                if file.content_type.startswith("image/"):
                    yield _event(f"{event}.completed", _whole(house, status, file))


def _is_due(status: Status, told: int, wished: int) -> bool:
    """Spread over the run: of two, one after a third of the steps, one after two thirds."""
    if not status.preview:
        return False
    return not status.steps or (status.step or 0) * (wished + 1) >= status.steps * (told + 1)


def _partial(status: Status, told: int) -> dict[str, Any]:
    content = base64.b64encode(status.preview).decode()
    shape = _common(status, "image/webp", "auto")
    return {"b64_json": content, "partial_image_index": told} | shape


def _whole(house: House, status: Status, file: StoredFile) -> dict[str, Any]:
    size = f"{file.width}x{file.height}" if file.width and file.height else "auto"
    return {"b64_json": house.base64_of(file), "usage": NO_TOKENS} | _common(status, file.content_type, size)


def _common(status: Status, content_type: str, size: str) -> dict[str, Any]:
    return {
        "created_at": int(status.request.created_at.timestamp()),
        "size": size,
        "quality": "auto",
        "background": "auto",
        "output_format": content_type.partition("/")[2],
    }


def _event(kind: str, content: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode({"type": kind, **content}) + b"\n\n"


def _error(failure: Failure) -> bytes:
    kind = "invalid_request_error" if failure.kind == "input" else "server_error"
    error = {"message": failure.message, "type": kind, "param": None, "code": failure.error}
    return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"
