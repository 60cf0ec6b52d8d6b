"""Adapters: LoRAs as entries of their own. Their versions and releases have the routes of variants. Process edge."""

from typing import Any

from litestar import Response, delete, get, patch, post
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from registry import adapter_desk
from registry.admin.office import AnyRequest, Home, body_of, name_of, read, revision_of, write
from registry.admin.owners import PUBLISH, READ
from registry.catalog import Caller
from registry.writes import Answer


def routes(home: Home) -> list[Any]:
    return [*_edits(home), *_reads(home)]


def _edits(home: Home) -> list[Any]:
    @post("/adapters", status_code=201)
    async def create(request: AnyRequest) -> Response[Any]:
        body = await body_of(request, adapter_desk.AdapterBody)

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(status=201, body=await adapter_desk.create(session, caller, body), etag="1")

        return await write(home, request, PUBLISH, make)

    @patch("/adapters/{slug:str}")
    async def edit(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        body, expected = await body_of(request, adapter_desk.AdapterPatch), revision_of(request)

        async def change(session: AsyncSession, caller: Caller) -> Answer:
            view, revision = await adapter_desk.edit(session, caller, name_of(slug), body, expected)
            return Answer(body=view, etag=str(revision))

        return await write(home, request, PUBLISH, change)

    @delete("/adapters/{slug:str}", status_code=200)
    async def remove(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def end(session: AsyncSession, caller: Caller) -> Answer:
            await adapter_desk.remove(session, caller, name_of(slug))
            return Answer(body={"slug": name_of(slug), "removed": True})

        return await write(home, request, PUBLISH, end)

    return [create, edit, remove]


def _reads(home: Home) -> list[Any]:
    @get("/adapters")
    async def listing(request: AnyRequest) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(body={"adapters": await adapter_desk.views(session, caller)})

        return await read(home, request, READ, found)

    @get("/adapters/{slug:str}")
    async def one(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            view, revision = await adapter_desk.view_of(session, caller, name_of(slug))
            return Answer(body=view, etag=str(revision))

        return await read(home, request, READ, found)

    return [listing, one]
