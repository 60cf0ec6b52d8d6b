"""Versions, their validation, and uploads. Process edge."""

from typing import Any

from litestar import Response, delete, get, post, put
from litestar.params import FromPath, FromQuery
from sqlalchemy.ext.asyncio import AsyncSession

from registry import upload_space, uploads, versions
from registry.admin.office import AnyRequest, Home, body_of, caller_of, name_of, read, respond, write
from registry.admin.owners import PUBLISH, READ
from registry.catalog import Caller, Record, Source
from registry.desk import require
from registry.errors import InvalidRequestError, UnknownSubjectError
from registry.goods import ADAPTERS, VARIANTS, Goods
from registry.writes import Answer


class VersionBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: Source


class AdapterVersionBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`weight_name` says which file of the source, where it holds several."""

    source: Source
    weight_name: str | None = None


BODIES: dict[str, type[VersionBody | AdapterVersionBody]] = {
    VARIANTS.noun: VersionBody,
    ADAPTERS.noun: AdapterVersionBody,
}


def routes(home: Home) -> list[Any]:
    versioned = [
        route
        for goods in (VARIANTS, ADAPTERS)
        for route in (*_version_writes(home, goods), *_version_reads(home, goods))
    ]
    return [*versioned, *_upload_routes(home), *_room_routes(home)]


def _version_writes(home: Home, goods: Goods) -> list[Any]:
    place = f"/{goods.plural}/{{slug:str}}/versions"

    @post(place, status_code=201)
    async def add(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        body = await body_of(request, BODIES[goods.noun])

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            source = versions.check_source(caller, body.source)
            if source.kind == "upload":
                await _check_complete(home, session, caller, source.location)
            facts = {} if isinstance(body, VersionBody) else {"weight_name": body.weight_name}
            made = await versions.add(session, caller, name_of(slug), source, goods, **facts)
            return Answer(status=201, body=made)

        return await write(home, request, PUBLISH, make)

    @post(f"{place}/{{number:int}}/validate", status_code=202)
    async def validate(request: AnyRequest, slug: FromPath[str], number: FromPath[int]) -> Response[Any]:
        """Begins; the version says how far it is."""

        async def look(session: AsyncSession, caller: Caller) -> Answer:
            view = await versions.may_validate(session, caller, name_of(slug), number, goods)
            return Answer(status=202, body=view)

        answer = await write(home, request, PUBLISH, look)
        caller = await caller_of(home(), request)
        home().begin_validation(caller.key_id, name_of(slug), number, goods)
        return answer

    return [add, validate]


def _version_reads(home: Home, goods: Goods) -> list[Any]:
    place = f"/{goods.plural}/{{slug:str}}/versions"

    @get(place)
    async def listing(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            views = await versions.views(session, caller, name_of(slug), goods=goods)
            return Answer(body={"versions": views})

        return await read(home, request, READ, found)

    @get(f"{place}/{{number:int}}")
    async def one(request: AnyRequest, slug: FromPath[str], number: FromPath[int]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(body=await versions.view_of(session, caller, name_of(slug), number, goods))

        return await read(home, request, READ, found)

    @get(f"{place}/{{number:int}}/manifest")
    async def manifest(request: AnyRequest, slug: FromPath[str], number: FromPath[int]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(body=await versions.manifest_of(session, caller, name_of(slug), number, goods))

        return await read(home, request, READ, found)

    return [listing, one, manifest]


async def _check_complete(home: Home, session: AsyncSession, caller: Caller, upload_id: str) -> None:
    files = await uploads.announced(session, caller, upload_id)
    if not uploads.progress(home().place.home, upload_id, files).complete:
        raise InvalidRequestError("source.location", "the upload is not complete")


def _upload_routes(home: Home) -> list[Any]:
    @post("/uploads", status_code=201)
    async def create(request: AnyRequest) -> Response[Any]:
        body = await body_of(request, uploads.UploadBody)

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            size = sum(file.size_bytes for file in body.files)
            await upload_space.check(session, caller.organization, size, home().upload_bytes)
            upload_id = await uploads.create(session, caller, body)
            return Answer(status=201, body=uploads.progress(home().place.home, upload_id, body.files))

        return await write(home, request, PUBLISH, make)

    @get("/uploads/{upload_id:str}")
    async def one(request: AnyRequest, upload_id: FromPath[str]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            files = await uploads.announced(session, caller, upload_id)
            return Answer(body=uploads.progress(home().place.home, upload_id, files))

        return await read(home, request, PUBLISH, found)

    @put("/uploads/{upload_id:str}/files", request_max_body_size=None)
    async def send(
        request: AnyRequest, upload_id: FromPath[str], path: FromQuery[str], offset: FromQuery[int] = 0
    ) -> Response[Any]:
        """Repeatable by its offset, so it needs no Idempotency-Key."""
        office = home()
        caller = await caller_of(office, request)
        require(caller, PUBLISH)
        async with office.db.sessions() as session:
            files = await uploads.announced(session, caller, upload_id)
        file = next((file for file in files if file.path == path), None)
        if file is None:
            raise UnknownSubjectError("announced file", path)
        done = await uploads.receive(office.place.home, upload_id, file, offset, request.stream())
        return respond(done, 200)

    return [create, one, send]


def _room_routes(home: Home) -> list[Any]:
    @get("/uploads")
    async def listing(request: AnyRequest) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            own = caller.organization
            listed = await upload_space.listed(session, own)
            used = sum(upload.size_bytes for upload in listed)
            room = upload_space.Space(used_bytes=used, allowed_bytes=home().upload_bytes)
            return Answer(body={"uploads": listed, "space": room})

        return await read(home, request, PUBLISH, found)

    @delete("/uploads/{upload_id:str}", status_code=200)
    async def remove(request: AnyRequest, upload_id: FromPath[str]) -> Response[Any]:
        async def end(session: AsyncSession, caller: Caller) -> Answer:
            await upload_space.remove(session, home().place.home, caller, upload_id)
            return Answer(body={"id": upload_id, "removed": True})

        return await write(home, request, PUBLISH, end)

    return [listing, remove]
