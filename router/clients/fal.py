"""The door for fal's clients: synchronous runs and the queue, in fal's shapes and status codes. Process edge.

Status, result and cancel look a job up by its request id alone: clients drop all of a slug but owner and alias.
A failed or cancelled job is COMPLETED; its result answers with the error's own status.
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Router, get, post, put
from litestar.params import FromPath
from litestar.response import Stream
from litestar.types import ASGIApp

from registry.catalog import Caller, Slug
from router import webhooks
from router.clients import fal_shapes, fal_storage
from router.clients.door import (
    BODY_LIMIT_BYTES,
    HEARTBEAT,
    Answer,
    AnyRequest,
    Home,
    House,
    asked,
    read_object,
    with_heartbeat,
)
from router.clients.fal_storage import PREFIX
from router.errors import AlreadyFinishedError, UnknownRequestError
from router.requests import State, Status

PREVIEWS = "x-marquee-previews"  # in: 1, small pictures of the run with its events
REQUEST_ID = "x-fal-request-id"
ERASED = "Its input and outputs were erased at its owner's wish"
CACHE = "x-marquee-cache"  # in: 1 or 0, use an earlier result or never; out: `hit`


def router(home: Home) -> Router:
    """`home` is asked on each call."""

    @post("/run/{slug:path}", status_code=200)
    async def run(request: AnyRequest) -> ASGIApp:
        return await _run(home(), request, str(request.path_params["slug"]))

    @post("/queue/{slug:path}", status_code=200)
    async def submit(request: AnyRequest, slug: FromPath[str]) -> ASGIApp:
        return await _submit(home(), request, slug)

    @get("/rest/.well-known/jwks.json")
    async def webhook_keys() -> dict[str, Any]:
        return home().signer.jwks

    return Router(
        PREFIX,
        route_handlers=[run, submit, webhook_keys, *_job_routes(home), *fal_storage.routes(home)],
        exception_handlers=fal_shapes.HANDLERS,
        request_max_body_size=BODY_LIMIT_BYTES,
        include_in_schema=False,
    )


def _job_routes(home: Home) -> list[Any]:
    """What clients ask of a job that is in the queue, or was."""

    @get("/queue/{path:path}")
    async def read(request: AnyRequest, path: FromPath[str]) -> ASGIApp:
        job, action = _job(path)
        house = home()
        caller = house.caller(request)
        match action:
            case "status":
                return await _status(house, request, caller, job)
            case "status/stream":
                stream = await _stream(house, request, caller, job)
                return stream.to_asgi_response(app=None, request=request)
            case "" | "response":
                return await _result(house, request, caller, job)
            case _:
                raise UnknownRequestError(job)

    @put("/queue/{path:path}")
    async def cancel(request: AnyRequest, path: FromPath[str]) -> ASGIApp:
        job, action = _job(path)
        if action != "cancel":
            raise UnknownRequestError(job)
        return await _cancel(home(), home().caller(request), job)

    return [read, cancel]


async def _run(house: House, request: AnyRequest, path: str) -> Answer:
    caller = house.caller(request)
    slug, is_stream = _streamed(house, path)
    arguments = await read_object(request)
    start_within = fal_shapes.start_within_seconds(request.headers)
    status = await house.core.run(
        caller,
        slug,
        arguments,
        door="fal",
        start_within_seconds=start_within,
        reuse=_reuse(request),
        **asked(request),
    )
    answer = _answer(house, request, status)
    return _warned(house, caller, slug, _as_event(answer) if is_stream else answer)


def _warned(house: House, caller: Caller, slug: str, answer: Answer) -> Answer:
    """A variant that will end says so with every answer."""
    catalogue = house.core.catalogue
    answer.headers.update(catalogue.now.farewell(Slug(slug), caller, catalogue.clock()))
    return answer


async def _submit(house: House, request: AnyRequest, path: str) -> Answer:
    caller = house.caller(request)
    slug, webhook_url = path.strip("/"), request.query_params.get("fal_webhook")
    webhooks.check(webhook_url, allow_private=house.private_webhooks)
    arguments = await read_object(request)
    request_id = await house.core.submit(
        caller,
        slug,
        arguments,
        door="fal",
        priority="low" if request.headers.get("x-fal-queue-priority") == "low" else "normal",
        start_within_seconds=fal_shapes.start_within_seconds(request.headers),
        webhook_url=webhook_url,
        reuse=_reuse(request),
        previews=request.headers.get(PREVIEWS) == "1",
        **asked(request),
    )
    status = await house.core.status(caller, request_id)
    body = {"status": "IN_QUEUE", "queue_position": status.queue_position or 0}
    content = body | {"gateway_request_id": request_id} | _urls(house, request, status)
    return _warned(house, caller, slug, Answer(content=content, headers={REQUEST_ID: request_id}))


async def _status(house: House, request: AnyRequest, caller: Caller, job: str) -> Answer:
    status = await house.core.status(caller, job)
    content = fal_shapes.status(status, with_logs=_wants_logs(request)) | _urls(house, request, status)
    code = 200 if status.state.is_final else 202
    return Answer(content=content, status_code=code, headers={REQUEST_ID: status.request.id})


async def _stream(house: House, request: AnyRequest, caller: Caller, job: str) -> Stream:
    status = await house.core.status(caller, job)
    urls, with_logs = _urls(house, request, status), _wants_logs(request)

    async def events() -> AsyncIterator[bytes]:
        told: list[Any] = []
        async for change in with_heartbeat(house.core.watch(caller, job)):
            if change is None:
                yield HEARTBEAT
                continue
            shape = fal_shapes.status(change, with_logs=with_logs, with_preview=True)
            if lines := shape.get("logs"):  # a stream's logs are what is new
                shape["logs"], told = fal_shapes.newer(lines, told), lines
            yield _event(shape | urls)

    headers = {REQUEST_ID: status.request.id, "cache-control": "no-store", "x-accel-buffering": "no"}
    return Stream(events(), media_type="text/event-stream", headers=headers)


async def _result(house: House, request: AnyRequest, caller: Caller, job: str) -> Answer:
    status = await house.core.status(caller, job)
    if not status.state.is_final:
        return Answer(content={"detail": "Request is still in progress"}, status_code=400)
    return _answer(house, request, status)


async def _cancel(house: House, caller: Caller, job: str) -> Answer:
    try:
        before = await house.core.cancel(caller, job)
    except UnknownRequestError:
        return Answer(content={"status": "NOT_FOUND"}, status_code=404)
    except AlreadyFinishedError:
        return Answer(content={"status": "ALREADY_COMPLETED"}, status_code=400)
    if before is State.QUEUED:
        return Answer(content={"status": "OK"}, status_code=200)
    return Answer(content={"status": "CANCELLATION_REQUESTED"}, status_code=202)


def _answer(house: House, request: AnyRequest, status: Status) -> Answer:
    """A final status as the model's own answer."""
    outcome, request_id = status.outcome, status.request.id
    assert outcome is not None, "a final request has an outcome"
    if outcome.failure is not None:
        code, content, headers = fal_shapes.failure(outcome.failure)
        return Answer(content=content, status_code=code, headers={REQUEST_ID: request_id} | headers)
    if outcome.erased:
        return Answer(content={"detail": ERASED}, status_code=410, headers={REQUEST_ID: request_id})
    if status.request.input.get("sync_mode"):
        content = fal_shapes.output(status, house.data_uri)
    else:
        origin = house.origin(request)
        content = fal_shapes.output(status, lambda file: f"{origin}/files/{file.id}")
    headers = {REQUEST_ID: request_id, "x-fal-billable-units": str(len(outcome.files))}
    if outcome.reused:
        headers[CACHE] = "hit"
    return Answer(content=content, headers=headers)


def _reuse(request: AnyRequest) -> bool | None:
    """The caller's wish; None leaves it to the variant."""
    return {"1": True, "0": False}.get(request.headers.get(CACHE, ""))


def _streamed(house: House, path: str) -> tuple[str, bool]:
    """The slug that is called, and whether its answer shall be an event stream, as below a fal model's own `/stream`."""
    slug = path.strip("/")
    base, _, last = slug.rpartition("/")
    is_stream = last == "stream" and Slug(slug) not in house.core.catalogue.now.variants
    return (base, True) if is_stream else (slug, False)


def _as_event(answer: Answer) -> Answer:
    """The models here have one answer, so it is the one event; a refusal stays what it is, with its status."""
    if answer.status_code != 200:
        return answer
    headers = {"content-type": "text/event-stream"} | answer.headers
    return msgspec.structs.replace(answer, headers=headers, encode=_event)


def _event(content: Any) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _job(path: str) -> tuple[str, str]:
    """The request id and what is wanted of it. Raises `UnknownRequestError`."""
    _, found, rest = path.strip("/").rpartition("requests/")
    if not found:
        raise UnknownRequestError(path)
    job, _, action = rest.partition("/")
    return job, action


def _urls(house: House, request: AnyRequest, status: Status) -> dict[str, Any]:
    """Addresses as clients derive them themselves: owner and alias, whatever follows dropped."""
    pieces = status.request.slug.split("/")
    kept = 3 if pieces[0] in fal_shapes.NAMESPACES else 2
    job = f"{house.origin(request)}{PREFIX}/queue/{'/'.join(pieces[:kept])}/requests/{status.request.id}"
    return {
        "request_id": status.request.id,
        "response_url": job,
        "status_url": f"{job}/status",
        "cancel_url": f"{job}/cancel",
    }


def _wants_logs(request: AnyRequest) -> bool:
    return request.query_params.get("logs", "").lower() in {"1", "true"}
