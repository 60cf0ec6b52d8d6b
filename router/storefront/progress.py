"""A request's status as the playground tells it: one line of words, a share done, and in the end pictures. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from router.partners import places
from router.requests import Outcome, State, Status


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One output as the page shows it; the address is relative, so it works on whatever name the page has."""

    url: str
    content_type: str
    width: int | None = None
    height: int | None = None
    size_bytes: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows of a request at one moment. `share` is None while nothing can be counted."""

    id: str
    state: str
    line: str
    share: float | None = None
    preview: str | None = None  # a data URI
    pictures: tuple[Picture, ...] = ()
    result: Mapping[str, Any] = {}
    answer: Mapping[str, Any] | None = None  # a partner's own shape, with our addresses in it
    timings: Mapping[str, float] = {}
    location: tuple[str, ...] = ()
    cost: str | None = None  # once it has ended and has a price, like `0.02 USD`


def progress(status: Status, cost: str | None = None) -> Progress:
    outcome = status.outcome
    return Progress(
        id=status.request.id,
        state=status.state,
        line=_line(status),
        share=_share(status),
        preview=status.preview_uri,
        pictures=_pictures(outcome) if outcome else (),
        result=_result(status, outcome) if outcome else {},
        answer=_answer(outcome) if outcome else None,
        timings=_timings(outcome) if outcome else {},
        location=outcome.failure.location if outcome and outcome.failure else (),
        cost=cost,
    )


def _line(status: Status) -> str:
    match status.state:
        case State.QUEUED:
            return _queue_line(status.queue_position)
        case State.RUNNING:
            return _running_line(status)
        case State.SUCCEEDED:
            return "Done"
        case State.CANCELLED:
            return "Cancelled"
        case State.FAILED:
            failure = status.outcome.failure if status.outcome else None
            return failure.message if failure else "The run failed"


def _queue_line(position: int | None) -> str:
    if position is None:
        return "Queued"
    return "Queued, next in line" if position == 0 else f"Queued, {position} ahead"


def _running_line(status: Status) -> str:
    if status.step is not None and status.steps:
        return f"Step {status.step} of {status.steps}"
    return "Loading weights" if status.phase == "loading" else "Running"


def _share(status: Status) -> float | None:
    if status.state == State.SUCCEEDED:
        return 1.0
    if status.state == State.RUNNING and status.step is not None and status.steps:
        return min(1.0, status.step / status.steps)
    return None


def _pictures(outcome: Outcome) -> tuple[Picture, ...]:
    return tuple(
        Picture(
            url=f"/files/{file.id}",
            content_type=file.content_type,
            width=file.width,
            height=file.height,
            size_bytes=file.size_bytes,
        )
        for file in outcome.files
    )


def _result(status: Status, outcome: Outcome) -> Mapping[str, Any]:
    seed = outcome.result.get("seed", status.request.input.get("seed"))
    flagged = outcome.result.get("has_nsfw_concepts", ())
    return {"seed": seed, "flagged": any(flagged) if isinstance(flagged, list | tuple) else False}


def _answer(outcome: Outcome) -> Mapping[str, Any] | None:
    if outcome.places is None:
        return None
    return places.filled(outcome.result, outcome.places, lambda n: f"/files/{outcome.files[n].id}")


def _timings(outcome: Outcome) -> Mapping[str, float]:
    return {
        "wait": round(outcome.wait_seconds, 3),
        "load": round(outcome.load_seconds, 3),
        "run": round(outcome.run_seconds, 3),
    }
