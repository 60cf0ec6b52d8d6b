"""What a webhook tells: a request's end in the shape of the door that was called. Pure."""

from collections.abc import Mapping
from typing import Any

from router.clients import fal_shapes, replicate_shapes
from router.requests import Status


def told(address: str, status: Status) -> Mapping[str, Any]:
    """`address`: where callers reach us."""
    if status.request.door == "replicate":
        return replicate_shapes.prediction(status, address)
    return fal_shapes.webhook(status, lambda file: f"{address}/files/{file.id}")
