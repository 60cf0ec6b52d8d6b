"""Who gets a session, and whose changes are believed."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "acceptance"))
import stage_set

ORIGIN = "http://127.0.0.1:8080"
HERE = {"origin": ORIGIN}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(stage_set.create_app())
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


async def token(client: httpx.AsyncClient) -> str:
    page = (await client.get("/")).text
    return page.split('data-token="')[1].split('"')[0]


async def test_a_local_visitor_is_let_in(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert "atelier" in answer.text
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert stage_set.KEY not in cookie


@pytest.mark.parametrize(
    "headers", [{"host": "rebound.example"}, {"x-forwarded-for": "203.0.113.9"}, {"host": "gateway:8080"}]
)
async def test_others_are_asked_to_sign_in(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.get("/", headers=headers)
    assert "set-cookie" not in answer.headers
    assert "Sign in" in answer.text


async def test_a_run_needs_session_token_and_own_origin(client: httpx.AsyncClient) -> None:
    body = {"prompt": "a red circle"}
    assert (await client.post("/page/runs/marquee/shapes", json=body, headers=HERE)).status_code == 401
    headers = {"x-marquee-token": await token(client)}
    foreign = headers | {"origin": "http://evil.example"}
    assert (await client.post("/page/runs/marquee/shapes", json=body, headers=foreign)).status_code == 403
    assert (await client.post("/page/runs/marquee/shapes", json=body, headers=HERE)).status_code == 403
    accepted = await client.post("/page/runs/marquee/shapes", json=body, headers=headers | HERE)
    assert accepted.status_code == 202


async def test_signing_in_takes_a_key_and_leaves_a_cookie(client: httpx.AsyncClient) -> None:
    form = {"key": stage_set.KEY, "next": "/m/marquee/shapes"}
    assert (await client.post("/sign-in", data=form)).status_code == 403  # no origin: not our form
    assert (await client.post("/sign-in", data=form | {"key": "mq_x"}, headers=HERE)).status_code == 401
    answer = await client.post("/sign-in", data=form, headers=HERE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/m/marquee/shapes")
    gone = await client.post("/sign-out", headers=HERE)
    assert 'marquee_session=""' in gone.headers["set-cookie"] or "Max-Age=0" in gone.headers["set-cookie"]


async def test_an_unknown_model_is_a_page_and_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.get("/m/nobody/nothing")
    assert answer.status_code == 404
    assert "No such model" in answer.text


async def test_every_page_forbids_foreign_and_inline_code(client: httpx.AsyncClient) -> None:
    for path in ("/", "/m/marquee/shapes", "/sign-in"):
        policy = (await client.get(path)).headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
