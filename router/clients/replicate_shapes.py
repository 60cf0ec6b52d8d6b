"""Replicate's shapes: predictions, models, errors. Pure, but for what Litestar's types need."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from litestar import Response
from litestar.exceptions import HTTPException

from registry.catalog import Digest, Slug, Variant
from router import errors, limits, snapshot
from router.clients.door import AnyRequest, Headers
from router.clients.uploads import Uploaded
from router.requests import Outcome, State, Status

STATUS: Mapping[State, str] = {
    State.QUEUED: "starting",
    State.RUNNING: "processing",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
}
DIGEST = "sha256:"
DIGEST_CHARACTERS = 64  # behind it

log = structlog.get_logger("marquee.replicate")


def version_id(slug: Slug, digest: Digest) -> str:
    """The contents, and of which variant: several may have the same, under schemas and prices of their own."""
    return digest.removeprefix(DIGEST) + _mark(slug)


def digest_of(identifier: str) -> Digest:
    return Digest(DIGEST + identifier[:DIGEST_CHARACTERS])


def is_of(identifier: str, slug: Slug) -> bool:
    """Whether a version's id may mean this variant's. One that was told before ids named variants may mean any."""
    return identifier[DIGEST_CHARACTERS:] in {"", _mark(slug)}


def _mark(slug: Slug) -> str:
    return hashlib.sha256(slug.encode()).hexdigest()[:8]


def prediction(status: Status, origin: str, *, starting: bool = False) -> dict[str, Any]:
    """`starting`: as create answers, where a run that is not over must not say `processing`: clients stop polling."""
    request, outcome = status.request, status.outcome
    said = STATUS[status.state]
    if starting and not status.state.is_final:
        said = "starting"
    files = [f"{origin}/files/{file.id}" for file in outcome.files] if outcome else []
    failed = outcome.failure if outcome else None
    address = f"{origin}/replicate/v1/predictions/{request.id}"
    return {
        "id": request.id,
        "model": snapshot.flat_of(request.slug),
        "version": version_id(request.slug, request.version),
        "status": said,
        "input": request.input,
        "output": _output(outcome, files)
        if outcome and status.state is State.SUCCEEDED and not outcome.erased
        else None,
        "error": failed.message if failed and status.state is State.FAILED else None,
        "logs": "\n".join(line.message for line in (outcome.logs if outcome else status.logs)),
        "metrics": {"predict_time": outcome.run_seconds} if outcome else {},
        "created_at": _time(request.created_at),
        "started_at": _time(status.started_at),
        "completed_at": _time(status.finished_at),
        "data_removed": bool(outcome and outcome.erased),
        "source": "api",
        "urls": {"get": address, "cancel": f"{address}/cancel", "web": f"{origin}/m/{request.slug}"},
    }


def _output(outcome: Outcome, files: list[str]) -> Any:
    """Files; of a partner's answer without any, the answer."""
    return outcome.result if outcome.places is not None and not files else files


def version(variant: Variant, digest: Digest) -> dict[str, Any]:
    outputs = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}
    return {
        "id": version_id(variant.slug, digest),
        "created_at": "1970-01-01T00:00:00Z",  # clients demand a time; the record holds none
        "cog_version": "0.16.0",  # before 0.3.9 clients take every list for a stream
        "openapi_schema": {
            "components": {"schemas": {"Input": dict(variant.input_schema), "Output": outputs}}
        },
    }


def model(variant: Variant, latest: Digest | None, origin: str) -> dict[str, Any]:
    return {
        "url": f"{origin}/m/{variant.slug}",
        "owner": variant.owner,
        "name": snapshot.flat_of(variant.slug).partition("/")[2],
        "description": variant.description or variant.name,
        "visibility": "public",
        "run_count": 0,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": None if latest is None else version(variant, latest),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


CODES: Mapping[type[errors.RouterError], tuple[int, str]] = {
    errors.UnauthorizedError: (401, "Unauthenticated"),
    errors.ForbiddenError: (403, "Not allowed"),
    errors.UnknownSlugError: (404, "Model not found"),
    errors.UnknownRequestError: (404, "Prediction not found"),
    errors.UnavailableError: (422, "Model not available"),
    errors.InvalidInputError: (422, "Input validation failed"),
    errors.MalformedBodyError: (400, "Malformed request"),
    errors.RepeatedKeyError: (422, "Idempotency-Key reused"),
    errors.BodyTooLargeError: (413, "Request too large"),
    errors.NoRoomError: (507, "No room"),
    errors.OverloadedError: (429, "Too many requests"),
    errors.QueueUnavailableError: (503, "Unavailable"),
    errors.StoppingError: (503, "Unavailable"),
}


def _refused(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, errors.RouterError)
    code, title = CODES.get(type(error), (500, "Internal error"))
    headers: Headers = {}
    if isinstance(error, errors.OverloadedError):
        headers["retry-after"] = limits.retry_after(error)
    return _problem(code, title, str(error), headers)


def _http(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, "Refused", error.detail, {})


def _unexpected(_: AnyRequest, error: Exception) -> Response[Any]:
    log.error("unexpected error", exc_info=error)
    return _problem(500, "Internal error", "Something went wrong here", {})


def file(stored: Uploaded, name: str, now: datetime) -> dict[str, Any]:
    """A file that an input may name by `urls.get`."""
    return {
        "id": stored.id,
        "name": name,
        "content_type": stored.content_type,
        "size": stored.size_bytes,
        "etag": stored.sha256,
        "checksums": {"sha256": stored.sha256},
        "metadata": {},
        "created_at": now.isoformat(),
        "expires_at": None,  # with the retention's days
        "urls": {"get": stored.url},
    }


def _problem(code: int, title: str, detail: str, headers: Headers) -> Response[Any]:
    return Response({"title": title, "detail": detail, "status": code}, status_code=code, headers=headers)


HANDLERS: dict[int | type[Exception], Any] = {
    errors.RouterError: _refused,
    HTTPException: _http,
    Exception: _unexpected,
}
