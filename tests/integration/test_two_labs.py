"""Another lab's key on every admin route there is: the table below must name each of the application's routes."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from litestar import Litestar

from registry.database import Database
from tests import admin
from tests.admin import Lab, Office

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}
SHARES = {"shares": [{"version": 1, "percent": 100}]}
HUB = {"source": {"kind": "hub", "location": "a/b"}}
WHEN = "?at=2026-12-01T00:00:00Z"
VARIANT = {"slug": "acme/mine", "model": "acme/toys", "task": "t", "input_schema": SCHEMA}


class Try(NamedTuple):
    """One request of the spy. `field`: a listing, which is answered and must hold nothing of the other lab's."""

    body: Any = None
    query: str = ""
    field: str | None = None


REFUSED, NOTHING = Try(), Try(body={})
VERSIONED = {
    "GET /{}": REFUSED, "PATCH /{}": Try({"name": "mine"}), "DELETE /{}": REFUSED,
    "GET /{}/versions": REFUSED, "POST /{}/versions": Try(HUB),
    "GET /{}/versions/1": REFUSED, "GET /{}/versions/1/manifest": REFUSED, "POST /{}/versions/1/validate": REFUSED,
    "GET /{}/releases": REFUSED, "POST /{}/releases": Try(SHARES), "DELETE /{}/releases/1": REFUSED,
    "POST /{}/rollback": REFUSED, "POST /{}/deprecate": NOTHING, "POST /{}/retire": NOTHING,
    "GET /{}/live": Try(query=WHEN),
}  # fmt: skip
TRIES: dict[str, Try] = {
    "GET /me": Try(field="organization"),
    "GET /history": Try(field="changes"),
    "GET /usage": Try(field="variants"),
    "GET /organizations": REFUSED,
    "POST /organizations": Try({"name": "green"}),
    "GET /keys": Try(query="?organization=acme"),
    "POST /keys": Try({"scopes": ["models:read"], "organization": "acme"}),
    "DELETE /keys/{}": REFUSED,
    "POST /keys/{}/rotate": REFUSED,
    "GET /models": Try(field="models"),
    "POST /models": Try({"name": "acme/mine"}),
    "GET /models/{}": REFUSED,
    "PATCH /models/{}": Try({"title": "mine"}),
    "DELETE /models/{}": REFUSED,
    "GET /variants": Try(field="variants"),
    "POST /variants": Try(VARIANT),
    "GET /adapters": Try(field="adapters"),
    "POST /adapters": Try({"slug": "acme/mine", "base": "acme/toys"}),
    "POST /uploads": Try({"files": []}),
    "GET /uploads": Try(field="uploads"),
    "DELETE /uploads/{}": REFUSED,
    "GET /uploads/{}": REFUSED,
    "PUT /uploads/{}/files": Try(b"{}", query="?path=model_index.json"),
    **{route.replace("/{}", f"/{plural}/{{}}", 1): tried for plural in ("variants", "adapters") for route, tried in VERSIONED.items()},
}  # fmt: skip


@pytest.fixture
async def office(db: Database, tmp_path: Path):
    async with admin.opened(db, tmp_path / "home") as office:
        yield office


@pytest.fixture
async def secrets(office: Office, toys: Path) -> dict[str, str]:
    """What the other lab has, by the route's first word: a live variant and a live adapter, an upload, a key."""
    lab = await office.lab("acme")
    await lab.post("/models", {"name": "acme/toys"})
    await lab.post("/variants", VARIANT | {"slug": "acme/toys"})
    await lab.post("/adapters", {"slug": "acme/bent", "base": "acme/toys"})
    upload = await admin.send_folder(lab, toys.parent / "toys")
    await admin.validated(lab, "acme/toys", {"kind": "upload", "location": upload})
    bent = await admin.send_folder(lab, toys.parent / "toys-bent")
    await admin.validated(lab, "acme/bent", {"kind": "upload", "location": bent}, "adapters")
    await lab.post("/variants/acme~toys/releases", SHARES)
    await lab.post("/adapters/acme~bent/releases", SHARES)
    key = (await lab.post("/keys", {"scopes": ["models:read"]}))["id"]
    return {
        "models": "acme~toys",
        "variants": "acme~toys",
        "adapters": "acme~bent",
        "uploads": upload,
        "keys": key,
    }


def _routes(http: httpx.AsyncClient) -> set[str]:
    """`GET /variants/{}/versions/1` for each route of the admin API."""
    app: Litestar = http._transport.app  # type: ignore[attr-defined]
    found = set()
    for route in app.routes:
        if route.path.startswith("/v1/admin/"):
            path = re.sub(r"\{\w+:int\}", "1", route.path.removeprefix("/v1/admin"))
            path = re.sub(r"\{\w+:str\}", "{}", path)
            found |= {f"{method} {path}" for method in route.methods if method not in {"OPTIONS", "HEAD"}}
    return found


async def _ask(spy: Lab, route: str, tried: Try, name: str) -> httpx.Response:
    method, path = route.split(" ")
    return await spy.ask(method, path.replace("{}", name) + tried.query, tried.body, if_match='"1"')


def test_no_route_is_forgotten(office: Office) -> None:
    assert _routes(office.http) == set(TRIES)


async def test_another_labs_key_sees_and_touches_nothing(office: Office, secrets: dict[str, str]) -> None:
    spy = await office.lab("blue")
    before = await _everything(office)
    for route, tried in TRIES.items():
        name = secrets.get(route.split("/")[1], "")
        answer = await _ask(spy, route, tried, name)
        if tried.field is not None:
            assert answer.status_code == 200, (route, answer.text)
            assert "acme" not in str(answer.json()[tried.field]), route
        else:
            assert answer.status_code in ({422} if route == "POST /uploads" else {403, 404}), (
                route,
                answer.text,
            )
    assert await _everything(office) == before


async def test_what_is_anothers_looks_like_what_is_not_there(office: Office, secrets: dict[str, str]) -> None:
    spy = await office.lab("blue")
    for route, tried in TRIES.items():
        if "{}" in route:
            name = secrets[route.split("/")[1]]
            theirs = await _ask(spy, route, tried, name)
            nobodys = await _ask(spy, route, tried, name[:-1] + "x")
            told = [
                {
                    k: str(v).replace(n.replace("~", "/"), "it")
                    for k, v in answer.json().items()
                    if k != "instance"
                }
                for answer, n in ((theirs, name), (nobodys, name[:-1] + "x"))
            ]
            assert (theirs.status_code, told[0]) == (nobodys.status_code, told[1]), route


async def test_an_adapter_needs_a_base_that_its_lab_may_call(office: Office, secrets: dict[str, str]) -> None:
    spy = await office.lab("blue")
    made = await spy.ask("POST", "/adapters", {"slug": "blue/on-toys", "base": "acme/toys"})
    assert made.status_code == 201, "acme/toys is public"
    lab = await office.lab("acme")
    await lab.post("/variants", VARIANT | {"slug": "acme/secret"})
    hidden = await spy.ask("POST", "/adapters", {"slug": "blue/on-secret", "base": "acme/secret"})
    nothing = await spy.ask("POST", "/adapters", {"slug": "blue/on-secret", "base": "acme/nothing"})
    assert (hidden.status_code, nothing.status_code) == (404, 404)
    assert hidden.json()["detail"].replace("secret", "nothing") == nothing.json()["detail"]
    refused = await lab.ask("DELETE", "/variants/acme~toys")
    assert refused.status_code == 409
    assert "blue" not in refused.text, "what is based on it may still be a secret"


async def _everything(office: Office) -> Any:
    lab = await office.lab("acme")
    listings = {
        "models": await lab.get("/models"),
        "variants": await lab.get("/variants"),
        "adapters": await lab.get("/adapters"),
        "versions": await lab.get("/variants/acme~toys/versions"),
        "releases": await lab.get("/adapters/acme~bent/releases"),
    }
    return listings | {"keys": [key for key in (await lab.get("/keys"))["keys"] if not key.get("title")][:1]}
