"""From a request's end to its usage record: what was made, what it costs. `record` writes through `registry.usage`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, cast

from registry import usage
from registry.database import Connection
from registry.usage import Quantities, UsageRecord
from router.requests import Outcome, State
from router.rows import Ending


async def record(connection: Connection, endings: Sequence[tuple[Ending, datetime]]) -> None:
    """One usage record for each, within the caller's transaction."""
    if endings:
        await usage.record(connection, [to_record(ending, finished_at) for ending, finished_at in endings])


def to_record(ending: Ending, finished_at: datetime) -> UsageRecord:
    request, outcome = ending.entry.request, ending.outcome
    assert outcome.state.is_final, "only what has ended is in the ledger"
    made = quantities(outcome)
    return UsageRecord(
        request_id=request.id,
        organization=request.organization,
        key_id=request.key_id,
        slug=request.slug,
        version=request.version,
        adapters=tuple(use.digest for use in request.adapters),
        pool=request.pool,
        door=request.door,
        state=cast("Literal['succeeded', 'failed', 'cancelled']", outcome.state.value),
        error=None if outcome.failure is None else outcome.failure.error,
        attempt=outcome.attempt,
        host_id=outcome.host_id,
        created_at=request.created_at,
        finished_at=finished_at,
        wait_seconds=outcome.wait_seconds,
        load_seconds=outcome.load_seconds,
        run_seconds=outcome.run_seconds,
        quantities=made,
        reused=outcome.reused,
        charge=usage.charge(ending.price, made),
    )


def quantities(outcome: Outcome) -> Quantities:
    """What failed or was cancelled made nothing, so it costs nothing."""
    if outcome.state is not State.SUCCEEDED:
        return Quantities()
    images = [f for f in outcome.files if f.content_type.startswith("image/")]
    videos = [f for f in outcome.files if f.content_type.startswith("video/")]
    return Quantities(
        images=len(images),
        megapixels=sum((f.width or 0) * (f.height or 0) for f in images) / 1e6,
        video_seconds=sum(f.seconds or 0.0 for f in videos),
        gpu_seconds=outcome.run_seconds,
        requests=1,
    )
