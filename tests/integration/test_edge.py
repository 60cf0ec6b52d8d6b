"""Every answer carries a request id; every error is a problem."""

import httpx
import pytest
from litestar import Litestar, get
from litestar.params import FromPath
from psycopg_pool import PoolTimeout

from registry import edge
from registry.errors import InUseError


@get("/broken")
async def broken() -> None:
    raise RuntimeError("a secret detail")


@get("/away")
async def away() -> None:
    raise PoolTimeout("couldn't get a connection after 10.00 sec")


@get("/used")
async def used() -> None:
    raise InUseError("acme/model", ["blue"])


@get("/named/{name:str}")
async def named(name: FromPath[str]) -> str:
    return name


@pytest.fixture
async def client():
    plumbing = edge.plumbing(edge.Metrics())
    handlers = [
        *plumbing.pop("route_handlers"),
        broken,
        away,
        used,
        named,
    ]
    app = Litestar(handlers, **plumbing, openapi_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "title", "detail"),
    [
        ("/used", 409, "Still in use", "acme/model is still called by blue"),
        ("/nowhere", 404, "Not Found", "Not Found"),
        ("/away", 503, "Database unavailable", "The database does not answer; ask again in a moment."),
        ("/broken", 500, "Internal error", "Something went wrong here; the request id names the log entry."),
    ],
)
async def test_errors_are_problems(client, path: str, status: int, title: str, detail: str) -> None:
    answer = await client.get(path, headers={"x-request-id": "mine-1"})
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (body["status"], body["title"], body["detail"]) == (status, title, detail)
    assert answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("path", ["/used?slug=a%00b", "/named/a%00b"])
async def test_a_zero_byte_in_an_address_is_the_callers_fault(client, path: str) -> None:
    """Postgres takes none in a text: what searched for it ended in an unexpected error."""
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_a_strange_request_id_is_replaced(client) -> None:
    answer = await client.get("/metrics", headers={"x-request-id": "a b\tc"})
    assert len(answer.headers["x-request-id"]) == 24


async def test_metrics_count_by_route(client) -> None:
    await client.get("/used")
    text = (await client.get("/metrics")).text
    assert 'marquee_http_seconds_count{method="GET",route="/used",status="409"} 1.0' in text
