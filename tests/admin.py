"""A lab's client of the admin API, over the application without a network."""

import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar

from registry import api, edge, hub, keys
from registry.catalog import Scope
from registry.database import Database
from registry.reading import Place

LAB: tuple[Scope, ...] = ("models:publish", "models:read", "usage:read")


class Lab:
    """Requests with one key; writes get an Idempotency-Key of their own unless they bring one."""

    def __init__(self, http: httpx.AsyncClient, token: str) -> None:
        self._http = http
        self.token = token

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"authorization": f"Key {self.token}", "idempotency-key": secrets.token_hex(8)}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else None
        return await self._http.request(
            method, f"/v1/admin{path}", headers=sent, content=content, json=None if content else body
        )

    async def get(self, path: str) -> Any:
        return (await self.ask("GET", path)).raise_for_status().json()

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return (await self.ask("POST", path, body, **headers)).raise_for_status().json()


class Office:
    """The application with its keys."""

    def __init__(self, db: Database, http: httpx.AsyncClient) -> None:
        self.db = db
        self.http = http

    async def lab(self, organization: str, *scopes: Scope) -> Lab:
        return Lab(self.http, (await keys.create(self.db, organization, scopes or LAB)).token)


@contextlib.asynccontextmanager
async def opened(
    db: Database,
    home: Path,
    endpoint: hub.Endpoint | None = None,
    upload_bytes: int | None = None,
    **place: Any,
) -> AsyncIterator[Office]:
    place = Place(home=home, endpoint=endpoint or hub.Endpoint(url="http://127.0.0.1:9"), **place)
    office = api.Office(db, place, upload_bytes=upload_bytes)
    plumbing = edge.plumbing(edge.Metrics())
    handlers = [*plumbing.pop("route_handlers"), api.router(lambda: office)]
    app = Litestar(handlers, **plumbing, openapi_config=None)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield Office(db, http)
    await office.close()


def announced(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "path": file.relative_to(folder).as_posix(),
            "size_bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


async def send_folder(lab: Lab, folder: Path) -> str:
    """A finished upload of a folder; returns its id."""
    upload = await lab.post("/uploads", {"files": announced(folder)})
    for file in upload["files"]:
        answer = await lab.ask(
            "PUT", f"/uploads/{upload['id']}/files?path={file['path']}", (folder / file["path"]).read_bytes()
        )
        assert answer.status_code == 200, answer.text
    return str(upload["id"])


async def validated(
    lab: Lab, slug: str, source: dict[str, Any], goods: str = "variants", **facts: Any
) -> Any:
    """A version of that source once validation ended, whatever it found."""
    import asyncio

    address = slug.replace("/", "~")
    version = await lab.post(f"/{goods}/{address}/versions", {"source": source, **facts})
    place = f"/{goods}/{address}/versions/{version['number']}"
    await lab.post(f"{place}/validate")
    for _ in range(400):
        version = await lab.get(place)
        if version["state"] not in {"draft", "validating"} or version.get("report", {}).get("message"):
            return version
        await asyncio.sleep(0.05)
    raise AssertionError(version)
