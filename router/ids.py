"""Request ids: UUIDv7, so that an id sorts by its time and names its day's partition. Pure."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from registry import partitions
from router.requests import RequestId

Entropy = Callable[[int], int]  # a number of that many random bits


def request_id(now: float, entropy: Entropy = secrets.randbits) -> RequestId:
    """`now` in unix seconds; ids of one millisecond are in no order."""
    return RequestId(str(partitions.uuid7(int(now * 1000), entropy(74))))


def parse(text: str) -> RequestId | None:
    """The canonical spelling of a request id, or None when it is not one."""
    try:
        value = UUID(text)
    except ValueError:
        return None
    return RequestId(str(value)) if value.version == 7 else None


def created_at(identifier: RequestId) -> datetime:
    return datetime.fromtimestamp((UUID(identifier).int >> 80) / 1000, UTC)
