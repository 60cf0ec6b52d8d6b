"""The rows of versions' contents: manifests, the components they share, and releases that open at once. IO.

Within the caller's transaction; used by `apply` for what a file declares and by `validation` for what a lab sends.
"""

from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from registry import store, tables
from registry.catalog import AdapterManifest, Digest, Share, Slug, Version, Window
from registry.goods import ADAPTERS, VARIANTS, Goods


async def number_of(session: AsyncSession, goods: Goods, slug: Slug, digest: Digest) -> int:
    """The number that these contents have already, else the next. Nobody else takes it: the owner's row is locked."""
    versions, (name,) = goods.versions, goods.table.primary_key.columns
    await session.execute(sqlalchemy.select(name).where(name == slug).with_for_update())
    mine = versions.c[goods.noun] == slug
    known = await session.scalar(
        sqlalchemy.select(versions.c.number).where(mine, versions.c.digest == digest)
    )
    if known is not None:
        return int(known)
    highest = sqlalchemy.select(sqlalchemy.func.max(versions.c.number)).where(mine)
    return (await session.scalar(highest) or 0) + 1


async def write_version(session: AsyncSession, version: Version) -> None:
    """Its row, its components (shared with whoever has the same bytes) and its uses of them."""
    contents = ("digest", "architecture", "pipeline_class", "source", "assets", "state")
    await insert(session, tables.versions, [store.version_row(version)], contents)
    shared, uses = store.component_rows(version)
    if shared:
        await session.execute(upsert(tables.components).on_conflict_do_nothing(), shared)
        await insert(session, tables.version_components, uses, ("files",))


async def insert(
    session: AsyncSession, table: sqlalchemy.Table, rows: list[dict[str, Any]], fresh: tuple[str, ...]
) -> None:
    statement = upsert(table)
    keys = [column.name for column in table.primary_key.columns]
    update = {name: statement.excluded[name] for name in fresh}
    await session.execute(statement.on_conflict_do_update(index_elements=keys, set_=update), rows)


async def release_now(
    session: AsyncSession, slug: Slug, number: int, actor: str, goods: Goods = VARIANTS
) -> None:
    opened = await session.scalar(sqlalchemy.select(sqlalchemy.func.clock_timestamp()))
    release = {
        goods.noun: slug,
        "shares": msgspec.to_builtins((Share(version=number, percent=100),)),
        "window": msgspec.to_builtins(Window(public_from=opened)),
        "created_by": actor,
    }
    await session.execute(sqlalchemy.insert(goods.releases).values(release))


async def write_adapter_version(
    session: AsyncSession, slug: str, number: int, manifest: AdapterManifest
) -> None:
    """Its contents, now known; the adapter's own row says where its newest bytes are."""
    source = msgspec.to_builtins(manifest.source)
    known = {"digest": manifest.digest, "manifest": msgspec.to_builtins(manifest), "state": "validated"}
    version = sqlalchemy.update(tables.adapter_versions).where(ADAPTERS.version_is(slug, number))
    await session.execute(version.values(**known, source=source, weight_name=manifest.weights.path))
    newest = sqlalchemy.update(tables.adapters).where(tables.adapters.c.slug == slug)
    lab_made = newest.where(tables.adapters.c.managed_by == "lab")
    await session.execute(lab_made.values(source=source, weight_name=manifest.weights.path))
