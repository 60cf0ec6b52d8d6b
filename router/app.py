"""The gateway's composition root: settings in, one Litestar application out. Process edge.

It wires the doors, the links and the pages to one core, whose parts live as long as the application does.
"""

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from litestar import Litestar

from registry import adapter_listing, api, edge, hub, listing, postgres, rollups, spending, store, tracing
from registry.catalog import Caller
from registry.dashboard import pages as dashboard_pages
from registry.dashboard.live import FleetState
from registry.database import Database
from registry.reading import Place
from registry.settings import Settings
from registry.web import company, opening, signin
from router import background, downloads, fates, foresight, health, links, logbook, telemetry
from router.board import Board
from router.browsing import Browser
from router.catalogue import Catalogue
from router.clients import callbacks, fal, huggingface, openai, replicate, uploads
from router.clients.door import House
from router.core import Core
from router.dispatcher import Dispatcher
from router.errors import UnauthorizedError
from router.examining import Examiner
from router.files import FileStore
from router.housekeeping import Housekeeping
from router.limits import Limiter
from router.loras import Loras
from router.observatory import Observatory
from router.partners import connections
from router.queue import Queue
from router.repeats import Repeats
from router.signatures import Signer
from router.storefront import pages
from router.storefront.gallery import Gallery
from router.waits import Elsewhere
from router.webhooks import Deliverer


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """All that lives as long as the application."""

    db: Database
    house: House
    front: pages.Front
    dashboard: dashboard_pages.Dashboard
    office: api.Office
    browser: Browser
    logbook: logbook.Logbook
    seat: links.Seat
    dispatcher: Dispatcher


def create_app(settings: Settings) -> Litestar:
    """`app.state.gateway` is there between start and end; `app.state.stop()` ends streams and waits."""
    living: list[Gateway] = []

    def gateway() -> Gateway:
        return living[0]

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with _open(settings, told, traces) as opened:
            living.append(opened)
            app.state.gateway = opened
            app.state.stop = opened.house.core.stopping.set
            yield
            opened.house.core.stopping.set()
            living.clear()
        await asyncio.to_thread(closing.close)  # what was traced until the end is sent

    def fleet() -> FleetState | None:
        """Only of the process that dispatches, so that sums over gateways are right."""
        active = bool(living) and gateway().dispatcher.term is not None
        return gateway().dashboard.observatory.fleet() if active else None

    metrics = edge.Metrics()
    told = telemetry.Telemetry(metrics.registry, fleet)
    closing = contextlib.ExitStack()
    traces = closing.enter_context(tracing.opened(settings, "marquee-gateway"))
    plumbing = edge.plumbing(metrics, traces)
    return Litestar(
        route_handlers=[*plumbing.pop("route_handlers"), *_handlers(gateway, fleet)],
        lifespan=[lifespan],
        openapi_config=None,
        **plumbing,
    )


def _handlers(gateway: Callable[[], Gateway], fleet: Callable[[], FleetState | None]) -> list[Any]:
    return [
        fal.router(lambda: gateway().house),
        replicate.router(lambda: gateway().house),
        openai.router(lambda: gateway().house),
        huggingface.router(lambda: gateway().house),
        fates.router(lambda: gateway().house),
        logbook.router(lambda: gateway().logbook),
        downloads.router(lambda: gateway().house),
        uploads.router(lambda: gateway().house),
        links.router(lambda: gateway().seat),
        signin.router(lambda: gateway().front.door),
        company.router(lambda: gateway().front.door),
        pages.router(lambda: gateway().front),
        dashboard_pages.router(lambda: gateway().dashboard),
        telemetry.router(lambda: gateway().house, fleet),
        api.router(lambda: gateway().office),
        spending.route(lambda: gateway().office),
        listing.router(lambda: gateway().browser),
        adapter_listing.router(lambda: gateway().browser),
        health.route(gateway),
    ]


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the rest stands on."""

    settings: Settings
    dsn: str
    db: Database
    catalogue: Catalogue
    files: FileStore
    board: Board
    dispatcher: Dispatcher
    queue: Queue
    place: Place


@contextlib.asynccontextmanager
async def _grounded(
    settings: Settings, told: telemetry.Telemetry, traces: tracing.Traces
) -> AsyncIterator[Ground]:
    """The database, what is known of the catalogue, and a dispatcher that stands by."""
    dsn = settings.database_url
    if dsn is None:
        dsn = await asyncio.to_thread(postgres.ensure, settings.home)
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(Database.open(dsn))
        catalogue = await stack.enter_async_context(Catalogue.open(db, frozenset(settings.partners)))
        files, board, origin = FileStore(settings.home / "files"), Board(told.ended), secrets.token_hex(8)
        dispatcher = Dispatcher(
            pool=settings.pool,
            db=db,
            files=files,
            board=board,
            catalogue=catalogue,
            origin=origin,
            key_at_once=settings.key_requests_at_once,
            traces=traces,
            partners=await stack.enter_async_context(connections.opened(settings.partners, files)),
        )
        await stack.enter_async_context(dispatcher.standing())
        examiner = Examiner()
        stack.push_async_callback(examiner.close)
        yield Ground(
            settings=settings,
            dsn=dsn,
            db=db,
            catalogue=catalogue,
            files=files,
            board=board,
            dispatcher=dispatcher,
            queue=Queue(db, origin),
            place=_place(settings, examiner),
        )


def _place(settings: Settings, examiner: Examiner) -> Place:
    return Place(
        home=settings.home,
        endpoint=hub.Endpoint(url=settings.hub_endpoint, token=settings.hub_token),
        allow_private=settings.allow_private_inputs,
        examine=examiner,
    )


@contextlib.asynccontextmanager
async def _open(
    settings: Settings, told: telemetry.Telemetry, traces: tracing.Traces
) -> AsyncIterator[Gateway]:
    async with _grounded(settings, told, traces) as ground:
        db, catalogue, dispatcher = ground.db, ground.catalogue, ground.dispatcher
        office = api.Office(db, ground.place, catalogue.caught_up, upload_bytes=settings.upload_bytes or None)
        loras = Loras(db, catalogue, ground.place, ground.files, settings.lora_bytes)
        core, signer = _core(ground, loras, traces), Signer.at(settings.home / "webhook.key")
        book = logbook.Logbook(db=db, catalogue=catalogue)
        house = House(
            core=core,
            files=ground.files,
            signer=signer,
            loras=loras,
            recent=book.recent,
            private_webhooks=settings.allow_private_webhooks,
            public_url=settings.public_url,
        )
        front = _front(settings, book, core)
        dashboard = dashboard_pages.Dashboard(
            db=db,
            door=front.door,
            observatory=Observatory(dispatcher, catalogue, ground.queue),
            stopping=core.stopping,
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(loras.close)
            stack.push_async_callback(office.close)
            await stack.enter_async_context(_at_work(ground, house, dashboard))
            yield Gateway(
                db=db,
                house=house,
                front=front,
                dashboard=dashboard,
                office=office,
                browser=Browser(catalogue, settings.address),
                logbook=book,
                seat=links.Seat(catalogue=catalogue, hub=lambda: dispatcher.hub),
                dispatcher=dispatcher,
            )
        await ground.queue.drain()


def _core(ground: Ground, loras: Loras, traces: tracing.Traces) -> Core:
    return Core(
        catalogue=ground.catalogue,
        queue=ground.queue,
        board=ground.board,
        dispatcher=ground.dispatcher,
        limiter=Limiter(ground.db, ground.settings.key_requests_per_minute),
        loras=loras,
        repeats=Repeats(ground.db),
        elsewhere=Elsewhere(functools.partial(foresight.crowd, ground.db, ground.settings.pool)),
        longest_wait_seconds=ground.settings.longest_wait_seconds,
        traces=traces,
    )


@contextlib.asynccontextmanager
async def _at_work(ground: Ground, house: House, dashboard: dashboard_pages.Dashboard) -> AsyncIterator[None]:
    """What goes on beside the calls."""
    settings, db = ground.settings, ground.db
    housekeeping = Housekeeping(
        db, ground.queue, ground.files, house.loras, settings.home, settings.retention_days
    )
    await housekeeping.try_once()
    deliverer = Deliverer(
        db=db,
        look=ground.queue.status,
        signer=house.signer,
        payload=functools.partial(callbacks.told, settings.address),
        allow_private=settings.allow_private_webhooks,
    )
    async with background.going_on(
        functools.partial(house.core.follow, ground.dsn),
        deliverer.run,
        housekeeping.for_ever,
        functools.partial(rollups.keep, db),
        functools.partial(dashboard.kept.keep_warm, db),
    ):
        yield


def _front(settings: Settings, book: logbook.Logbook, core: Core) -> pages.Front:
    catalogue = book.catalogue

    async def verify(token: str) -> Caller | None:
        with contextlib.suppress(UnauthorizedError):
            return catalogue.now.caller(token, None)
        return None

    async def find(key_id: str) -> Caller | None:
        return catalogue.now.caller_of(key_id)

    async def knows(organization: str) -> bool:
        return await store.has_organization(book.db, organization)

    door = opening.door(settings, verify=verify, find=find, knows=knows)
    return pages.Front(
        door=door,
        catalogue=catalogue,
        calls=core,
        gallery=Gallery(catalogue),
        cost=book.cost,
        public_url=settings.public_url,
    )
