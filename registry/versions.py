"""Versions as their lab sees them: drafts, validation's progress and result, states that follow from releases. IO."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import history, publishing, store, tables
from registry.catalog import (
    AdapterManifest,
    Caller,
    Manifest,
    Record,
    Release,
    Slug,
    Source,
    VersionState,
)
from registry.desk import OPERATE, note, row_of
from registry.errors import AccessError, InvalidRequestError, UnknownSubjectError
from registry.goods import ADAPTERS, VARIANTS, Goods


class VersionView(Record, frozen=True, kw_only=True):
    """A version as its lab sees it."""

    variant: Slug | None = None
    adapter: Slug | None = None
    number: int
    state: VersionState
    source: Source
    digest: str | None = None
    pipeline_class: str | None = None
    weight_name: str | None = None
    size_bytes: int | None = None
    report: Any = None
    revision: int  # counts its moves from state to state
    created_by: str | None = None
    created_at: datetime | None = None


def check_source(caller: Caller, source: Source) -> Source:
    """Folders of the server are for operators: a lab could read anything through them. Raises `AccessError`."""
    if source.kind == "path" and OPERATE not in caller.scopes:
        raise AccessError("a folder on the server can only be named by operators; upload the files")
    if source.subfolder is not None and ".." in source.subfolder.split("/"):
        raise InvalidRequestError("source.subfolder", "it leads out of the source")
    return source


async def add(
    session: AsyncSession,
    caller: Caller,
    slug: str,
    source: Source,
    goods: Goods = VARIANTS,
    **facts: Any,
) -> VersionView:
    """A draft: its contents are known once it is validated. `facts` are further columns."""
    await row_of(session, caller, goods.table, slug, lock=True)
    owner = goods.versions.c[goods.noun]
    highest = sqlalchemy.select(sqlalchemy.func.max(goods.versions.c.number)).where(owner == slug)
    number = (await session.scalar(highest) or 0) + 1
    plain = msgspec.to_builtins(source)
    values = {"number": number, "source": plain, "state": "draft", "created_by": caller.key_id, **facts}
    await session.execute(sqlalchemy.insert(goods.versions).values(**values | {goods.noun: slug}))
    after = {"state": "draft", "source": plain, **facts}
    await note(session, caller, goods.version_kind, f"{slug}@{number}", None, after)
    return await view_of(session, caller, slug, number, goods)


async def set_state(
    session: AsyncSession,
    actor: str,
    slug: str,
    number: int,
    after: VersionState,
    report: Any,
    goods: Goods = VARIANTS,
) -> None:
    """Along the legal moves only. Raises `IllegalMoveError`."""
    versions, mine = goods.versions, goods.version_is(slug, number)
    before: VersionState | None = await session.scalar(
        sqlalchemy.select(versions.c.state).where(mine).with_for_update()
    )
    if before is None:
        raise UnknownSubjectError("version", f"{slug}@{number}")
    publishing.move(before, after)
    fresh = {"state": after, "report": msgspec.to_builtins(report), "revision": versions.c.revision + 1}
    await session.execute(sqlalchemy.update(versions).where(mine).values(**fresh))
    entry = history.Entry(
        actor=actor,
        kind=goods.version_kind,
        subject=f"{slug}@{number}",
        owner=slug.split("/", 1)[0],
        before={"state": before},
        after={"state": after, "report": report},
    )
    await history.append(session, [entry])


async def view_of(
    session: AsyncSession, caller: Caller, slug: str, number: int, goods: Goods = VARIANTS
) -> VersionView:
    for view in await views(session, caller, slug, [number], goods):
        return view
    raise UnknownSubjectError("version", f"{slug}@{number}")


async def views(
    session: AsyncSession,
    caller: Caller,
    slug: str,
    numbers: Collection[int] | None = None,
    goods: Goods = VARIANTS,
) -> tuple[VersionView, ...]:
    await row_of(session, caller, goods.table, slug)
    versions = goods.versions
    query = sqlalchemy.select(versions).where(versions.c[goods.noun] == slug).order_by(versions.c.number)
    if numbers is not None:
        query = query.where(versions.c.number.in_(numbers))
    sizes = {number: int(size) for number, size in (await session.execute(_sizes(slug, goods))).all()}
    releases = await store.read_releases(session, slug, goods)
    now = (await session.execute(store.CLOCK)).scalar_one()
    rows = (await session.execute(query)).mappings()
    return tuple([_view(row, sizes.get(row["number"]), releases, now, goods) for row in rows])


def _sizes(slug: str, goods: Goods) -> sqlalchemy.Select[Any]:
    if goods is ADAPTERS:
        versions = goods.versions
        size = versions.c.manifest["weights"]["size_bytes"].as_integer()
        known = (versions.c.adapter == slug) & versions.c.digest.is_not(None)
        return sqlalchemy.select(versions.c.number, size).where(known)
    parts, components = tables.version_components, tables.components
    return (
        sqlalchemy.select(parts.c.number, sqlalchemy.func.sum(components.c.size_bytes))
        .join(components, components.c.digest == parts.c.component)
        .where(parts.c.variant == slug)
        .group_by(parts.c.number)
    )


def _view(
    row: sqlalchemy.RowMapping, size: int | None, releases: Sequence[Release], now: datetime, goods: Goods
) -> VersionView:
    own: dict[str, Any] = {goods.noun: row[goods.noun]}
    own |= {name: row[name] for name in ("pipeline_class", "weight_name") if name in row}
    return VersionView(
        **own,
        number=row["number"],
        state=publishing.state_at(row["state"], row["number"], releases, now),
        source=msgspec.convert(row["source"], Source),
        digest=row["digest"],
        size_bytes=size,
        report=row["report"],
        revision=row["revision"],
        created_by=row["created_by"],
        created_at=row["created_at"],
    )


async def manifest_of(
    session: AsyncSession, caller: Caller, slug: str, number: int, goods: Goods = VARIANTS
) -> Manifest | AdapterManifest:
    await row_of(session, caller, goods.table, slug)
    mine = goods.version_is(slug, number) & goods.versions.c.digest.is_not(None)
    read = store.read_versions if goods is VARIANTS else store.read_adapters
    for version in await read(session, mine):
        return version.manifest
    raise UnknownSubjectError("validated version", f"{slug}@{number}")


async def may_validate(
    session: AsyncSession, caller: Caller, slug: str, number: int, goods: Goods = VARIANTS
) -> VersionView:
    """Raises `IllegalMoveError` for what needs no validation any more."""
    view = await view_of(session, caller, slug, number, goods)
    if view.state != "validating":  # a dead process may have left it so; the validator finds out
        publishing.move(view.state, "validating")
    return view
