"""Figures on the pages equal SQL over the ledger; operators, labs and customers see exactly what is theirs."""

import csv
import datetime as dt
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal

import httpx
import pytest
from litestar import Litestar

from registry import demo, keys, rollups, usage
from registry.catalog import Caller, Scope
from registry.dashboard import pages
from registry.dashboard.panels import Column, Panel
from registry.database import Database
from registry.web import signin
from registry.web.signin import Door
from tests.market import SLUGS, TODAY, OneRequest, ledger

ORIGIN = "http://gateway.example"
PATHS = (
    "/dashboard",
    "/dashboard/models",
    "/dashboard/models/acme/alpha",
    "/dashboard/models/other/gamma",
    "/dashboard/customers",
    "/dashboard/launches",
    "/dashboard/fleet",
    "/dashboard/requests/theirs",
)
Enter = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def enter(db: Database) -> AsyncIterator[Enter]:
    """Signs in with a new key of an organization and gives the browser-like client."""
    async with db.transaction() as connection:
        await usage.record(connection, ledger())
        await connection.execute("INSERT INTO organizations (name) VALUES ('acme'), ('other')")
        for slug in SLUGS:
            owner = slug.split("/")[0]
            await connection.execute(
                "INSERT INTO models (name, owner) VALUES (%s, %s) ON CONFLICT DO NOTHING", [slug, owner]
            )
            await connection.execute(
                "INSERT INTO variants (slug, model, owner, task, input_schema) VALUES (%s, %s, %s, 'text-to-image', '{}')",
                [slug, slug, owner],
            )
    await rollups.fold(db)
    callers: dict[str, Caller] = {}

    async def verify(token: str) -> Caller | None:
        caller = await keys.verify(db, token)
        if caller:
            callers[caller.key_id] = caller
        return caller

    async def find(key_id: str) -> Caller | None:
        return callers.get(key_id)

    door = Door(secret=bytes(32), verify=verify, find=find)
    dashboard = pages.Dashboard(db=db, door=door, observatory=OneRequest())
    app = Litestar([pages.router(lambda: dashboard), signin.router(lambda: door)], openapi_config=None)
    clients: list[httpx.AsyncClient] = []

    async def enter(organization: str, *scopes: Scope) -> httpx.AsyncClient:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN)
        clients.append(client)
        if scopes:
            key = await keys.create(db, organization, scopes)
            answer = await client.post("/sign-in", data={"key": key.token}, headers={"origin": ORIGIN})
            assert answer.status_code == 303
        return client

    yield enter
    for client in clients:
        await client.aclose()


async def table(client: httpx.AsyncClient, path: str, panel: str, days: int = 30) -> list[dict[str, str]]:
    answer = await client.get(path, params={"csv": panel, "days": str(days)})
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


async def sql(db: Database, query: str) -> object:
    async with db.pool.connection() as connection:
        row = await (await connection.execute(query)).fetchone()
    return next(iter(row.values()))


SINCE = "finished_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '29 days'"


@pytest.mark.parametrize(
    ("who", "scopes", "where"),
    [
        ("ops", ["operate"], "true"),
        ("acme", ["models:publish"], "slug LIKE 'acme/%%'"),
        ("blue", ["usage:read"], "organization = 'blue'"),
    ],
)
async def test_pages_say_what_the_ledger_says(
    db: Database, enter: Enter, who: str, scopes: list[Scope], where: str
) -> None:
    client = await enter(who, *scopes)
    limit = f"FROM usage_records WHERE {where.replace('%%', '%')} AND {SINCE}"
    days = await table(client, "/dashboard", "requests")
    for state in ("succeeded", "failed"):
        expected = await sql(db, f"SELECT count(*) {limit} AND state = '{state}'")
        assert sum(int(row[state]) for row in days) == expected
    spend = sum(Decimal(row["spend, USD"]) for row in await table(client, "/dashboard", "spend"))
    assert spend == await sql(db, f"SELECT sum(amount) {limit}")
    movers = await table(client, "/dashboard", "movers")
    assert {row["model"] for row in movers} == set(
        await sql(db, f"SELECT array_agg(DISTINCT slug) {limit}")  # type: ignore[call-overload]
    )
    page = (await client.get("/dashboard?days=30")).text
    total = await sql(db, f"SELECT count(*) {limit}")
    assert re.search(rf"<dt>Requests</dt>\s*<dd>{total:,}</dd>", page)


@pytest.mark.parametrize("days", [7, 30, 90, 365])
@pytest.mark.parametrize(
    ("who", "scopes", "where"),
    [
        ("ops", ["operate"], "true"),
        ("acme", ["models:publish"], "slug LIKE 'acme/%'"),
        ("green", ["usage:read"], "organization = 'green'"),
    ],
)
async def test_a_model_s_tables_and_the_movers_say_what_the_ledger_says(
    db: Database, enter: Enter, who: str, scopes: list[Scope], where: str, days: int
) -> None:
    """Whole months come from their sums, the days at the ends from theirs."""
    client = await enter(who, *scopes)
    since = (TODAY - dt.timedelta(days=days - 1)).date()
    ledger = f"FROM usage_records WHERE {where} AND finished_at >= '{since} 00:00+00'"

    async def told(path: str, panel: str) -> dict[str, int]:
        rows = await table(client, path, panel, days)
        return {row[next(iter(row))]: int(row["requests"]) for row in rows if int(row["requests"])}

    async def expected(key: str, of: str = "true") -> dict[str, int]:
        query = f"SELECT jsonb_object_agg(key, n) FROM (SELECT {key} AS key, count(*) AS n {ledger} AND {of} GROUP BY 1) AS k"
        return dict(await sql(db, query) or {})  # type: ignore[call-overload]

    assert await told("/dashboard", "movers") == await expected("slug")
    alpha = "slug = 'acme/alpha'"
    path = "/dashboard/models/acme/alpha"
    assert await told(path, "adapters") == {
        name.removeprefix("sha256:"): n for name, n in (await expected("unnest(adapters)", alpha)).items()
    }
    if who == "ops":
        assert await told(path, "callers") == await expected("organization", alpha)
    versions = await table(client, path, "versions", days)
    weeks = (TODAY - dt.timedelta(days=days // 7 * 7 - 1)).date()
    whole = f"{alpha} AND finished_at >= '{weeks} 00:00+00'"
    assert sum(int(row["v1"]) for row in versions) == sum((await expected("slug", whole)).values())


@pytest.mark.parametrize(
    ("who", "scopes", "open_paths"),
    [
        ("ops", ["operate"], set(PATHS)),
        ("acme", ["models:publish"], {PATHS[0], PATHS[1], PATHS[2], PATHS[5]}),
        ("blue", ["usage:read"], {PATHS[0], PATHS[1], PATHS[2], PATHS[4], PATHS[7]}),
        ("green", ["usage:read"], {PATHS[0], PATHS[1], PATHS[2], PATHS[3], PATHS[4]}),
    ],
)
async def test_everyone_sees_exactly_what_is_theirs(
    enter: Enter, who: str, scopes: list[Scope], open_paths: set[str]
) -> None:
    """Walks every page and every export of it, and looks for names that the visitor must not see."""
    client = await enter(who, *scopes)
    forbidden = {
        "ops": (),
        "acme": ("other/gamma", "blue", "green", "rack-7"),
        "blue": ("other/gamma", "green", "rack-7"),
        "green": ("acme/beta", "blue", "rack-7"),
    }[who]
    for path in PATHS:
        answer = await client.get(path)
        assert (answer.status_code == 200) == (path in open_paths), path
        texts = [answer.text]
        for panel in re.findall(r'\?csv=([a-z]+)"', answer.text):
            export = await client.get(path, params={"csv": panel})
            assert export.headers["content-type"].startswith("text/csv")
            texts.append(export.text)
        for name in forbidden:
            assert not any(name in text for text in texts), (path, name)


def routes() -> set[str]:
    """Every address of the dashboard that the application has, events and static files aside."""
    app = Litestar([pages.router(lambda: None)], openapi_config=None)  # type: ignore[arg-type, return-value]
    found = {route.path for route in app.routes if route.path.startswith("/dashboard")}
    return {path for path in found if "static" not in path and not path.endswith("/events")}


def test_the_walk_leaves_no_page_out() -> None:
    walked = {
        re.sub(r"^/dashboard/models/.+", "/dashboard/models/{slug:path}", path).replace(
            "/requests/theirs", "/requests/{request_id:str}"
        )
        for path in PATHS
    }
    assert walked == routes()


async def test_the_live_part_says_nothing_when_nothing_changed(db: Database) -> None:
    """An empty event would empty the page."""
    door = Door(secret=bytes(32), verify=nobody, find=nobody)
    dashboard = pages.Dashboard(db=db, door=door, observatory=OneRequest())
    signed_in = True

    async def may_see() -> bool:
        return signed_in

    events = pages._fleet_events(dashboard, may_see)
    first, second = (await anext(events)).encode(), (await anext(events)).encode()
    assert b"rack-7" in first
    assert second.strip() == b": no change"
    signed_in = False  # the key is revoked, or somebody signed out
    assert [event async for event in events] == []


async def test_windows_are_shown_in_utc_whatever_zone_their_lab_wrote(db: Database, enter: Enter) -> None:
    async with db.transaction() as connection:
        await connection.execute(
            "INSERT INTO releases (variant, shares, \"window\", created_by) VALUES ('acme/alpha', %s, %s, 'k')",
            ['[{"version": 1, "percent": 100}]', '{"public_from": "2027-01-31T00:30:00+01:00"}'],
        )
    client = await enter("ops", "operate")
    assert "2027-01-30 23:30" in (await client.get("/dashboard/launches")).text


async def test_pages_travel_compressed_and_events_do_not(enter: Enter) -> None:
    client = await enter("ops", "operate")
    answer = await client.get("/dashboard?days=365")
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) * 4 < len(answer.content)
    plain = await client.get("/dashboard?days=365", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers


async def nobody(_: str) -> Caller | None:
    return None


async def test_figures_need_a_key_that_may_read_them(enter: Enter) -> None:
    for client in (await enter("nobody"), await enter("runner", "run")):
        for path in PATHS:
            answer = await client.get(path, params={"csv": "requests"})
            assert (answer.status_code, answer.headers["location"][:8]) == (303, "/sign-in")


async def test_the_live_fleet_is_for_operators(enter: Enter) -> None:
    for who in (
        await enter("acme", "models:publish"),
        await enter("blue", "usage:read"),
        await enter("nobody"),
    ):
        assert (await who.get("/dashboard/fleet/events")).status_code == 404


async def test_a_link_from_elsewhere_tries_again_with_its_cookie(enter: Enter) -> None:
    client = await enter("nobody")
    answer = await client.get("/dashboard", headers={"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh"' in answer.text


async def test_unknown_tables_and_odd_filters_do_no_harm(enter: Enter) -> None:
    client = await enter("ops", "operate")
    assert (await client.get("/dashboard?csv=nothing")).status_code == 404
    odd = ("days=-1", "days=x", "until=never", "until=2999-01-01", "days=999999999999", "days=" + "9" * 5000)
    for query in (*odd, "until=0001-01-01", "until=0001-01-01&days=365"):
        assert (await client.get(f"/dashboard?{query}")).status_code == 200
    assert (await client.get("/dashboard/models/no/such")).status_code == 404
    assert (await client.get("/dashboard/requests/no-such")).status_code == 404


async def test_a_made_up_year_can_be_looked_at_and_taken_away(db: Database, enter: Enter) -> None:
    yesterday = TODAY.date() - dt.timedelta(days=1)
    real = await sql(db, "SELECT count(*) FROM usage_records")
    written = await demo.fill(db, requests=3000, last_day=yesterday, days=60, seed=1)
    assert 1500 < written < 6000
    assert await sql(db, "SELECT sum(requests)::int FROM scope_days WHERE scope = ''") == real + written
    client = await enter("ops", "operate")
    for path in PATHS:
        assert (await client.get(path, params={"days": "365"})).status_code == 200
    assert await demo.remove(db) == written
    assert await sql(db, "SELECT sum(requests)::int FROM scope_days WHERE scope = ''") == real
    assert await rollups.differences(db) == dict.fromkeys(rollups.TABLES, 0)


def test_no_cell_and_no_heading_is_run_by_a_spreadsheet() -> None:
    columns = (Column(name="=HYPERLINK(1)", kind="text"), Column(name="plain"))
    panel = Panel(id="odd", title="Odd", columns=columns, rows=[("@SUM(1)", -1), ("+1", 2.5)])
    assert panel.csv() == "'=HYPERLINK(1),plain\r\n'@SUM(1),-1\r\n'+1,2.5\r\n"
