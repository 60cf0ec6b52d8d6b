"""The dashboard's handlers: every page and every export asks the visitor's view first. Process edge (HTTP)."""

import asyncio
import contextlib
import datetime as dt
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect, ServerSentEvent, ServerSentEventMessage

from registry.dashboard import (
    customers,
    fleet,
    launches,
    model,
    models,
    overview,
    panels,
    request,
    statistics,
)
from registry.dashboard.figures import PERIODS, QUERIES, Figures, Period
from registry.dashboard.live import NoObservatory, Observatory
from registry.dashboard.panels import Page
from registry.dashboard.views import PAGES, PageName, View, role_of
from registry.database import Database
from registry.errors import DatabaseUnreachableError
from registry.web import trouble
from registry.web.rendering import HEADERS, Pages, compressed, static_files
from registry.web.signin import AnyRequest, Door, Visitor

HERE = Path(__file__).parent
NAVIGATION: Mapping[PageName, tuple[str, str]] = {
    "overview": ("/dashboard", "Overview"),
    "models": ("/dashboard/models", "Models"),
    "customers": ("/dashboard/customers", "Customers"),
    "launches": ("/dashboard/launches", "Launches"),
    "fleet": ("/dashboard/fleet", "Fleet"),
}
DEFAULT_DAYS = 30
LIVE_SECONDS = 2.0
LONGEST_SECONDS = 20.0  # that a page waits for its figures: a database may hang and keep its connections
EARLIEST = dt.date(1970, 1, 1)  # that a page may end on: there are days and periods before it


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """All that the dashboard needs; made once per process by its composition root."""

    db: Database
    door: Door
    observatory: Observatory = msgspec.field(default_factory=NoObservatory)
    pages: Pages = msgspec.field(
        default_factory=lambda: Pages(HERE, shown=panels.shown, address=panels.address)
    )
    kept: statistics.Cache = msgspec.field(default_factory=statistics.Cache)
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """A visitor with a view, on one page, with filters."""

    visitor: Visitor
    view: View
    page: PageName
    figures: Figures


def router(dashboard: Callable[[], Dashboard]) -> Router:
    """The dashboard's routes. `dashboard` is asked on each call: it exists once the app runs."""

    @get("/dashboard", include_in_schema=False)
    async def show_overview(request: AnyRequest) -> Response[Any]:
        return await _show(dashboard(), request, "overview", lambda visit: overview.page(visit.figures))

    @get("/dashboard/models", include_in_schema=False)
    async def show_models(request: AnyRequest) -> Response[Any]:
        return await _show(dashboard(), request, "models", lambda visit: _models(dashboard(), visit))

    @get("/dashboard/models/{slug:path}", include_in_schema=False)
    async def show_model(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        return await _show(
            dashboard(), request, "model", lambda visit: _model(dashboard(), visit, slug.strip("/"))
        )

    @get("/dashboard/customers", include_in_schema=False)
    async def show_customers(request: AnyRequest) -> Response[Any]:
        return await _show(dashboard(), request, "customers", lambda visit: customers.page(visit.figures))

    @get("/dashboard/launches", include_in_schema=False)
    async def show_launches(request: AnyRequest) -> Response[Any]:
        return await _show(dashboard(), request, "launches", lambda visit: _launches(dashboard(), visit))

    handlers = [
        show_overview,
        show_models,
        show_model,
        show_customers,
        show_launches,
        *_live_routes(dashboard),
    ]
    static = static_files("/dashboard/static", HERE / "static")
    return Router(
        "/",
        route_handlers=[*handlers, static],
        middleware=[compressed()],
        exception_handlers=trouble.handlers(),
    )


def _live_routes(dashboard: Callable[[], Dashboard]) -> list[Any]:
    """What the process knows of now: the fleet, one request."""

    @get("/dashboard/fleet", include_in_schema=False)
    async def show_fleet(request: AnyRequest) -> Response[Any]:
        state = dashboard().observatory.fleet
        return await _show(dashboard(), request, "fleet", lambda visit: fleet.page(visit.figures, state()))

    @get("/dashboard/fleet/events", include_in_schema=False)
    async def follow_fleet(request: AnyRequest) -> ServerSentEvent:
        may_see = functools.partial(_may_see, dashboard(), request, "fleet")
        if not await may_see():
            raise NotFoundException("Nothing to follow here.")
        return ServerSentEvent(_fleet_events(dashboard(), may_see))

    @get("/dashboard/requests/{request_id:str}", include_in_schema=False)
    async def show_request(request: AnyRequest, request_id: FromPath[str]) -> Response[Any]:
        return await _show(
            dashboard(), request, "request", lambda visit: _request(dashboard(), visit, request_id)
        )

    return [show_fleet, follow_fleet, show_request]


async def _models(dashboard: Dashboard, visit: Visit) -> Page:
    return await models.page(visit.figures, await dashboard.kept.get(visit.figures))


async def _model(dashboard: Dashboard, visit: Visit, slug: str) -> Page | None:
    if visit.view.role == "lab" and slug not in visit.view.slugs:
        return None
    return await model.page(visit.figures, await dashboard.kept.get(visit.figures), slug)


async def _launches(dashboard: Dashboard, visit: Visit) -> Page:
    return await launches.page(visit.figures, dashboard.observatory.fleet())


async def _request(dashboard: Dashboard, visit: Visit, request_id: str) -> Page | None:
    owner = None if visit.view.role == "operator" else visit.view.organization
    life = await dashboard.observatory.life(request_id, owner)
    return None if life is None else request.page(life)


async def _visit(dashboard: Dashboard, request: AnyRequest, page: PageName) -> "Visit | Visitor":
    """A visit, or the visitor that may not make it."""
    visitor = await dashboard.door.visitor(request)
    role = role_of(visitor.caller) if visitor.caller else None
    if visitor.caller is None or role is None or page not in PAGES[role]:
        return visitor
    organization = visitor.caller.organization
    slugs = await _owned(dashboard.db, organization) if role == "lab" else ()
    view = View(role=role, organization=organization, slugs=slugs)
    return Visit(visitor=visitor, view=view, page=page, figures=Figures(dashboard.db, view, _period(request)))


async def _may_see(dashboard: Dashboard, request: AnyRequest, page: PageName) -> bool:
    return isinstance(await _visit(dashboard, request, page), Visit)


async def _owned(db: Database, organization: str) -> tuple[str, ...]:
    async with db.pool.connection() as connection:
        rows = await (await connection.execute(QUERIES["owned"], {"owner": organization})).fetchall()
    return tuple(row["slug"] for row in rows)


def _period(request: AnyRequest) -> Period:
    """Filters from the address; what cannot be read is the default."""
    text = request.query_params.get("days", "")
    days = next((days for days in PERIODS if text == str(days)), DEFAULT_DAYS)
    until = dt.datetime.now(dt.UTC).date()
    with contextlib.suppress(ValueError):
        until = min(until, max(EARLIEST, dt.date.fromisoformat(request.query_params.get("until", ""))))
    return Period(until=until, days=days)


async def _show(
    dashboard: Dashboard, request: AnyRequest, page: PageName, make: Callable[[Visit], Any]
) -> Response[Any]:
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            visit = await _visit(dashboard, request, page)
            if not isinstance(visit, Visit):
                return _turned_away(dashboard, request, visit)
            made: Page | None = await make(visit)
    except TimeoutError as error:
        raise DatabaseUnreachableError(
            f"The database did not answer within {LONGEST_SECONDS:.0f} seconds."
        ) from error
    if made is None:
        return dashboard.pages.answer("nothing.html", status=404, visitor=visit.visitor, here="dashboard")
    chosen = request.query_params.get("csv")
    if chosen is not None:
        return _export(made, chosen)
    return dashboard.pages.answer(
        "page.html",
        cookies=dashboard.door.cookies(visit.visitor),
        visitor=visit.visitor,
        view=visit.view,
        page=made,
        name=page,
        path=request.url.path,
        navigation={name: link for name, link in NAVIGATION.items() if visit.view.may_open(name)},
        period=visit.figures.period,
        periods=PERIODS,
        filters=_filters(request),
        here="dashboard",
    )


def _filters(request: AnyRequest) -> dict[str, str]:
    return {name: value for name in ("days", "until") if (value := request.query_params.get(name))}


def _turned_away(dashboard: Dashboard, request: AnyRequest, visitor: Visitor) -> Response[Any]:
    """To the door without a key that shows figures; not found for a page that this view does not have."""
    role = role_of(visitor.caller) if visitor.caller else None
    if role is not None:
        return dashboard.pages.answer("nothing.html", status=404, visitor=visitor, here="dashboard")
    if (
        request.headers.get("sec-fetch-site") == "cross-site"
    ):  # a link from elsewhere came without our strict cookie
        return dashboard.pages.answer("again.html", visitor=visitor, here="dashboard")
    return Redirect(panels.address("/sign-in", {"next": str(request.url.path)}), status_code=303)


def _export(page: Page, chosen: str) -> Response[str]:
    panel = page.panel(chosen)
    if panel is None:
        raise NotFoundException(f"This page has no table {chosen!r}.")
    headers = {
        **HEADERS,
        "content-disposition": f'attachment; filename="{panel.id}.csv"',
        "cache-control": "no-store",
    }
    return Response(panel.csv(), media_type="text/csv; charset=utf-8", headers=headers)


async def _fleet_events(
    dashboard: Dashboard, may_see: Callable[[], Awaitable[bool]]
) -> AsyncIterator[ServerSentEventMessage]:
    """The live part of the fleet page, as it looks, whenever it changed; a comment otherwise. It ends with the session."""
    told = ""
    while not dashboard.stopping.is_set() and await may_see():
        state = dashboard.observatory.fleet()
        parts = {"tiles": fleet.tiles(state), "panels": (fleet.warmth(state), fleet.occupancy(state))}
        html = dashboard.pages.text("live.html", page=parts, path="/dashboard/fleet", filters={})
        # Without `data=None` a comment would carry an empty event, which would empty the page.
        same = ServerSentEventMessage(data=None, comment="no change")
        yield same if html == told else ServerSentEventMessage(data=html)
        told = html
        try:
            await asyncio.wait_for(dashboard.stopping.wait(), LIVE_SECONDS)
        except TimeoutError:
            continue
