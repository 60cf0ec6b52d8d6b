"""Models and variants. Process edge."""

from typing import Any

import sqlalchemy
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from registry import desk, store, tables
from registry.admin.office import AnyRequest, Home, body_of, name_of, read, revision_of, write
from registry.admin.owners import PUBLISH, READ
from registry.catalog import Caller
from registry.writes import Answer


def routes(home: Home) -> list[Any]:
    return [*_model_edits(home), *_model_reads(home), *_variant_edits(home), *_variant_reads(home)]


def _model_edits(home: Home) -> list[Any]:
    @post("/models", status_code=201)
    async def create(request: AnyRequest) -> Response[Any]:
        body = await body_of(request, desk.ModelBody)

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(status=201, body=await desk.create_model(session, caller, body), etag="1")

        return await write(home, request, PUBLISH, make)

    @patch("/models/{name:str}")
    async def edit(request: AnyRequest, name: FromPath[str]) -> Response[Any]:
        body, expected = await body_of(request, desk.ModelPatch), revision_of(request)

        async def change(session: AsyncSession, caller: Caller) -> Answer:
            model, revision = await desk.edit_model(session, caller, name_of(name), body, expected)
            return Answer(body=model, etag=str(revision))

        return await write(home, request, PUBLISH, change)

    @delete("/models/{name:str}", status_code=200)
    async def remove(request: AnyRequest, name: FromPath[str]) -> Response[Any]:
        async def end(session: AsyncSession, caller: Caller) -> Answer:
            await desk.remove_model(session, caller, name_of(name))
            return Answer(body={"name": name_of(name), "removed": True})

        return await write(home, request, PUBLISH, end)

    return [create, edit, remove]


def _model_reads(home: Home) -> list[Any]:
    @get("/models")
    async def listing(request: AnyRequest) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(
                body={
                    "models": [store.model_of(row) for row in await _visible(session, caller, tables.models)]
                }
            )

        return await read(home, request, READ, found)

    @get("/models/{name:str}")
    async def one(request: AnyRequest, name: FromPath[str]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            row = await desk.row_of(session, caller, tables.models, name_of(name))
            return Answer(body=store.model_of(row), etag=str(row["revision"]))

        return await read(home, request, READ, found)

    return [listing, one]


def _variant_edits(home: Home) -> list[Any]:
    @post("/variants", status_code=201)
    async def create(request: AnyRequest) -> Response[Any]:
        body = await body_of(request, desk.VariantBody)

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(status=201, body=await desk.create_variant(session, caller, body), etag="1")

        return await write(home, request, PUBLISH, make)

    @patch("/variants/{slug:str}")
    async def edit(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        body, expected = await body_of(request, desk.VariantPatch), revision_of(request)

        async def change(session: AsyncSession, caller: Caller) -> Answer:
            variant, revision = await desk.edit_variant(session, caller, name_of(slug), body, expected)
            return Answer(body=variant, etag=str(revision))

        return await write(home, request, PUBLISH, change)

    @delete("/variants/{slug:str}", status_code=200)
    async def remove(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def end(session: AsyncSession, caller: Caller) -> Answer:
            await desk.remove_variant(session, caller, name_of(slug))
            return Answer(body={"slug": name_of(slug), "removed": True})

        return await write(home, request, PUBLISH, end)

    return [create, edit, remove]


def _variant_reads(home: Home) -> list[Any]:
    @get("/variants")
    async def listing(request: AnyRequest) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            rows = await _visible(session, caller, tables.variants)
            return Answer(body={"variants": [store.variant_of(row) for row in rows]})

        return await read(home, request, READ, found)

    @get("/variants/{slug:str}")
    async def one(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            row = await desk.row_of(session, caller, tables.variants, name_of(slug))
            return Answer(body=store.variant_of(row), etag=str(row["revision"]))

        return await read(home, request, READ, found)

    return [listing, one]


async def _visible(
    session: AsyncSession, caller: Caller, table: sqlalchemy.Table
) -> list[sqlalchemy.RowMapping]:
    query = sqlalchemy.select(table).order_by(*table.primary_key.columns)
    if desk.OPERATE not in caller.scopes:
        query = query.where(table.c.owner == caller.organization)
    return list((await session.execute(query)).mappings())
