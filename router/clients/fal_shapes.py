"""fal's shapes: status objects, outputs, errors and their status codes. Pure, but for what Litestar's types need."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from litestar import Response
from litestar.exceptions import HTTPException

from router import errors, limits
from router.clients.door import AnyRequest, Headers
from router.partners import places
from router.requests import Failure, LogLine, State, Status, StoredFile

NAMESPACES = frozenset({"workflows", "comfy"})
RETRYABLE = "x-fal-retryable"
ERROR_TYPE = "x-fal-error-type"

log = structlog.get_logger("marquee.fal")


def status(status: Status, *, with_logs: bool, with_preview: bool = False) -> dict[str, Any]:
    """The status object, but for its addresses."""
    logs = [_log(line) for line in _lines(status)] if with_logs else None
    match status.state:
        case State.QUEUED:
            return {"status": "IN_QUEUE", "queue_position": status.queue_position or 0}
        case State.RUNNING:
            shape: dict[str, Any] = {"status": "IN_PROGRESS", "logs": logs}
            return shape | _progress(status, with_preview=with_preview)
        case State.SUCCEEDED | State.FAILED | State.CANCELLED:
            outcome = status.outcome
            seconds = None if outcome is None or outcome.failure else outcome.run_seconds
            done = {"status": "COMPLETED", "logs": logs, "metrics": {"inference_time": seconds}}
            if outcome is not None and outcome.failure is not None:
                done |= {"error": outcome.failure.message, "error_type": error_type(outcome.failure)}
            return done


def _progress(status: Status, *, with_preview: bool) -> dict[str, Any]:
    """Steps, which fal's own answers lack, and what the run seems to become."""
    if status.step is None:
        return {}
    shape: dict[str, Any] = {"step": status.step, "steps": status.steps}
    if with_preview and (preview := status.preview_uri):
        shape["preview"] = preview
    return {"progress": shape}


def output(status: Status, address: Callable[[StoredFile], str]) -> dict[str, Any]:
    """What the model answered."""
    outcome = status.outcome
    assert outcome is not None, "a final request has an outcome"
    if outcome.places is not None:
        return places.filled(outcome.result, outcome.places, lambda n: address(outcome.files[n]))
    values = status.request.input
    files = [(file, _file(file, address)) for file in outcome.files]
    content: dict[str, Any] = {"timings": {"inference": outcome.run_seconds}}
    content |= {name: values[name] for name in ("prompt", "seed") if name in values}
    content |= outcome.result
    if images := [shape for file, shape in files if file.content_type.startswith("image/")]:
        content["images"] = images
        content.setdefault("has_nsfw_concepts", [False] * len(images))
    for kind in ("video", "audio"):
        if found := [shape for file, shape in files if file.content_type.startswith(f"{kind}/")]:
            content[kind] = found[0]
    return content


def _lines(status: Status) -> Sequence[LogLine]:
    return status.logs if status.outcome is None else status.outcome.logs


def _log(line: LogLine) -> dict[str, Any]:
    shape = {"message": line.message, "level": line.level, "source": "USER"}
    return shape | {"timestamp": line.timestamp}


def newer(lines: Sequence[Any], told: Sequence[Any]) -> Sequence[Any]:
    """Those behind the last one told; only the newest lines are kept, so positions say nothing."""
    last = next((n for n in range(len(lines) - 1, -1, -1) if told and lines[n] == told[-1]), -1)
    return lines[last + 1 :]


def webhook(status: Status, address: Callable[[StoredFile], str]) -> dict[str, Any]:
    """What a webhook's receiver gets: the result, or the error as the result call would say it."""
    request_id = status.request.id
    shape: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id}
    ending = status.outcome.failure if status.outcome else None
    if ending is None:
        return shape | {"status": "OK", "payload": output(status, address)}
    code, body, _ = failure(ending)
    return shape | {"status": "ERROR", "payload": body, "error": f"Invalid status code: {code}"}


def _file(file: StoredFile, address: Callable[[StoredFile], str]) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "url": address(file),
        "content_type": file.content_type,
        "file_name": file.id,
        "file_size": file.size_bytes,
    }
    if file.width is not None:
        shape |= {"width": file.width, "height": file.height}
    return shape


def start_within_seconds(headers: Mapping[str, str]) -> float | None:
    """The caller's deadline for the start; a number that is none is ignored, as fal does."""
    text = headers.get("x-fal-request-start-timeout") or headers.get("x-fal-request-timeout")
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e7 else None


def error_type(failure: Failure) -> str:
    match failure.kind:
        case "cancelled":
            return "client_cancelled"
        case "deadline":
            return "request_timeout"
        case "input":
            return "bad_request"
        case "model" | "host":
            return failure.error or "runner_server_error"


def failure(failure: Failure) -> tuple[int, dict[str, Any], Headers]:
    """Status, body and headers of a failed job's result."""
    kind = error_type(failure)
    headers = {ERROR_TYPE: kind, RETRYABLE: "false"}
    match failure.kind:
        case "input":
            issue = {"loc": ["body", *failure.location], "msg": failure.message, "type": failure.error}
            told = [_issue(one) for one in failure.issues]
            return 422, {"detail": told or [issue]}, {RETRYABLE: "false"}
        case "cancelled":
            return 499, {"detail": failure.message, "error_type": kind}, headers
        case "deadline":
            headers |= {"x-fal-request-timeout-type": "user"}
            return 504, {"detail": failure.message, "error_type": kind}, headers
        case "model" | "host":
            return 500, {"detail": failure.message, "error_type": kind}, headers


def _issue(issue: errors.Issue) -> dict[str, Any]:
    shape: dict[str, Any] = {"loc": list(issue.location), "msg": issue.message, "type": issue.kind}
    return shape if issue.input is None else shape | {"input": issue.input}


# Never 408, 409 or 429 for what would fail again: fal's clients repeat those. Overload passes, so it may be one.
STATUS: Mapping[type[errors.RouterError], int] = {
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.UnknownSlugError: 404,
    errors.UnknownRequestError: 404,
    errors.UnknownFileError: 404,
    errors.AlreadyFinishedError: 400,
    errors.UnavailableError: 422,
    errors.InvalidInputError: 422,
    errors.MalformedBodyError: 422,
    errors.RepeatedKeyError: 422,
    errors.BodyTooLargeError: 413,
    errors.NoRoomError: 507,
    errors.OverloadedError: 429,
    errors.QueueUnavailableError: 503,
    errors.StoppingError: 503,
}


def _detail(error: errors.RouterError) -> Any:
    match error:
        case errors.InvalidInputError(issues=issues):
            return [_issue(issue) for issue in issues]
        case errors.MalformedBodyError():
            return [{"loc": ["body"], "msg": str(error), "type": "json_invalid"}]
        case _:
            return str(error)


def _refused(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, errors.RouterError)
    code = STATUS.get(type(error), 500)
    if isinstance(error, errors.UnavailableError) and error.is_gone:
        code = 410
    headers: Headers = {} if code < 500 else {ERROR_TYPE: "internal_error"}
    if isinstance(error, errors.OverloadedError):
        headers |= {"retry-after": limits.retry_after(error)}
    if isinstance(error, errors.StoppingError):
        headers |= {"x-fal-request-id": error.request_id}
    return Response({"detail": _detail(error)}, status_code=code, headers=headers)


def _http(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, HTTPException)
    return Response({"detail": error.detail}, status_code=error.status_code)


def _unexpected(_: AnyRequest, error: Exception) -> Response[Any]:
    log.error("unexpected error", exc_info=error)
    return Response({"detail": "Internal error"}, status_code=500, headers={ERROR_TYPE: "internal_error"})


HANDLERS: dict[int | type[Exception], Any] = {
    errors.RouterError: _refused,
    HTTPException: _http,
    Exception: _unexpected,
}
