"""Versions as their lab sees them: drafts, validation's progress and result, states that follow from releases. IO."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import history, publishing, store, tables
from registry.catalog import Caller, Record, Slug, Source, Version, VersionState
from registry.desk import OPERATE, note, row_of
from registry.errors import AccessError, InvalidRequestError, UnknownSubjectError


class VersionView(Record, frozen=True, kw_only=True):
    """A version as its lab sees it."""

    variant: Slug
    number: int
    state: VersionState
    source: Source
    digest: str | None = None
    pipeline_class: str | None = None
    size_bytes: int | None = None
    report: Any = None
    created_by: str | None = None
    created_at: datetime | None = None


def check_source(caller: Caller, source: Source) -> Source:
    """Folders of the server are for operators: a lab could read anything through them. Raises `AccessError`."""
    if source.kind == "path" and OPERATE not in caller.scopes:
        raise AccessError("a folder on the server can only be named by operators; upload the files")
    if source.subfolder is not None and ".." in source.subfolder.split("/"):
        raise InvalidRequestError("source.subfolder", "it leads out of the source")
    return source


async def add(session: AsyncSession, caller: Caller, slug: str, source: Source) -> VersionView:
    """A draft: its contents are known once it is validated."""
    await row_of(session, caller, tables.variants, slug, lock=True)
    versions = tables.versions
    highest = sqlalchemy.func.coalesce(sqlalchemy.func.max(versions.c.number), 0)
    number = (
        int(
            (await session.execute(sqlalchemy.select(highest).where(versions.c.variant == slug))).scalar_one()
        )
        + 1
    )
    plain = msgspec.to_builtins(source)
    values = {
        "variant": slug,
        "number": number,
        "source": plain,
        "state": "draft",
        "created_by": caller.key_id,
    }
    await session.execute(sqlalchemy.insert(versions).values(**values))
    await note(session, caller, "version", f"{slug}@{number}", None, {"state": "draft", "source": plain})
    return await view_of(session, caller, slug, number)


async def set_state(
    session: AsyncSession, actor: str, slug: str, number: int, after: VersionState, report: Any
) -> None:
    """Along the legal moves only. Raises `IllegalMoveError`."""
    versions = tables.versions
    mine = (versions.c.variant == slug) & (versions.c.number == number)
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
        kind="version",
        subject=f"{slug}@{number}",
        owner=slug.split("/", 1)[0],
        before={"state": before},
        after={"state": after, "report": report},
    )
    await history.append(session, [entry])


async def view_of(session: AsyncSession, caller: Caller, slug: str, number: int) -> VersionView:
    for view in await views(session, caller, slug, [number]):
        return view
    raise UnknownSubjectError("version", f"{slug}@{number}")


async def views(
    session: AsyncSession, caller: Caller, slug: str, numbers: Collection[int] | None = None
) -> tuple[VersionView, ...]:
    await row_of(session, caller, tables.variants, slug)
    versions, parts, components = tables.versions, tables.version_components, tables.components
    query = sqlalchemy.select(versions).where(versions.c.variant == slug).order_by(versions.c.number)
    if numbers is not None:
        query = query.where(versions.c.number.in_(numbers))
    sizes = (
        sqlalchemy.select(parts.c.number, sqlalchemy.func.sum(components.c.size_bytes))
        .join(components, components.c.digest == parts.c.component)
        .where(parts.c.variant == slug)
        .group_by(parts.c.number)
    )
    size_of = {number: int(size) for number, size in (await session.execute(sizes)).all()}
    releases = await store.read_releases(session, slug)
    now = (await session.execute(store.CLOCK)).scalar_one()
    return tuple(
        [
            VersionView(
                variant=row["variant"],
                number=row["number"],
                state=publishing.state_at(row["state"], row["number"], releases, now),
                source=msgspec.convert(row["source"], Source),
                digest=row["digest"],
                pipeline_class=row["pipeline_class"],
                size_bytes=size_of.get(row["number"]),
                report=row["report"],
                created_by=row["created_by"],
                created_at=row["created_at"],
            )
            for row in (await session.execute(query)).mappings()
        ]
    )


async def manifest_of(session: AsyncSession, caller: Caller, slug: str, number: int) -> Version:
    await row_of(session, caller, tables.variants, slug)
    versions = tables.versions
    mine = (versions.c.variant == slug) & (versions.c.number == number) & versions.c.digest.is_not(None)
    for version in await store.read_versions(session, mine):
        return version
    raise UnknownSubjectError("validated version", f"{slug}@{number}")


async def may_validate(session: AsyncSession, caller: Caller, slug: str, number: int) -> VersionView:
    """Raises `IllegalMoveError` for what needs no validation any more."""
    view = await view_of(session, caller, slug, number)
    if view.state != "validating":  # a dead process may have left it so; the validator finds out
        publishing.move(view.state, "validating")
    return view
