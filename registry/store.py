"""The catalogue's rows ↔ its records; rows never leave this module. IO.

`load_catalog` is what a gateway keeps in memory, read in one snapshot. Writing goes through `apply` and `api`.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import tables
from registry.catalog import (
    Adapter,
    AdapterEntry,
    AdapterManifest,
    Component,
    Digest,
    FileRef,
    Manifest,
    Model,
    Organization,
    Record,
    Release,
    Slug,
    Source,
    Variant,
    Version,
)
from registry.database import Database
from registry.goods import ADAPTERS, VARIANTS, Goods

CLOCK = sqlalchemy.select(sqlalchemy.func.clock_timestamp())
NO_SOURCE = Source(
    kind="upload", location=""
)  # of an adapter without versions: releases before 0013 want every row to have one
CALLABLE_STATES = ("validated", "scheduled", "live", "sunset", "retired")


class CatalogRows(Record, frozen=True, kw_only=True):
    """Everything a gateway needs to resolve a slug, as of one moment."""

    serial: int  # the newest change that is in it
    organizations: tuple[Organization, ...]
    models: tuple[Model, ...]
    variants: tuple[Variant, ...]
    versions: tuple[Version, ...]  # those whose bytes were verified
    releases: tuple[Release, ...]  # oldest first; `windows.resolve` says which answers whom
    adapters: tuple[Adapter, ...]  # every version whose bytes were verified
    adapter_releases: tuple[Release, ...]  # oldest first; their `variant` is an adapter's slug
    listed_adapters: tuple[
        AdapterEntry, ...
    ]  # all that have a source, also those whose bytes nobody pinned yet


async def load_catalog(db: Database) -> CatalogRows:
    async with db.sessions() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return CatalogRows(
            serial=await _serial(session),
            organizations=tuple(
                [
                    Organization(name=r["name"], title=r["title"])
                    for r in await _rows(session, tables.organizations)
                ]
            ),
            models=tuple([model_of(row) for row in await _rows(session, tables.models)]),
            variants=tuple([variant_of(row) for row in await _rows(session, tables.variants)]),
            versions=await read_versions(session, tables.versions.c.state.in_(CALLABLE_STATES)),
            releases=await read_releases(session),
            adapters=await read_adapters(session),
            adapter_releases=await read_releases(session, goods=ADAPTERS),
            listed_adapters=tuple(
                [
                    entry
                    for row in await _rows(session, tables.adapters)
                    if (entry := entry_of(row)).source != NO_SOURCE
                ]
            ),
        )


async def newest_change(db: Database) -> int:
    async with db.sessions() as session:
        return await _serial(session)


async def _serial(session: AsyncSession) -> int:
    return await session.scalar(sqlalchemy.select(sqlalchemy.func.max(tables.changes.c.id))) or 0


async def has_organization(db: Database, name: str) -> bool:
    async with db.sessions() as session:
        query = sqlalchemy.select(tables.organizations.c.name).where(tables.organizations.c.name == name)
        return await session.scalar(query) is not None


async def now(db: Database) -> datetime:
    """The database's clock, which decides when a window opens."""
    async with db.sessions() as session:
        clock: datetime = (await session.execute(CLOCK)).scalar_one()
    return clock


async def _rows(session: AsyncSession, table: sqlalchemy.Table) -> Iterable[sqlalchemy.RowMapping]:
    order = list(table.primary_key.columns)
    return (await session.execute(sqlalchemy.select(table).order_by(*order))).mappings()


def model_of(row: sqlalchemy.RowMapping) -> Model:
    return Model(name=row["name"], title=row["title"], description=row["description"], licence=row["licence"])


VARIANT_FIELDS = Variant.__struct_fields__


def variant_of(row: sqlalchemy.RowMapping) -> Variant:
    return msgspec.convert({name: row[name] for name in VARIANT_FIELDS}, Variant)


def variant_row(variant: Variant) -> dict[str, Any]:
    plain: dict[str, Any] = dict.fromkeys(VARIANT_FIELDS) | {"tags": [], "defaults": {}}
    plain |= msgspec.to_builtins(variant)
    for name in ("price", "partner", "source"):
        plain[name] = sqlalchemy.null() if plain[name] is None else plain[name]
    return plain | {"owner": variant.owner}


def entry_of(row: sqlalchemy.RowMapping) -> AdapterEntry:
    return msgspec.convert({name: row[name] for name in AdapterEntry.__struct_fields__}, AdapterEntry)


def entry_row(entry: AdapterEntry) -> dict[str, Any]:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return fields | {
        "owner": entry.owner,
        "source": msgspec.to_builtins(entry.source),
        "trigger_words": list(entry.trigger_words),
    }


async def read_adapters(
    session: AsyncSession, condition: sqlalchemy.ColumnElement[bool] | None = None
) -> tuple[Adapter, ...]:
    """Every verified version. Trigger words and scale are the adapter's: they may be edited, its bytes may not."""
    adapters, versions = tables.adapters, tables.adapter_versions
    facts = [adapters.c[name] for name in ("slug", "name", "description", "licence", *EDITABLE)]
    query = (
        sqlalchemy.select(*facts, versions.c.number, versions.c.manifest)
        .join_from(versions, adapters, versions.c.adapter == adapters.c.slug)
        .where(versions.c.digest.is_not(None))
        .order_by(versions.c.adapter, versions.c.number)
    )
    if condition is not None:
        query = query.where(condition)
    return tuple([_adapter_of(row) for row in (await session.execute(query)).mappings()])


EDITABLE = ("trigger_words", "recommended_scale")


def _adapter_of(row: sqlalchemy.RowMapping) -> Adapter:
    plain = {name: row[name] for name in ("slug", "name", "description", "licence")}
    manifest = msgspec.convert(row["manifest"] | {name: row[name] for name in EDITABLE}, AdapterManifest)
    return Adapter(**plain, manifest=manifest, version=row["number"])


async def read_releases(
    session: AsyncSession, slug: str | None = None, goods: Goods = VARIANTS
) -> tuple[Release, ...]:
    """Those that were not withdrawn, oldest first."""
    releases = goods.releases
    query = sqlalchemy.select(releases).where(releases.c.withdrawn_at.is_(None)).order_by(releases.c.id)
    if slug is not None:
        query = query.where(releases.c[goods.noun] == slug)
    return tuple([release_of(row, goods) for row in (await session.execute(query)).mappings()])


def release_of(row: sqlalchemy.RowMapping, goods: Goods = VARIANTS) -> Release:
    plain = {name: row[name] for name in ("id", "shares", "window")}
    return msgspec.convert(plain | {"variant": row[goods.noun]}, Release)


def by_slug(releases: Iterable[Release]) -> dict[Slug, tuple[Release, ...]]:
    found: defaultdict[Slug, list[Release]] = defaultdict(list)
    for release in releases:
        found[release.variant].append(release)
    return {slug: tuple(some) for slug, some in found.items()}


async def read_versions(
    session: AsyncSession, condition: sqlalchemy.ColumnElement[bool]
) -> tuple[Version, ...]:
    """Versions with their manifests put together again from the components they share."""
    versions, parts, components = tables.versions, tables.version_components, tables.components
    joined = parts.join(components, parts.c.component == components.c.digest).join(
        versions, (versions.c.variant == parts.c.variant) & (versions.c.number == parts.c.number)
    )
    columns = (parts, components.c.library, components.c.class_name, components.c.dtype)
    query = sqlalchemy.select(*columns).select_from(joined).where(condition).order_by(parts.c.position)
    found: dict[tuple[str, int], list[Component]] = defaultdict(list)
    for row in (await session.execute(query)).mappings():
        found[row["variant"], row["number"]].append(_component_of(row))
    query = sqlalchemy.select(versions).where(condition).order_by(versions.c.variant, versions.c.number)
    rows = (await session.execute(query)).mappings()
    return tuple([_version_of(row, found[row["variant"], row["number"]]) for row in rows])


def _component_of(row: sqlalchemy.RowMapping) -> Component:
    own = {name: row[name] for name in ("name", "library", "class_name", "dtype")}
    return msgspec.convert(own | row["files"], Component)


def _version_of(row: sqlalchemy.RowMapping, components: list[Component]) -> Version:
    manifest = Manifest(
        pipeline_class=row["pipeline_class"],
        source=msgspec.convert(row["source"], Source),
        components=tuple(components),
        assets=msgspec.convert(row["assets"], tuple[FileRef, ...]),
    )
    return Version(variant=row["variant"], number=row["number"], manifest=manifest, state=row["state"])


def version_row(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "variant": version.variant,
        "number": version.number,
        "digest": manifest.digest,
        "architecture": manifest.architecture,
        "pipeline_class": manifest.pipeline_class,
        "source": msgspec.to_builtins(manifest.source),
        "assets": msgspec.to_builtins(manifest.assets),
        "state": version.state,
    }


def component_rows(version: Version) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The components themselves, and this version's uses of them."""
    shared: dict[Digest, dict[str, Any]] = {}
    uses: list[dict[str, Any]] = []
    for position, part in enumerate(version.manifest.components):
        shared[part.digest] = {
            "digest": part.digest,
            "library": part.library,
            "class_name": part.class_name,
            "dtype": part.dtype,
            "size_bytes": part.size_bytes,
        }
        files = {"config": part.config, "weights": part.weights, "index": part.index}
        uses.append(
            {
                "variant": version.variant,
                "number": version.number,
                "name": part.name,
                "position": position,
                "component": part.digest,
                "files": msgspec.to_builtins(files),
            }
        )
    return list(shared.values()), uses


def among(column: sqlalchemy.ColumnElement[str], names: Iterable[str]) -> sqlalchemy.ColumnElement[bool]:
    """One parameter however many names: a list of them would end at 65,535."""
    return column == sqlalchemy.any_(sqlalchemy.cast(list(names), sqlalchemy.ARRAY(sqlalchemy.Text)))


async def live_versions(session: AsyncSession, slugs: Iterable[Slug] | None = None) -> dict[Slug, Version]:
    """The version that the newest release of each variant names first: what `apply` compares a file with."""
    newest = {release.variant: release for release in await read_releases(session)}
    wanted = set(newest) if slugs is None else set(slugs) & set(newest)
    versions = await read_versions(session, among(tables.versions.c.variant, wanted))
    live = {(slug, newest[slug].shares[0].version) for slug in wanted}
    return {version.variant: version for version in versions if (version.variant, version.number) in live}
