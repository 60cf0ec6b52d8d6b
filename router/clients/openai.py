"""The door for OpenAI's clients: the image routes and the list of models, in OpenAI's shapes. Process edge."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import structlog
from litestar import Response, Router, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.response import Stream

from registry.catalog import Caller, Slug, Variant
from router import errors, limits
from router.clients import openai_edits, openai_events, pictures
from router.clients.door import BODY_LIMIT_BYTES, AnyRequest, Headers, Home, House, asked, read_object
from router.errors import InvalidInputError, Issue, UnknownSlugError
from router.requests import StoredFile

PREFIX = "/openai/v1"
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
OURS = frozenset({"model", "n", "size", "response_format", "prompt", "stream", "partial_images"})
# Said by OpenAI's clients; without a meaning for models that do not name them among their inputs.
THEIRS = frozenset(
    {"quality", "background", "moderation", "output_compression", "output_format", "style", "user",
     "input_fidelity"}
)  # fmt: skip
CODES: Mapping[type[errors.RouterError], tuple[int, str, str | None]] = {
    errors.UnauthorizedError: (401, "authentication_error", "invalid_api_key"),
    errors.ForbiddenError: (403, "permission_error", None),
    errors.UnknownSlugError: (404, "invalid_request_error", "model_not_found"),
    errors.UnavailableError: (404, "invalid_request_error", "model_not_available"),
    errors.InvalidInputError: (400, "invalid_request_error", "invalid_value"),
    errors.MalformedBodyError: (400, "invalid_request_error", None),
    errors.RepeatedKeyError: (422, "invalid_request_error", "idempotency_key_reused"),
    errors.BodyTooLargeError: (413, "invalid_request_error", None),
    errors.OverloadedError: (429, "rate_limit_error", "rate_limit_exceeded"),
    errors.QueueUnavailableError: (503, "server_error", None),
    errors.StoppingError: (503, "server_error", None),
}

log = structlog.get_logger("marquee.openai")


def router(home: Home) -> Router:
    """`home` is asked on each call."""

    @post("/images/generations", status_code=200)
    async def generate(request: AnyRequest) -> Response[Any]:
        return await _generate(home(), request)

    @post("/images/edits", status_code=200, request_max_body_size=openai_edits.LIMIT_BYTES)
    async def edit(request: AnyRequest) -> Response[Any]:
        return await _edit(home(), request)

    @get("/models")
    async def models(request: AnyRequest) -> dict[str, Any]:
        house = home()
        found = house.core.catalogue.variants(house.caller(request))
        return {"object": "list", "data": [_model(variant) for variant in found]}

    @get("/models/{slug:path}")
    async def model(request: AnyRequest, slug: FromPath[str]) -> dict[str, Any]:
        house = home()
        caller = house.caller(request)
        return _model(house.core.resolve(caller, slug.strip("/")).variant)

    return Router(
        PREFIX,
        route_handlers=[generate, edit, models, model],
        exception_handlers=HANDLERS,
        request_max_body_size=BODY_LIMIT_BYTES,
        include_in_schema=False,
    )


async def _generate(house: House, request: AnyRequest) -> Response[Any]:
    caller = house.caller(request)
    body = await read_object(request)
    slug = _slug(body)
    values = arguments(body, _inputs(house, slug))
    return await _answer(house, request, caller, slug, body, values)


async def _edit(house: House, request: AnyRequest) -> Response[Any]:
    caller = house.caller(request)
    texts, sent = await openai_edits.read(request)
    schema = house.core.resolve(caller, _slug(texts)).variant.input_schema
    body = openai_edits.body(texts, schema)
    values = arguments(body, schema.get("properties", ())) | pictures.placed(
        sent["image"], sent["mask"], schema
    )
    return await _answer(house, request, caller, _slug(texts), body, values, "image_edit")


def _slug(body: Mapping[str, Any]) -> str:
    """Raises `InvalidInputError`."""
    if not (model := body.get("model")):
        raise InvalidInputError(
            [Issue(location=("model",), message="say which model: a slug", kind="missing")]
        )
    return str(model)


async def _answer(
    house: House,
    request: AnyRequest,
    caller: Caller,
    slug: str,
    body: Mapping[str, Any],
    values: Mapping[str, Any],
    event: str = "image_generation",
) -> Response[Any]:
    if body.get("stream"):
        return await _stream(house, request, caller, slug, body, values, event)
    status = await house.core.run(caller, slug, values, door="openai", **asked(request))
    outcome = status.outcome
    assert outcome is not None, "a final request has an outcome"
    headers: Headers = {"x-request-id": status.request.id}
    if outcome.failure is not None:
        is_input = outcome.failure.kind == "input"
        code, kind = (400, "invalid_request_error") if is_input else (500, "server_error")
        # What fails for the model's own reasons fails again: the client shall not repeat it.
        headers["x-should-retry"] = "false"
        return _error(code, outcome.failure.message, kind, outcome.failure.error, None, headers)
    as_url = body.get("response_format") == "url"
    made = [file for file in outcome.files if file.content_type.startswith("image/")]
    data = [_image(house, request, file, as_url=as_url) for file in made]
    return Response({"created": int(status.request.created_at.timestamp()), "data": data}, headers=headers)


async def _stream(
    house: House,
    request: AnyRequest,
    caller: Caller,
    slug: str,
    body: Mapping[str, Any],
    values: Mapping[str, Any],
    event: str,
) -> Stream:
    """What is refused is refused with its status, before anything is streamed."""
    wished = openai_events.partial_images(body)
    request_id = await house.core.submit(
        caller, slug, values, door="openai", previews=wished > 0, **asked(request)
    )
    headers = {"x-request-id": request_id, "cache-control": "no-store", "x-accel-buffering": "no"}
    events = openai_events.follow(house, caller, request_id, wished, event)
    return Stream(events, media_type="text/event-stream", headers=headers)


def _inputs(house: House, slug: str) -> Collection[str]:
    """What a model calls its own inputs."""
    variant = house.core.catalogue.now.variants.get(Slug(slug))
    return () if variant is None else variant.input_schema.get("properties", ())


def arguments(body: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """OpenAI's words in ours; whatever else is said goes to the model as it is. Raises `InvalidInputError`."""
    dropped = OURS | {name for name in THEIRS if name not in known}
    values = {name: value for name, value in body.items() if name not in dropped}
    if "prompt" in body:
        values["prompt"] = body["prompt"]
    if body.get("n") is not None:
        values["num_images"] = body["n"]
    size = body.get("size")
    if size is not None and size != "auto":
        match = SIZE.fullmatch(str(size))
        if match is None:
            raise InvalidInputError(
                [Issue(location=("size",), message="say WIDTHxHEIGHT", kind="value_error")]
            )
        values["image_size"] = {"width": int(match[1]), "height": int(match[2])}
    return values


def _image(house: House, request: AnyRequest, file: StoredFile, *, as_url: bool) -> dict[str, str]:
    if as_url:
        return {"url": f"{house.origin(request)}/files/{file.id}"}
    return {"b64_json": house.base64_of(file)}


def _model(variant: Variant) -> dict[str, Any]:
    return {"id": variant.slug, "object": "model", "created": 0, "owned_by": variant.owner}


def _error(
    code: int, message: str, kind: str, name: str | None, param: str | None, headers: Headers
) -> Response[Any]:
    content = {"error": {"message": message, "type": kind, "param": param, "code": name}}
    return Response(content, status_code=code, headers=headers)


def _refused(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, errors.RouterError)
    code, kind, name = CODES.get(type(error), (500, "server_error", None))
    headers: Headers = {}
    param = "model" if isinstance(error, UnknownSlugError) else None
    if isinstance(error, errors.OverloadedError):
        headers["retry-after"] = limits.retry_after(error)
    if isinstance(error, InvalidInputError):
        param = ".".join(str(piece) for piece in error.issues[0].location if piece != "body")
    return _error(code, str(error), kind, name, param, headers)


def _http(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, "invalid_request_error", None, None, {})


def _unexpected(_: AnyRequest, error: Exception) -> Response[Any]:
    log.error("unexpected error", exc_info=error)
    return _error(500, "Something went wrong here", "server_error", None, None, {})


HANDLERS: dict[int | type[Exception], Any] = {
    errors.RouterError: _refused,
    HTTPException: _http,
    Exception: _unexpected,
}
