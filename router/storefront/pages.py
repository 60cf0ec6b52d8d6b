"""The storefront's handlers: gallery, playground, and the playground's own calls into the core. A process edge.

The page has no rights of its own: whoever runs a model here does so as the caller behind the session, through the
same core calls as every other door.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import ServerSentEvent, ServerSentEventMessage

from registry.catalog import Adapter, Caller, Slug, Variant
from registry.web import trouble
from registry.web.rendering import Pages, static_files
from registry.web.signin import Door
from router.clients import fal_shapes
from router.clients.door import with_heartbeat
from router.errors import ForbiddenError, RouterError
from router.requests import RequestId, Status
from router.storefront import art, forms, snippets
from router.storefront.gallery import Gallery
from router.storefront.progress import progress

HERE = Path(__file__).parent
AnyRequest = Request[Any, Any, Any]


class Catalogue(Protocol):
    """What the storefront asks of the catalogue snapshot; launch windows are its business."""

    def variant(self, caller: Caller | None, slug: Slug) -> Variant | None: ...
    def adapters(self, caller: Caller | None, variant: Variant) -> Sequence[Adapter]: ...
    def runs_here(self, variant: Variant) -> bool: ...
    def is_served(self, variant: Variant) -> bool: ...


class Calls(Protocol):
    """What the storefront asks of the core."""

    async def submit(
        self, caller: Caller, slug: str, arguments: Mapping[str, Any], /, *, previews: bool
    ) -> RequestId: ...
    async def cancel(self, caller: Caller, request_id: str, /) -> object: ...
    def watch(self, caller: Caller, request_id: str, /) -> AsyncIterator[Status]: ...


Costs = Callable[[str], Awaitable[str | None]]


async def no_costs(_: str) -> str | None:
    """Where there is no ledger to ask."""
    return None


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """All that the storefront's pages need; made once per process by its composition root."""

    door: Door
    catalogue: Catalogue
    calls: Calls
    gallery: Gallery
    cost: Costs = no_costs  # of a request that has ended, in words
    public_url: str | None = None  # where callers reach the gateway; None means where the page was opened
    pages: Pages = msgspec.field(default_factory=lambda: Pages(HERE))
    examples: frozenset[str] = msgspec.field(
        default_factory=lambda: frozenset(path.name for path in (HERE / "static" / "examples").glob("*.png"))
    )

    def picture(self, variant: Variant) -> str:
        """The address of a card's picture: an example if there is one, else the designed placeholder."""
        name = f"{art.example_name(variant.slug)}.png"
        return f"/storefront/examples/{name}" if name in self.examples else f"/art/{variant.slug}"

    def origin(self, request: AnyRequest) -> str:
        return (self.public_url or str(request.base_url)).rstrip("/")


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a run: where its events are."""

    id: str
    events: str


def router(front: Callable[[], Front]) -> Router:
    """The storefront's routes. `front` is asked on each call: it exists once the app runs."""

    @get("/", include_in_schema=False)
    async def gallery(
        request: AnyRequest, q: FromQuery[str] = "", task: FromQuery[str] = "", page: FromQuery[str] = "1"
    ) -> Response[str]:
        return await _gallery(front(), request, q[:200], task, int(page[:9]) if page.isdecimal() else 1)

    @get("/m/{slug:path}", include_in_schema=False)
    async def playground(request: AnyRequest, slug: FromPath[str]) -> Response[str]:
        return await _playground(front(), request, _slug(slug))

    @get("/art/{slug:path}", include_in_schema=False)
    async def picture(slug: FromPath[str]) -> Response[str]:
        variant = Variant(
            slug=_slug(slug), model=_family(slug), task=_task(front(), _slug(slug)), input_schema={}
        )
        headers = {"cache-control": "public, max-age=86400", "x-content-type-options": "nosniff"}
        return Response(art.picture(variant), media_type="image/svg+xml", headers=headers)

    @post("/page/runs/{slug:path}", status_code=202, include_in_schema=False)
    async def run(request: AnyRequest, slug: FromPath[str], data: JSONBody[dict[str, Any]]) -> Accepted:
        caller = _runner(await front().door.actor(request))
        request_id = await front().calls.submit(caller, _slug(slug), data, previews=True)
        return Accepted(id=request_id, events=f"/page/requests/{request_id}/events")

    @get("/page/requests/{request_id:str}/events", include_in_schema=False)
    async def events(request: AnyRequest, request_id: FromPath[str]) -> ServerSentEvent:
        visitor = await front().door.visitor(request)
        if visitor.caller is None:
            raise NotFoundException("Sign in to see this run.")
        statuses = front().calls.watch(_runner(visitor.caller), RequestId(request_id))
        return ServerSentEvent(_events(statuses, front().cost))

    @post("/page/requests/{request_id:str}/cancel", status_code=202, include_in_schema=False)
    async def cancel(request: AnyRequest, request_id: FromPath[str]) -> None:
        caller = _runner(await front().door.actor(request))
        await front().calls.cancel(caller, RequestId(request_id))

    files = static_files("/storefront", HERE / "static")
    routes: list[Any] = [gallery, playground, picture, run, events, cancel, files]
    refused = fal_shapes.HANDLERS[RouterError]  # the page's script reads fal's shape
    return Router("/", route_handlers=routes, exception_handlers={**trouble.handlers(), RouterError: refused})


def _runner(caller: Caller) -> Caller:
    """A key that may not run anything may not do it by way of the page. Raises `ForbiddenError`."""
    if "run" not in caller.scopes:
        raise ForbiddenError("run")
    return caller


async def _gallery(front: Front, request: AnyRequest, query: str, task: str, page: int) -> Response[str]:
    visitor = await front.door.visitor(request)
    shelf, everything = await front.gallery.shelf(visitor.caller, query, task, page)
    return front.pages.answer(
        "gallery.html",
        cookies=front.door.cookies(visitor),
        visitor=visitor,
        shelf=shelf,
        everything=everything,
        query=query,
        task=task,
        picture=front.picture,
        runs_here=front.catalogue.runs_here,
        is_served=front.catalogue.is_served,
        title=title,
    )


async def _playground(front: Front, request: AnyRequest, slug: Slug) -> Response[str]:
    visitor = await front.door.visitor(request)
    variant = front.catalogue.variant(visitor.caller, slug)
    if variant is None:
        return front.pages.answer("missing.html", status=404, visitor=visitor, slug=slug)
    controls = forms.fields(variant.input_schema)
    return front.pages.answer(
        "playground.html",
        cookies=front.door.cookies(visitor),
        visitor=visitor,
        title=title(variant),
        runs_here=front.catalogue.runs_here(variant),
        is_served=front.catalogue.is_served(variant),
        variant=variant,
        plain=[field for field in controls if not field.advanced],
        advanced=[field for field in controls if field.advanced],
        adapters=front.catalogue.adapters(visitor.caller, variant),
        snippets=snippets.snippets(
            front.origin(request),
            slug,
            has_pictures=variant.partner is None and variant.task.endswith("image"),
        ),
        picture=front.picture,
        schema=msgspec.json.format(msgspec.json.encode(variant.input_schema), indent=2).decode(),
    )


async def _events(statuses: AsyncIterator[Status], cost: Costs) -> AsyncIterator[ServerSentEventMessage]:
    """One event per status, a comment when nothing happens for a while; ends with the request."""
    async with contextlib.aclosing(with_heartbeat(statuses)) as told:
        async for status in told:
            if status is None:
                yield ServerSentEventMessage(comment="still here")
                continue
            shape = progress(status, await cost(status.request.id) if status.state.is_final else None)
            yield ServerSentEventMessage(data=msgspec.json.encode(shape).decode())


def title(variant: Variant) -> str:
    """Its name, else what its slug says behind the owner."""
    return variant.name or variant.slug.partition("/")[2].replace("/", " ") or variant.slug


def _slug(path: str) -> Slug:
    return Slug(path.strip("/"))


def _family(path: str) -> str:
    return "/".join(path.strip("/").split("/")[:2])


def _task(front: Front, slug: Slug) -> str:
    variant = front.catalogue.variant(None, slug)
    return variant.task if variant else ""
