"""The dashboard over a made-up market in a real database, opened as its operator; for tests in a browser."""

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

from litestar import Litestar

from registry import demo, keys, store
from registry.catalog import Caller
from registry.dashboard import pages
from registry.dashboard.live import FleetState, HostState, Life, Part, Step
from registry.database import Database
from registry.settings import Settings
from registry.web import company, opening, signin
from registry.web.signin import Door
from tests import identity_provider
from tests.identity_provider import Provider

DOORS = (signin.router, company.router)
NOW = dt.datetime.now(dt.UTC)


class Staged:
    """Two hosts and one request."""

    def fleet(self) -> FleetState:
        parts = tuple(
            Part(digest=f"sha256:{name}", name=f"lab/one {name}", tier="device", size_bytes=1 << 30)
            for name in ("transformer", "vae")
        )
        hosts = tuple(
            HostState(id=f"h{n}", name=f"rack-{n}", device="cuda:0", slots=2, running=n, parts=parts[: n + 1])
            for n in range(2)
        )
        return FleetState(at=NOW, pool="local", hosts=hosts, waiting=3, running=1)

    async def life(self, request_id: str, organization: str | None) -> Life | None:
        steps = (
            Step(name="queued", began_seconds=0, seconds=0.4),
            Step(name="loading", began_seconds=0.4, seconds=1.2),
            Step(name="running", began_seconds=1.6, seconds=2.2),
            Step(name="stored", began_seconds=3.8, seconds=0.1),
        )
        return Life(
            id=request_id,
            slug="lab/one",
            organization="blue",
            state="succeeded",
            created_at=NOW,
            steps=steps,
            reasons=((1, "rack-1", "the cheapest in expected seconds"),),
            candidates=((1, "rack-1", 3.4, "load 1.20, run 2.20"), (1, "rack-0", 9.0, "load 6.80, run 2.20")),
        )


def create_app(dsn: str) -> Litestar:
    living: list[pages.Dashboard] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with Database.open(dsn, connections=4) as db:
            await _market(db)
            key = await keys.create(db, "operator", ["operate"])
            caller = await keys.verify(db, key.token)

            async def known(_: str) -> Caller | None:
                return caller

            door = Door(secret=bytes(32), verify=known, find=known, playground_key=key.token, loopback=True)
            living.append(pages.Dashboard(db=db, door=door, observatory=Staged()))
            yield
            living[0].stopping.set()

    handlers = [pages.router(lambda: living[0]), signin.router(lambda: living[0].door)]
    return Litestar(handlers, lifespan=[lifespan], openapi_config=None)


def create_company_app(dsn: str, home: Path, provider: Provider, port: int) -> Litestar:
    """The same pages behind a company's sign-in; the market is there already."""
    living: list[pages.Dashboard] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with Database.open(dsn, connections=4) as db:

            async def nobody(_: str) -> Caller | None:
                return None

            async def knows(name: str) -> bool:
                return await store.has_organization(db, name)

            door = opening.door(settings, verify=nobody, find=nobody, knows=knows)
            living.append(pages.Dashboard(db=db, door=door, observatory=Staged()))
            yield
            living[0].stopping.set()

    settings = Settings(
        home=home,
        port=port,
        oidc_issuer=provider.address,
        oidc_client_id=identity_provider.CLIENT,
        oidc_client_secret=identity_provider.SECRET,
    )
    routers = (pages.router(lambda: living[0]), *(kind(lambda: living[0].door) for kind in DOORS))
    return Litestar(routers, lifespan=[lifespan], openapi_config=None)


async def _market(db: Database) -> None:
    async with db.transaction() as connection:
        await connection.execute("INSERT INTO organizations (name) VALUES ('lab')")
        await connection.execute("INSERT INTO models (name, owner) VALUES ('lab/m', 'lab')")
        await connection.execute(
            "INSERT INTO variants (slug, model, owner, task, input_schema)"
            " SELECT 'lab/' || n, 'lab/m', 'lab', 'text-to-image', '{}' FROM generate_series(1, 24) AS n"
        )
    await demo.fill(db, requests=4000, last_day=NOW.date() - dt.timedelta(days=1), days=60, seed=3)
