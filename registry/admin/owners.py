"""Organizations, keys, history and who calls what. Process edge."""

from typing import Any

import msgspec
import sqlalchemy
from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from registry import desk, history, keys, ledger_tables, publishing, tables
from registry.admin.office import AnyRequest, Home, body_of, read, write
from registry.catalog import Caller, Organization, Record, Scope
from registry.errors import AccessError, InvalidRequestError, UnknownKeyError
from registry.ledger_tables import BY_SLUG
from registry.writes import Answer

PUBLISH: Scope = "models:publish"
READ: Scope = "models:read"
MAX_PAGE = 500
STATES = ("cancelled", "failed", "succeeded")


class OrganizationBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one that is there, what is left out stays."""

    name: str
    title: desk.Line | msgspec.UnsetType | None = msgspec.UNSET


class KeyBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`organization` is for operators; a key can give no more than it has."""

    scopes: tuple[Scope, ...]
    title: str | None = None
    organization: str | None = None


def routes(home: Home) -> list[Any]:
    return [*_organization_routes(home), *_key_routes(home), *_record_routes(home)]


def _organization_routes(home: Home) -> list[Any]:
    @post("/organizations", status_code=201)
    async def create(request: AnyRequest) -> Response[Any]:
        body = await body_of(request, OrganizationBody)
        return await write(
            home, request, desk.OPERATE, lambda session, caller: _create(session, caller, body)
        )

    @get("/organizations")
    async def listing(request: AnyRequest) -> Response[Any]:
        return await read(home, request, desk.OPERATE, lambda session, _: _organizations(session))

    @get("/me")
    async def me(request: AnyRequest) -> Response[Any]:
        async def who(_: AsyncSession, caller: Caller) -> Answer:
            return Answer(
                body={
                    "organization": caller.organization,
                    "key": caller.key_id,
                    "scopes": sorted(caller.scopes),
                }
            )

        return await read(home, request, READ, who)

    return [create, listing, me]


async def _create(session: AsyncSession, caller: Caller, body: OrganizationBody) -> Answer:
    """Made, or given another title: whoever repeats it without one erases none."""
    name, known = publishing.check_organization(body.name), tables.organizations
    query = sqlalchemy.select(known.c.title).where(known.c.name == name).with_for_update()
    found = (await session.execute(query)).one_or_none()
    before = None if found is None else Organization(name=name, title=found.title)
    kept = before.title if before else None
    after = Organization(name=name, title=kept if body.title is msgspec.UNSET else body.title)
    statement = insert(known).values(name=name, title=after.title)
    await session.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_={"title": after.title})
    )
    if after != before:
        await desk.note(session, caller, "organization", name, before, after)
    return Answer(status=201, body=after)


async def _organizations(session: AsyncSession) -> Answer:
    rows = (await session.execute(sqlalchemy.select(tables.organizations).order_by("name"))).mappings()
    return Answer(
        body={"organizations": [Organization(name=row["name"], title=row["title"]) for row in rows]}
    )


def _key_routes(home: Home) -> list[Any]:
    @post("/keys", status_code=201)
    async def create(request: AnyRequest) -> Response[Any]:
        body = await body_of(request, KeyBody)
        return await write(home, request, PUBLISH, lambda session, caller: _make_key(session, caller, body))

    @get("/keys")
    async def listing(request: AnyRequest, organization: FromQuery[str | None] = None) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            rows = await keys.listed(session, desk.organization_of(caller, organization))
            return Answer(body={"keys": rows})

        return await read(home, request, PUBLISH, found)

    @delete("/keys/{key_id:str}", status_code=200)
    async def revoke(request: AnyRequest, key_id: FromPath[str]) -> Response[Any]:
        async def end(session: AsyncSession, caller: Caller) -> Answer:
            old = await keys.end(session, key_id, organization=_reach(caller), actor=caller.key_id)
            if desk.OPERATE not in caller.scopes and not set(old.scopes) <= caller.scopes:
                raise AccessError("a key can end only keys whose scopes it has")
            return Answer(body={"id": key_id, "revoked": True})

        return await write(home, request, PUBLISH, end)

    @post("/keys/{key_id:str}/rotate", status_code=201)
    async def rotate(request: AnyRequest, key_id: FromPath[str]) -> Response[Any]:
        return await write(home, request, PUBLISH, lambda session, caller: _rotate(session, caller, key_id))

    return [create, listing, revoke, rotate]


def _reach(caller: Caller) -> str | None:
    return None if desk.OPERATE in caller.scopes else caller.organization


async def _make_key(session: AsyncSession, caller: Caller, body: KeyBody) -> Answer:
    organization = desk.organization_of(caller, body.organization)
    if not body.scopes:
        raise InvalidRequestError("scopes", "at least one")
    if desk.OPERATE not in caller.scopes and not set(body.scopes) <= caller.scopes:
        raise AccessError("a key can give only the scopes it has")
    made = await keys.add(session, organization, body.scopes, title=body.title, actor=caller.key_id)
    return Answer(status=201, body=made, secrets=("token",))


async def _rotate(session: AsyncSession, caller: Caller, key_id: str) -> Answer:
    """A new key with the old one's rights; the old one ends at once."""
    old = await keys.end(session, key_id, organization=_reach(caller), actor=caller.key_id)
    if old.revoked_at is not None:  # whoever revoked it meant it, and of two rotations one gives the key
        raise UnknownKeyError(key_id)
    if desk.OPERATE not in caller.scopes and not set(old.scopes) <= caller.scopes:
        raise AccessError("a key can give only the scopes it has")
    made = await keys.add(session, old.organization, old.scopes, title=old.title, actor=caller.key_id)
    return Answer(status=201, body=made, secrets=("token",))


def _record_routes(home: Home) -> list[Any]:
    @get("/history")
    async def changes(
        request: AnyRequest,
        subject: FromQuery[str | None] = None,
        below: FromQuery[int | None] = None,
        limit: FromQuery[int] = 100,
    ) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            count = max(1, min(limit, MAX_PAGE))
            entries = await history.read(
                session, owner=_reach(caller), subject=subject, limit=count, below=below
            )
            return Answer(body={"changes": entries})

        return await read(home, request, READ, found)

    @get("/usage")
    async def used(request: AnyRequest, days: FromQuery[int] = 30) -> Response[Any]:
        async def found(session: AsyncSession, caller: Caller) -> Answer:
            return Answer(
                body={"days": days, "variants": await _calls(session, _reach(caller), max(1, min(days, 366)))}
            )

        return await read(home, request, "usage:read", found)

    return [changes, used]


async def _calls(session: AsyncSession, owner: str | None, days: int) -> list[dict[str, Any]]:
    """Calls of one owner's variants by slug and state: of today and the days before it, as far as they are summed."""
    sums = ledger_tables.scope_days
    first = sqlalchemy.func.current_date() - days + 1
    query = (
        sqlalchemy.select(
            sqlalchemy.func.substr(sums.c.scope, len(BY_SLUG) + 1).label("slug"),
            *(
                sqlalchemy.cast(sqlalchemy.func.sum(sums.c[state]), sqlalchemy.BigInteger).label(state)
                for state in STATES
            ),
        )
        .where(
            sums.c.day >= first,
            sums.c.scope.startswith(f"{BY_SLUG}{owner}/" if owner else BY_SLUG, autoescape=True),
        )
        .group_by(sums.c.scope)
        .order_by(sums.c.scope)
    )
    found = (await session.execute(query)).mappings().all()
    return [
        {"slug": row["slug"], "state": state, "calls": row[state]}
        for row in found
        for state in STATES
        if row[state]
    ]
