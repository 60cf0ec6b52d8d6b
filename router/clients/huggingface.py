"""The door for Hugging Face's inference clients: one address per model, raw image bytes back. Process edge."""

from collections.abc import Mapping
from typing import Any

import structlog
from litestar import Response, Router, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from registry.catalog import Caller
from router import errors, limits
from router.clients import pictures
from router.clients.door import BODY_LIMIT_BYTES, AnyRequest, Headers, Home, House, asked, read_object
from router.errors import MalformedBodyError

PREFIX = "/hf/models"
CODES: Mapping[type[errors.RouterError], int] = {
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.UnknownSlugError: 404,
    errors.UnavailableError: 422,
    errors.InvalidInputError: 422,
    errors.MalformedBodyError: 400,
    errors.RepeatedKeyError: 422,
    errors.BodyTooLargeError: 413,
    errors.OverloadedError: 429,
    errors.QueueUnavailableError: 503,
    errors.StoppingError: 503,
}

log = structlog.get_logger("marquee.huggingface")


def router(home: Home) -> Router:
    """`home` is asked on each call."""

    @post("/{slug:path}", status_code=200)
    async def infer(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        return await _infer(home(), request, slug.strip("/"))

    return Router(
        PREFIX,
        route_handlers=[infer],
        exception_handlers=HANDLERS,
        request_max_body_size=BODY_LIMIT_BYTES,
        include_in_schema=False,
    )


async def _infer(house: House, request: AnyRequest, slug: str) -> Response[Any]:
    caller = house.caller(request)
    values = await _values(house, caller, request, slug)
    status = await house.core.run(caller, slug, values, door="huggingface", **asked(request))
    outcome = status.outcome
    assert outcome is not None, "a final request has an outcome"
    if outcome.failure is not None:
        code = 422 if outcome.failure.kind == "input" else 500
        return Response({"error": outcome.failure.message}, status_code=code)
    if not outcome.files:
        return Response({"error": "the model made nothing"}, status_code=500)
    file = outcome.files[0]
    content = house.files.find(file.id).path.read_bytes()
    return Response(content, media_type=file.content_type, headers={"x-request-id": status.request.id})


async def _values(house: House, caller: Caller, request: AnyRequest, slug: str) -> dict[str, Any]:
    """A picture comes as `inputs` in base64, its prompt among the parameters; or as the whole body, without any."""
    if request.headers.get("content-type", "").startswith("image/"):
        body: Mapping[str, Any] = {}
        picture: str | None = pictures.data_uri(await request.body())
    else:
        body = await read_object(request)
        picture = pictures.from_base64(body.get("inputs"))
    if picture is None:
        return arguments(body)
    schema = house.core.resolve(caller, slug).variant.input_schema
    return arguments({**body, "inputs": None}) | pictures.placed([picture], (), schema)


def arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """`inputs` and `parameters` in our words. Raises `MalformedBodyError`."""
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise MalformedBodyError("`parameters` must be an object")
    values = {name: value for name, value in parameters.items() if value is not None}
    values.pop("scheduler", None)  # the model's own is what its version was validated with
    width, height = values.pop("width", None), values.pop("height", None)
    if width is not None and height is not None:
        values["image_size"] = {"width": width, "height": height}
    if (size := values.pop("target_size", None)) is not None:
        values["image_size"] = size
    prompt = body.get("inputs")
    return values if prompt is None else values | {"prompt": prompt}


def _refused(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, errors.RouterError)
    headers: Headers = {}
    if isinstance(error, errors.OverloadedError):
        headers["retry-after"] = limits.retry_after(error)
    code = CODES.get(type(error), 500)
    return Response({"error": str(error)}, status_code=code, headers=headers)


def _http(_: AnyRequest, error: Exception) -> Response[Any]:
    assert isinstance(error, HTTPException)
    return Response({"error": error.detail}, status_code=error.status_code)


def _unexpected(_: AnyRequest, error: Exception) -> Response[Any]:
    log.error("unexpected error", exc_info=error)
    return Response({"error": "Something went wrong here"}, status_code=500)


HANDLERS: dict[int | type[Exception], Any] = {
    errors.RouterError: _refused,
    HTTPException: _http,
    Exception: _unexpected,
}
