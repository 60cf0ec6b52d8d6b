"""What a call becomes before it is stored: one `Request`, of what was resolved and what its caller wishes. Pure."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

from loaders.protocol import PREVIEWS, AdapterUse
from registry.catalog import Caller, Digest
from router import ids, results
from router.requests import Priority, Request
from router.snapshot import Resolved

Door = Literal["fal", "replicate", "openai", "huggingface", "page", "cli"]
Entropy = Callable[[int], int]


class Wishes(TypedDict, total=False):
    """How a caller wants it; every door says what its family can say."""

    door: Door
    priority: Priority
    start_within_seconds: float | None
    webhook_url: str | None
    reuse: bool | None  # of what the same request made before; None leaves it to the variant
    previews: bool  # of the run, where a host can make any
    version: Digest | None  # which of those that share the slug's traffic
    fleeting: bool  # nothing of its contents is kept once it has ended
    once: str | None  # the caller's own name for it, under which it may be asked again


def compose(
    caller: Caller,
    resolved: Resolved,
    values: Mapping[str, Any],
    adapters: tuple[AdapterUse, ...],
    wishes: Wishes,
    *,
    pool: str,
    seeded: bool,
    traceparent: str | None,
    now: datetime,
    entropy: Entropy,
) -> Request:
    """`values` is the whole input; `seeded` when its seed is the caller's."""
    if wishes.get("previews") and resolved.version is not None:  # a partner knows no such word
        values = {**values, PREVIEWS: True}
    key = results.key_of(
        resolved.variant,
        resolved.digest,
        adapters,
        values,
        organization=caller.organization,
        asked=False if wishes.get("fleeting") else wishes.get("reuse"),
        seeded=seeded,
    )
    return Request(
        id=ids.request_id(now.timestamp(), entropy),
        organization=caller.organization,
        key_id=caller.key_id,
        slug=resolved.variant.slug,
        version=resolved.digest,
        adapters=adapters,
        input=values,
        pool=pool,
        priority=wishes.get("priority", "normal"),
        created_at=now,
        start_deadline=_deadline(wishes, now),
        webhook_url=wishes.get("webhook_url"),
        door=wishes.get("door", "page"),
        traceparent=traceparent,
        result_key=key,
    )


def _deadline(wishes: Wishes, now: datetime) -> datetime | None:
    within = wishes.get("start_within_seconds")
    return None if within is None else now + timedelta(seconds=within)
