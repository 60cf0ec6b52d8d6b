"""How much an organization's uploads may hold, which there are, and how room is made again. IO.

Announced bytes count, whether they came or not: what was promised room shall find it.
"""

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import tables, uploads
from registry.catalog import Caller, Record
from registry.errors import InUseError, QuotaError
from registry.goods import ADAPTERS, VARIANTS


class Space(Record, frozen=True, kw_only=True):
    """`allowed_bytes` None: as much as the disk holds."""

    used_bytes: int
    allowed_bytes: int | None


class Listed(Record, frozen=True, kw_only=True):
    """An upload, and the versions that are made of it."""

    id: str
    size_bytes: int
    created_at: datetime
    versions: Sequence[str]


async def check(session: AsyncSession, organization: str, size_bytes: int, allowed: int | None) -> None:
    """Whether so much more fits; of two at once the second waits for the first. Raises `QuotaError`."""
    if allowed is None:
        return
    known = tables.organizations
    await session.execute(
        sqlalchemy.select(known.c.name).where(known.c.name == organization).with_for_update()
    )
    mine = tables.uploads.c.organization == organization
    total = sqlalchemy.select(sqlalchemy.func.sum(_size())).where(mine)
    used = int(await session.scalar(total) or 0)
    if used + size_bytes > allowed:
        raise QuotaError(organization, used, size_bytes, allowed)


async def listed(session: AsyncSession, organization: str) -> tuple[Listed, ...]:
    """Oldest first."""
    known = tables.uploads
    query = sqlalchemy.select(known.c.id, known.c.created_at, _size().label("size_bytes"))
    mine = query.where(known.c.organization == organization).order_by(known.c.created_at)
    rows = (await session.execute(mine)).all()
    users = await _users(session, [row.id for row in rows])
    return tuple(
        Listed(
            id=row.id,
            size_bytes=int(row.size_bytes),
            created_at=row.created_at,
            versions=users.get(row.id, ()),
        )
        for row in rows
    )


async def remove(session: AsyncSession, home: Path, caller: Caller, upload_id: str) -> None:
    """The row and its files. Raises `UnknownSubjectError`, `InUseError` with the versions that need them."""
    await uploads.announced(session, caller, upload_id)
    if users := (await _users(session, [upload_id])).get(upload_id):
        raise InUseError(f"upload {upload_id}", users, "needed")
    await session.execute(sqlalchemy.delete(tables.uploads).where(tables.uploads.c.id == upload_id))
    await _erase(home, upload_id)


async def forget(session: AsyncSession, home: Path, older_than: timedelta) -> int:
    """Old ones that no version is made of: given up, or their version was removed. Returns how many."""
    known = tables.uploads
    old = sqlalchemy.func.now() - older_than
    query = sqlalchemy.select(known.c.id).where(known.c.created_at < old).with_for_update(skip_locked=True)
    ids = (await session.scalars(query)).all()
    users = await _users(session, ids)
    gone = [upload_id for upload_id in ids if upload_id not in users]
    await session.execute(sqlalchemy.delete(known).where(known.c.id.in_(gone)))
    for upload_id in gone:
        await _erase(home, upload_id)
    return len(gone)


async def _erase(home: Path, upload_id: str) -> None:
    await asyncio.to_thread(shutil.rmtree, uploads.folder_of(home, upload_id), ignore_errors=True)


def _size() -> sqlalchemy.ScalarSelect[Any]:
    """What one upload's files come to."""
    file = sqlalchemy.func.jsonb_array_elements(tables.uploads.c.files).table_valued("value").alias("file")
    size = sqlalchemy.cast(file.c.value.op("->>")("size_bytes"), sqlalchemy.Numeric)
    return (
        sqlalchemy.select(sqlalchemy.func.sum(size))
        .select_from(file)
        .correlate(tables.uploads)
        .scalar_subquery()
    )


async def _users(session: AsyncSession, upload_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Versions by which of these uploads they are made of; what was refused needs no files.

    A version names its upload by the id until it is validated, and then by the folder.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for goods in (VARIANTS, ADAPTERS):
        versions = goods.versions
        location = versions.c.source["location"].astext
        upload = sqlalchemy.func.regexp_replace(location, "^.*/uploads/", "").label("upload")
        query = sqlalchemy.select(versions.c[goods.noun], versions.c.number, upload).where(
            versions.c.source["kind"].astext.in_(("upload", "path")),
            versions.c.state != "rejected",
            upload.in_(upload_ids),
        )
        for slug, number, name in await session.execute(query.order_by(versions.c.number)):
            found[name].append(f"{slug}@{number}")
    return found
