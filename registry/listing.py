"""What there is, for everybody: `GET /v1/models` with search and paging, each variant's OpenAPI, upcoming launches.

Process edge. A reader sees what it may call, and of launches those it may know of. Fields that nobody documented
(pictures, prices) are absent. Search is a scan of the snapshot: 100,000 variants take milliseconds.
"""

import base64
import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from xml.sax.saxutils import escape

from litestar import Request, Response, Router, get
from litestar.params import FromQuery

from registry import windows
from registry.catalog import Caller, OrganizationName, Record, Release, Slug, Variant
from registry.errors import InvalidRequestError
from registry.publishing import PUBLIC

AnyRequest = Request[Any, Any, Any]
MAX_PAGE = 500
SEPARATOR = "\x1f"
EVERY_ENDPOINT = 50  # endpoint_id may be repeated so often


class Texts:
    """Every variant's searchable text in one string, so that a search is a few substring scans in C.

    Filters are words too: `category=text-to-image` between separators that no caller can send.
    """

    def __init__(self, variants: Iterable[Variant]) -> None:
        self.variants = tuple(sorted(variants, key=lambda variant: variant.slug))
        self.slugs = [variant.slug for variant in self.variants]
        texts = [_text(variant) for variant in self.variants]
        self._text = "".join(texts)
        self._starts = [0, *itertools.accumulate(map(len, texts))]

    def having(self, needles: Sequence[str], after: Slug | None) -> Iterator[Variant]:
        """In slug order, from behind `after`: those whose text has every needle."""
        begin = 0 if after is None else bisect.bisect_right(self.slugs, after)
        if not needles:
            yield from self.variants[begin:]
            return
        rarest, *others = sorted(needles, key=len, reverse=True)
        place = self._starts[begin]
        while (place := self._text.find(rarest, place)) >= 0:
            index = bisect.bisect_right(self._starts, place) - 1
            start, place = self._starts[index], self._starts[index + 1]
            if all(self._text.find(other, start, place) >= 0 for other in others):
                yield self.variants[index]


def _text(variant: Variant) -> str:
    facets = {
        "category": variant.task,
        "owner": variant.owner,
        "license": variant.licence,
        "model": variant.model,
    }
    marks = [f"{name}={value}" for name, value in facets.items() if value] + [
        f"tag={tag}" for tag in variant.tags
    ]
    words = (variant.slug, variant.name, variant.description, variant.task, *variant.tags)
    folded = "\n".join(word for word in words if word).casefold()
    own = [
        text.replace(SEPARATOR, " ") for text in (folded, *marks)
    ]  # a lab's text makes no marks of its own
    return SEPARATOR + SEPARATOR.join(own) + SEPARATOR


class Shelf(Record, frozen=True, kw_only=True):
    """What a gateway's snapshot offers one reader at one moment."""

    texts: Texts
    releases: Mapping[Slug, Sequence[Release]]
    adapter_releases: Mapping[Slug, Sequence[Release]] = {}
    visible: Callable[[Variant], bool]
    callable: Callable[[Variant], bool]
    now: datetime
    address: str


class Query(Record, frozen=True, kw_only=True):
    needles: tuple[str, ...] = ()
    status: str | None = None
    endpoints: frozenset[str] = frozenset()
    expand: frozenset[str] = frozenset()
    after: Slug | None = None
    limit: int = 100


def needles_of(words: str | None, **facets: str | None) -> tuple[str, ...]:
    """What to look for: each word anywhere, each facet exactly."""
    folded = (words or "").replace(SEPARATOR, " ").casefold().split()
    exact = [
        f"{SEPARATOR}{name}={value.replace(SEPARATOR, '')}{SEPARATOR}"
        for name, value in facets.items()
        if value
    ]
    return (*folded, *exact)


def search(shelf: Shelf, query: Query, organization: OrganizationName) -> tuple[list[Variant], bool]:
    """One page by slug, and whether more follow."""
    found: list[Variant] = []
    for variant in shelf.texts.having(query.needles, query.after):
        if query.endpoints and variant.slug not in query.endpoints:
            continue
        if query.status is not None and _status(shelf, variant, organization) != query.status:
            continue
        if not shelf.visible(variant):
            continue
        if len(found) == query.limit:
            return found, True
        found.append(variant)
    return found, False


def _status(shelf: Shelf, variant: Variant, organization: OrganizationName) -> str:
    match windows.resolve(shelf.releases.get(variant.slug, ()), organization, shelf.now):
        case windows.Open(phase=windows.Phase.SUNSET):
            return "deprecated"
        case _:
            return "active"


def describe(shelf: Shelf, variant: Variant, query: Query, organization: OrganizationName) -> dict[str, Any]:
    """One entry in the shape that platform clients read."""
    metadata = {
        "display_name": variant.name or variant.slug,
        "category": variant.task,
        "description": variant.description or "",
        "status": _status(shelf, variant, organization),
        "callable": shelf.callable(variant),
        "tags": list(variant.tags),
        "model_url": f"{shelf.address}/fal/run/{variant.slug}",
    }
    if variant.licence is not None:
        metadata["license"] = variant.licence
    entry: dict[str, Any] = {"endpoint_id": variant.slug, "metadata": metadata}
    if "openapi-3.0" in query.expand:
        entry["openapi"] = openapi(variant, shelf.address)
    return entry


def openapi(variant: Variant, address: str) -> dict[str, Any]:
    """A variant's own OpenAPI document: run it and wait, or put it in the queue."""
    answers = {"200": {"description": "The result."}, "422": {"description": "The input is not acceptable."}}
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Input"}}},
    }
    call = {"requestBody": body, "responses": answers, "security": [{"key": []}]}
    key = {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Key mq_…"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": variant.name or variant.slug,
            "version": "1",
            "description": variant.description or "",
        },
        "servers": [{"url": address}],
        "paths": {
            f"/fal/run/{variant.slug}": {"post": {"operationId": "run", "summary": "Run and wait", **call}},
            f"/fal/queue/{variant.slug}": {
                "post": {"operationId": "submit", "summary": "Put in the queue", **call}
            },
        },
        "components": {"schemas": {"Input": variant.input_schema}, "securitySchemes": {"key": key}},
    }


def launches(shelf: Shelf, organization: OrganizationName) -> list[dict[str, Any]]:
    """Openings ahead that the reader may know of: it is the owner's, or a window names it, or it has begun for some.

    An embargo is a secret: strangers hear nothing before the first phase that names them has a time they share.
    """
    found = []
    for kind, shelved in (("variant", shelf.releases), ("adapter", shelf.adapter_releases)):
        for slug, release in ((slug, one) for slug, releases in shelved.items() for one in releases):
            opens = _opens_for(release, organization, shelf.now)
            if opens is not None and _may_know(slug, release, organization):
                entry = {"slug": slug, "opens": opens, "release": release.id}
                found.append(entry | ({"kind": kind} if kind == "adapter" else {}))
    return sorted(found, key=lambda entry: (entry["opens"], entry["slug"]))


def _opens_for(release: Release, organization: OrganizationName, now: datetime) -> datetime | None:
    window = release.window
    starts = (window.preview_from, window.exclusive_from, window.public_from)
    ahead = [
        start
        for start in starts
        if start is not None and start > now and windows.admits(window, organization, start)
    ]
    return None if windows.admits(window, organization, now) else min(ahead, default=None)


def _may_know(slug: Slug, release: Release, organization: OrganizationName) -> bool:
    window = release.window
    named = (*window.preview_organizations, *window.exclusive_organizations)
    return organization != PUBLIC and (slug.split("/", 1)[0] == organization or organization in named)


class Browsing(Protocol):
    """What a gateway offers: its catalogue for a reader, and who the reader is."""

    def shelf(self, caller: Caller | None) -> Shelf: ...

    def reader(self, request: AnyRequest) -> Caller | None: ...


def router(home: Callable[[], Browsing]) -> Router:
    @get("/models")
    async def models(
        request: AnyRequest,
        q: FromQuery[str | None] = None,
        category: FromQuery[str | None] = None,
        status: FromQuery[str | None] = None,
        owner: FromQuery[str | None] = None,
        tag: FromQuery[str | None] = None,
        license: FromQuery[str | None] = None,  # noqa: A002  the query's name
        model: FromQuery[str | None] = None,
        limit: FromQuery[int] = 100,
        cursor: FromQuery[str | None] = None,
    ) -> Response[dict[str, Any]]:
        query = Query(
            needles=needles_of(q, category=category, owner=owner, tag=tag, license=license, model=model),
            status=status,
            endpoints=frozenset(request.query_params.getall("endpoint_id", [])[:EVERY_ENDPOINT]),
            expand=frozenset(request.query_params.getall("expand", [])),
            after=_after(cursor),
            limit=max(1, min(limit, MAX_PAGE)),
        )
        return Response(_page(home().shelf, home().reader(request), query))

    @get("/launches")
    async def upcoming(request: AnyRequest) -> Response[dict[str, Any]]:
        caller = home().reader(request)
        return Response({"launches": launches(home().shelf(caller), _organization(caller))})

    @get("/launches.atom", media_type="application/atom+xml")
    async def feed(request: AnyRequest) -> Response[str]:
        caller = home().reader(request)
        shelf = home().shelf(caller)
        return Response(
            atom(shelf, launches(shelf, _organization(caller))), media_type="application/atom+xml"
        )

    return Router("/v1", route_handlers=[models, upcoming, feed], include_in_schema=False)


def _organization(caller: Caller | None) -> OrganizationName:
    return PUBLIC if caller is None else caller.organization


def _page(shelf_for: Callable[[Caller | None], Shelf], caller: Caller | None, query: Query) -> dict[str, Any]:
    shelf, organization = shelf_for(caller), _organization(caller)
    found, more = search(shelf, query, organization)
    cursor = base64.urlsafe_b64encode(found[-1].slug.encode()).decode() if more else None
    entries = [describe(shelf, variant, query, organization) for variant in found]
    return {"models": entries, "has_more": more, "next_cursor": cursor}


def _after(cursor: str | None) -> Slug | None:
    try:
        return Slug(base64.urlsafe_b64decode(cursor).decode()) if cursor else None
    except ValueError as error:
        raise InvalidRequestError("cursor", "it is none that a page gave") from error


def atom(shelf: Shelf, found: Iterable[Mapping[str, Any]]) -> str:
    """RFC 4287. Ids are made of slug and release, so that a reader sees each launch once."""
    entries = "".join(
        f"<entry><id>{escape(shelf.address)}/v1/launches#{escape(one.get('kind', '') + str(one['slug']))}-{one['release']}</id>"
        f"<title>{escape(str(one['slug']))} opens</title><updated>{one['opens'].isoformat()}</updated>"
        f"<summary>{escape(str(one['slug']))} opens at {one['opens'].isoformat()}</summary></entry>"
        for one in found
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{escape(shelf.address)}/v1/launches</id><title>Upcoming launches</title>"
        f'<link rel="self" href="{escape(shelf.address)}/v1/launches.atom"/><author><name>Marquee</name></author>'
        f"<updated>{shelf.now.isoformat()}</updated>{entries}</feed>"
    )
