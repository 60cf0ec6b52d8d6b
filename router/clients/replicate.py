"""The door for Replicate's clients: predictions, models and versions, in Replicate's shapes. Process edge.

Every model needs a two-segment name there, so a deep slug answers to `owner/rest-joined-by-dashes` as well.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from litestar import Response, Router, get, post
from litestar.datastructures import UploadFile
from litestar.params import FromPath

from registry.catalog import Caller, Digest, Slug, Variant
from router import ids, webhooks
from router.clients import replicate_shapes as shapes
from router.clients import uploads
from router.clients.door import BODY_LIMIT_BYTES, AnyRequest, Home, House, asked, read_object
from router.errors import (
    AlreadyFinishedError,
    BodyTooLargeError,
    InvalidInputError,
    Issue,
    MalformedBodyError,
    UnavailableError,
    UnknownRequestError,
    UnknownSlugError,
)
from router.requests import Status

PREFIX = "/replicate/v1"
LONGEST_HOLD_SECONDS = 60.0
PAGE_MODELS = 100
FORM_BYTES = 64 << 10  # of a form beside its file
PREFER_WAIT = re.compile(r"\bwait(?:=(\d+))?")


def router(home: Home) -> Router:
    """`home` is asked on each call."""
    return Router(
        PREFIX,
        route_handlers=[*_predictions(home), *_models_and_files(home)],
        exception_handlers=shapes.HANDLERS,
        request_max_body_size=BODY_LIMIT_BYTES,
        include_in_schema=False,
    )


def _predictions(home: Home) -> list[Any]:
    @post("/models/{owner:str}/{name:str}/predictions", status_code=201)
    async def create(request: AnyRequest, owner: FromPath[str], name: FromPath[str]) -> Response[Any]:
        house = home()
        body = await read_object(request)
        caller = house.caller(request)
        slug = _variant(house, caller, owner, name).slug
        return await _create(house, request, caller, slug, body)

    @post("/predictions", status_code=201)
    async def create_by_version(request: AnyRequest) -> Response[Any]:
        house = home()
        body = await read_object(request)
        caller = house.caller(request)
        slug, version = _by_version(house, caller, str(body.get("version", "")))
        return await _create(house, request, caller, slug, body, version)

    @get("/predictions/{prediction_id:str}")
    async def prediction(request: AnyRequest, prediction_id: FromPath[str]) -> Response[Any]:
        house = home()
        status = await house.core.status(house.caller(request), prediction_id)
        return Response(shapes.prediction(status, house.origin(request)))

    @get("/predictions")
    async def predictions(request: AnyRequest) -> dict[str, Any]:
        return await _recent(home(), request)

    @post("/predictions/{prediction_id:str}/cancel", status_code=200)
    async def cancel(request: AnyRequest, prediction_id: FromPath[str]) -> Response[Any]:
        return await _cancel(home(), request, prediction_id)

    return [create, create_by_version, prediction, predictions, cancel]


def _models_and_files(home: Home) -> list[Any]:
    @get("/models")
    async def models(request: AnyRequest) -> dict[str, Any]:
        return _page(home(), request)

    @get("/models/{owner:str}/{name:str}")
    async def model(request: AnyRequest, owner: FromPath[str], name: FromPath[str]) -> dict[str, Any]:
        house = home()
        caller = house.caller(request)
        answering = house.core.resolve(caller, _variant(house, caller, owner, name).slug)
        return shapes.model(answering.variant, answering.digest, house.origin(request))

    @get("/models/{owner:str}/{name:str}/versions")
    async def versions(request: AnyRequest, owner: FromPath[str], name: FromPath[str]) -> dict[str, Any]:
        house = home()
        caller = house.caller(request)
        variant = _variant(house, caller, owner, name)
        latest = _latest(house, caller, variant.slug)
        found = [] if latest is None else [shapes.version(variant, latest)]
        return {"previous": None, "next": None, "results": found}

    @get("/models/{owner:str}/{name:str}/versions/{version_id:str}")
    async def version(
        request: AnyRequest, owner: FromPath[str], name: FromPath[str], version_id: FromPath[str]
    ) -> dict[str, Any]:
        return _version(home(), request, owner, name, version_id)

    @get("/account")
    async def account(request: AnyRequest) -> dict[str, Any]:
        name = home().caller(request).organization
        return {"type": "organization", "username": name, "name": name, "github_url": None}

    @post("/files", status_code=201, request_max_body_size=uploads.LIMIT_BYTES + FORM_BYTES)
    async def upload(request: AnyRequest) -> dict[str, Any]:
        return await _upload(home(), request)

    @get("/webhooks/default/secret")
    async def secret(request: AnyRequest) -> dict[str, str]:
        return {"key": home().signer.shared_secret(home().caller(request).organization)}

    return [models, model, versions, version, account, upload, secret]


async def _recent(house: House, request: AnyRequest) -> dict[str, Any]:
    """The organization's newest, whichever door they came by; what is erased meanwhile is left out."""
    caller, cursor = house.caller(request), request.query_params.get("cursor")
    if cursor is not None and ids.parse(cursor) is None:
        raise InvalidInputError(
            [Issue(location=("cursor",), message="it is none that a page gave", kind="value_error")]
        )
    origin, (found, following) = house.origin(request), await house.recent(caller.organization, cursor)
    results = []
    for looked in await asyncio.gather(
        *(house.core.status(caller, one) for one in found), return_exceptions=True
    ):
        if isinstance(looked, Status):
            results.append(shapes.prediction(looked, origin))
        elif not isinstance(looked, UnknownRequestError):
            raise looked
    where = f"{origin}{PREFIX}/predictions?cursor={following}"
    return {"previous": None, "next": where if following else None, "results": results}


async def _create(
    house: House,
    request: AnyRequest,
    caller: Caller,
    slug: Slug,
    body: Mapping[str, Any],
    version: Digest | None = None,
) -> Response[Any]:
    _refuse_another_version(house, caller, slug, version)
    arguments = body.get("input") or {}
    if not isinstance(arguments, Mapping):
        raise InvalidInputError([Issue(location=("input",), message="must be an object", kind="type_error")])
    request_id = await house.core.submit(
        caller,
        slug,
        arguments,
        door="replicate",
        version=version,
        webhook_url=_webhook(house, body),
        **asked(request),
    )
    hold = _hold_seconds(request.headers.get("prefer"))
    status = (
        await house.core.wait(caller, request_id, hold)
        if hold
        else await house.core.status(caller, request_id)
    )
    return Response(shapes.prediction(status, house.origin(request), starting=True), status_code=201)


def _webhook(house: House, body: Mapping[str, Any]) -> str | None:
    """Who hears of the end: the one event that is told. Raises `InvalidInputError`."""
    url, events = body.get("webhook"), body.get("webhook_events_filter")
    if not url or (isinstance(events, list) and events and "completed" not in events):
        return None
    webhooks.check(str(url), allow_private=house.private_webhooks, location=("webhook",))
    return str(url)


async def _cancel(house: House, request: AnyRequest, prediction_id: str) -> Response[Any]:
    """A prediction that is over stays as it is; Replicate answers 200 with it all the same."""
    caller = house.caller(request)
    status = await house.core.status(caller, prediction_id)
    if not status.state.is_final:
        with contextlib.suppress(AlreadyFinishedError):  # a moment ago
            await house.core.cancel(caller, prediction_id)
        status = await house.core.status(caller, prediction_id)
    return Response(shapes.prediction(status, house.origin(request)))


async def _upload(house: House, request: AnyRequest) -> dict[str, Any]:
    """Whatever their clients find as an open file among inputs comes here first. Raises `MalformedBodyError`."""
    house.caller(request)
    if int(request.headers.get("content-length", 0)) > uploads.LIMIT_BYTES:
        raise BodyTooLargeError(uploads.LIMIT_BYTES)
    content = (await request.form()).get("content")
    if not isinstance(content, UploadFile):
        raise MalformedBodyError("the file belongs into the form's field `content`")

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await content.read(uploads.CHUNK_BYTES):
            yield chunk

    kind = uploads.kind(content.content_type, content.filename)
    stored = await uploads.keep(house, request, chunks(), kind)
    return shapes.file(stored, content.filename, house.core.catalogue.clock())


def _hold_seconds(prefer: str | None) -> float:
    match = PREFER_WAIT.search(prefer or "")
    if match is None:
        return 0.0
    return min(LONGEST_HOLD_SECONDS, float(match[1] or LONGEST_HOLD_SECONDS))


def _variant(house: House, caller: Caller, owner: str, name: str) -> Variant:
    """By its slug, else by its flat name, if the caller may know it. Raises `UnknownSlugError`."""
    snapshot, now = house.core.catalogue.now, house.core.catalogue.clock()
    exact = snapshot.variants.get(Slug(f"{owner}/{name}"))
    if exact is not None:
        return exact
    for slug in snapshot.flat.get(f"{owner}/{name}", ()):
        if snapshot.visible(slug, caller, now):
            return snapshot.variants[slug]
    raise snapshot.unknown(f"{owner}/{name}", caller, now)


def _version(house: House, request: AnyRequest, owner: str, name: str, version_id: str) -> dict[str, Any]:
    """One that answers this caller now. Raises `UnknownSlugError`."""
    caller, digest = house.caller(request), shapes.digest_of(version_id)
    variant = _variant(house, caller, owner, name)
    answering = house.core.resolve(caller, variant.slug, digest).digest
    if answering != digest or not shapes.is_of(version_id, variant.slug):
        raise UnknownSlugError(f"{variant.slug}:{version_id}")
    return shapes.version(variant, digest)


def _by_version(house: House, caller: Caller, text: str) -> tuple[Slug, Digest | None]:
    """`id`, `owner/name` or `owner/name:id`. Raises `UnknownSlugError`."""
    name, _, identifier = text.rpartition(":") if "/" in text and ":" in text else ("", "", text)
    if not name and "/" in text:
        name, identifier = text, ""
    if name:
        owner, _, rest = name.partition("/")
        return _variant(house, caller, owner, rest).slug, shapes.digest_of(identifier) if identifier else None
    digest, snapshot = shapes.digest_of(identifier), house.core.catalogue.now
    for slug in snapshot.slugs_of.get(digest, ()):
        if shapes.is_of(identifier, slug):
            return slug, digest
    raise UnknownSlugError(text)


def _refuse_another_version(house: House, caller: Caller, slug: Slug, version: Digest | None) -> None:
    """A slug runs what answers it now; an older version must not pass for it. Raises `InvalidInputError`."""
    if version is not None and house.core.resolve(caller, slug, version).digest != version:
        issue = Issue(location=("version",), message=f"{slug} runs another version now", kind="value_error")
        raise InvalidInputError([issue])


def _page(house: House, request: AnyRequest) -> dict[str, Any]:
    """Some of the models; clients follow `next` as it stands."""
    caller, origin = house.caller(request), house.origin(request)
    cursor = request.query_params.get("cursor", "")
    begin = int(cursor[:9]) if cursor.isdecimal() else 0
    visible = house.core.catalogue.variants(caller)
    where = f"{origin}{PREFIX}/models?cursor="
    return {
        "previous": f"{where}{max(0, begin - PAGE_MODELS)}" if begin else None,
        "next": f"{where}{begin + PAGE_MODELS}" if begin + PAGE_MODELS < len(visible) else None,
        "results": [
            shapes.model(variant, _latest(house, caller, variant.slug), origin)
            for variant in visible[begin : begin + PAGE_MODELS]
        ],
    }


def _latest(house: House, caller: Caller, slug: Slug) -> Digest | None:
    """What would answer this caller now: others cannot be run, and may be secret still."""
    with contextlib.suppress(UnavailableError, UnknownSlugError):
        return house.core.resolve(caller, slug).digest
    return None
