"""Releases: scheduling, opening, splitting, rolling back, deprecating, retiring; what was live when. Process edge."""

from datetime import datetime
from typing import Any

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery
from sqlalchemy.ext.asyncio import AsyncSession

from registry import desk, releases
from registry.admin.office import AnyRequest, Home, body_of, name_of, read, revision_of, write
from registry.admin.owners import PUBLISH, READ
from registry.catalog import Caller, OrganizationName
from registry.errors import InvalidRequestError
from registry.goods import ADAPTERS, VARIANTS, Goods
from registry.publishing import PUBLIC
from registry.writes import Answer


def routes(home: Home) -> list[Any]:
    return [route for goods in (VARIANTS, ADAPTERS) for route in _routes(home, goods)]


def _routes(home: Home, goods: Goods) -> list[Any]:
    return [*_opening_routes(home, goods), *_ending_routes(home, goods), *_look_routes(home, goods)]


def _opening_routes(home: Home, goods: Goods) -> list[Any]:
    place = f"/{goods.plural}/{{slug:str}}"

    @post(f"{place}/releases", status_code=201)
    async def create(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        body = await body_of(request, releases.ReleaseBody)
        expected = revision_of(request) if "if-match" in request.headers else None

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            made = await releases.create(session, caller, name_of(slug), body, expected, goods)
            return Answer(status=201, body=made)

        return await write(home, request, PUBLISH, make)

    @delete(f"{place}/releases/{{release_id:int}}", status_code=200)
    async def withdraw(request: AnyRequest, slug: FromPath[str], release_id: FromPath[int]) -> Response[Any]:
        async def end(session: AsyncSession, caller: Caller) -> Answer:
            await releases.withdraw(session, caller, name_of(slug), release_id, goods)
            return Answer(body={"id": release_id, "withdrawn": True})

        return await write(home, request, PUBLISH, end)

    @post(f"{place}/rollback", status_code=201)
    async def roll_back(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def make(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(status=201, body=await releases.roll_back(session, caller, name_of(slug), goods))

        return await write(home, request, PUBLISH, make)

    return [create, withdraw, roll_back]


def _ending_routes(home: Home, goods: Goods) -> list[Any]:
    place = f"/{goods.plural}/{{slug:str}}"

    @post(f"{place}/deprecate", status_code=201)
    async def deprecate(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        body = await body_of(request, releases.Deprecation)

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            made = await releases.deprecate(session, caller, name_of(slug), body, goods)
            return Answer(status=201, body=made)

        return await write(home, request, PUBLISH, make)

    @post(f"{place}/retire", status_code=201)
    async def retire(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        body = await body_of(request, releases.Retirement)

        async def make(session: AsyncSession, caller: Caller) -> Answer:
            made = await releases.retire(session, caller, name_of(slug), body, goods)
            return Answer(status=201, body=made)

        return await write(home, request, PUBLISH, make)

    return [deprecate, retire]


def _look_routes(home: Home, goods: Goods) -> list[Any]:
    place = f"/{goods.plural}/{{slug:str}}"

    @get(f"{place}/releases")
    async def listing(request: AnyRequest, slug: FromPath[str]) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            await desk.row_of(session, caller, goods.table, name_of(slug))
            return Answer(body={"releases": await releases.recorded(session, name_of(slug), goods)})

        return await read(home, request, READ, found)

    @get(f"{place}/live")
    async def live(
        request: AnyRequest,
        slug: FromPath[str],
        at: FromQuery[str | None] = None,
        organization: FromQuery[str] = PUBLIC,
    ) -> Response[Any]:
        """What answered the public, or one organization, at a moment; by default now."""

        async def answered(session: AsyncSession, caller: Caller) -> Answer:
            await desk.row_of(session, caller, goods.table, name_of(slug))
            who = OrganizationName(organization)
            when = None if at is None else _moment(at)
            found = await releases.live_at(session, name_of(slug), who, when, goods)
            return Answer(body=found)

        return await read(home, request, READ, answered)

    return [listing, live]


def _moment(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError("at", f"{text[:40]!r} is no time like 2026-12-01T09:00:00+01:00") from error
    if when.tzinfo is None:
        raise InvalidRequestError("at", "it needs a zone, like Z or +01:00")
    return when
