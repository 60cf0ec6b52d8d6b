"""A catalogue file into the tables: plan the difference, make it in one transaction, remember it. IO.

It touches only what a catalogue file made (`managed_by = 'catalog'`); what labs publish stays theirs. Killed at
any point it leaves the catalogue as it was; done twice it changes nothing the second time.
"""

import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from registry import (
    adapter_desk,
    adapter_files,
    contents,
    desk,
    diff,
    facts,
    folders,
    history,
    manifest,
    pinning,
    store,
    tables,
)
from registry.catalog import (
    AdapterEntry,
    AdapterManifest,
    Catalog,
    Manifest,
    Model,
    Organization,
    Slug,
    Source,
    Variant,
    Version,
)
from registry.database import Database
from registry.diff import Change
from registry.errors import CatalogError, CatalogFileError, InUseError
from registry.goods import ADAPTERS, VARIANTS

LOCK_KEY = 0x6361746C6F67  # "catlog": one apply at a time
CATALOG = "catalog"
Named = TypeVar("Named", Variant, AdapterEntry)


def read_file(file: Path) -> Catalog:
    """The file's catalogue with the contents of its folders, paths made absolute. Raises `CatalogError`s."""
    try:
        text = file.read_text()
    except OSError as error:
        raise CatalogFileError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CatalogFileError(f"{file} is not UTF-8 text") from error
    declared = read_folders(manifest.parse(text, facts.schema), file.resolve().parent)
    return pinning.with_contents(declared, pinning.read(file))


def read_folders(declared: Catalog, base: Path) -> Catalog:
    variants = tuple([_with_source(variant, base) for variant in declared.variants])
    adapters = tuple([_with_source(adapter, base) for adapter in declared.adapters])
    contents = {
        variant.slug: folders.read_pipeline(Path(variant.source.location), variant.source)
        for variant in variants
        if variant.source is not None and variant.source.kind == "path"
    }
    by_slug = {variant.slug: variant for variant in variants}
    adapter_contents = {
        adapter.slug: _adapter_manifest(adapter, by_slug[adapter.base], contents)
        for adapter in adapters
        if adapter.source.kind == "path"
    }
    return msgspec.structs.replace(
        declared, variants=variants, adapters=adapters, contents=contents, adapter_contents=adapter_contents
    )


def _with_source(entry: Named, base: Path) -> Named:
    """Absolute, so that hosts find the folder from wherever they were started."""
    source = entry.source
    if source is None or source.kind != "path":
        return entry
    location = str((base / source.location / (source.subfolder or "")).resolve())
    return msgspec.structs.replace(entry, source=Source(kind="path", location=location))


def _adapter_manifest(entry: AdapterEntry, base: Variant, contents: dict[Slug, Manifest]) -> AdapterManifest:
    if base.slug not in contents:
        raise CatalogFileError(
            f"its base {base.slug} has no weights here", path=("adapters", entry.slug, "base")
        )
    found = adapter_files.read_adapter(
        Path(entry.source.location), base, contents[base.slug], entry.weight_name
    )
    return msgspec.structs.replace(
        found, trigger_words=entry.trigger_words, recommended_scale=entry.recommended_scale
    )


async def plan(db: Database, desired: Catalog) -> tuple[Change, ...]:
    """What `apply` would do."""
    async with db.sessions() as session:
        return diff.between(await _held(session), desired)


async def apply(
    db: Database, desired: Catalog, *, actor: str = CATALOG, confirmed: Collection[str] = ()
) -> tuple[Change, ...]:
    """Makes the tables say what the catalogue says; returns what changed. One transaction.

    Raises `InUseError` for a removal of what was called lately, unless its name is in `confirmed`.
    """
    async with db.sessions.begin() as session:
        await session.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(LOCK_KEY)))
        await _refuse_taken(session, desired)
        changes = diff.between(await _held(session), desired)
        for change in changes:
            if change.action == "remove" and change.subject not in confirmed:
                await _refuse_used(session, change)
        for (kind, removes), group in itertools.groupby(
            changes, lambda change: (change.kind, change.action == "remove")
        ):
            await (_remove if removes else WRITERS[kind])(session, list(group), actor)
        await _refuse_taken(
            session, desired
        )  # a lab may have published the name meanwhile; then it is the lab's
        await history.append(session, [_entry(change, actor) for change in changes])
    return changes


def _entry(change: Change, actor: str) -> history.Entry:
    owner = change.subject.split("/", 1)[0]
    return history.Entry(
        actor=actor,
        kind=change.kind,
        subject=change.subject,
        owner=owner,
        before=change.before,
        after=change.after,
    )


async def _held(session: AsyncSession) -> Catalog:
    """What earlier files made."""
    models = await _managed(session, tables.models)
    variants = tuple([store.variant_of(row) for row in await _managed(session, tables.variants)])
    adapters = await _managed(session, tables.adapters)
    live = await store.live_versions(session, [variant.slug for variant in variants])
    organizations = (await session.execute(sqlalchemy.select(tables.organizations))).mappings()
    return Catalog(
        organizations=tuple([Organization(name=row["name"], title=row["title"]) for row in organizations]),
        models=tuple([store.model_of(row) for row in models]),
        variants=variants,
        contents={slug: version.manifest for slug, version in live.items()},
        adapters=tuple([store.entry_of(row) for row in adapters]),
        adapter_contents=await _held_adapters(session),
    )


async def _held_adapters(session: AsyncSession) -> dict[Slug, AdapterManifest]:
    """What the newest release of each adapter of a file is made of."""
    newest = {release.variant: release for release in await store.read_releases(session, goods=ADAPTERS)}
    found = await store.read_adapters(session, tables.adapters.c.managed_by == CATALOG)
    live = {(slug, release.shares[0].version) for slug, release in newest.items()}
    return {adapter.slug: adapter.manifest for adapter in found if (adapter.slug, adapter.version) in live}


async def _managed(session: AsyncSession, table: sqlalchemy.Table) -> Sequence[sqlalchemy.RowMapping]:
    query = sqlalchemy.select(table).where(table.c.managed_by == CATALOG)
    return (await session.execute(query)).mappings().all()


async def _refuse_taken(session: AsyncSession, desired: Catalog) -> None:
    for table, names in (
        (tables.models, [model.name for model in desired.models]),
        (tables.variants, [variant.slug for variant in desired.variants]),
        (tables.adapters, [adapter.slug for adapter in desired.adapters]),
    ):
        (name,) = table.primary_key.columns
        published = await session.scalars(sqlalchemy.select(name).where(table.c.managed_by != CATALOG))
        if taken := set(published) & set(names):
            raise CatalogError(f"{min(taken)} is published by its lab; take it out of the catalogue file")


async def _refuse_used(session: AsyncSession, change: Change) -> None:
    find = {"variant": desk.callers, "adapter": adapter_desk.callers}.get(change.kind)
    if find is not None and (callers := await find(session, change.subject)):
        raise InUseError(change.subject, callers)


async def _write_organizations(session: AsyncSession, changes: list[Change], actor: str) -> None:
    statement = insert(tables.organizations)
    statement = statement.on_conflict_do_update(
        index_elements=["name"], set_={"title": statement.excluded.title}
    )
    await session.execute(
        statement, [{"name": change.subject, "title": change.after.title} for change in changes]
    )


async def _upsert(session: AsyncSession, table: sqlalchemy.Table, rows: list[dict[str, Any]]) -> None:
    statement = insert(table)
    keys = [column.name for column in table.primary_key.columns]
    fresh: dict[str, Any] = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    fresh |= {"revision": table.c.revision + 1, "updated_at": sqlalchemy.func.now()}
    ours = table.c.managed_by == CATALOG
    await session.execute(statement.on_conflict_do_update(index_elements=keys, set_=fresh, where=ours), rows)


async def _write_models(session: AsyncSession, changes: list[Change], actor: str) -> None:
    models: list[Model] = [change.after for change in changes]
    rows = [{name: getattr(model, name) for name in model.__struct_fields__} for model in models]
    extra = [{"owner": model.owner, "managed_by": CATALOG} for model in models]
    await _upsert(session, tables.models, [row | more for row, more in zip(rows, extra, strict=True)])


async def _write_variants(session: AsyncSession, changes: list[Change], actor: str) -> None:
    rows = [store.variant_row(change.after) | {"managed_by": CATALOG} for change in changes]
    await _upsert(session, tables.variants, rows)


async def _write_adapters(session: AsyncSession, changes: list[Change], actor: str) -> None:
    rows = [store.entry_row(change.after) | {"managed_by": CATALOG} for change in changes]
    await _upsert(session, tables.adapters, rows)


async def _write_adapter_versions(session: AsyncSession, changes: list[Change], actor: str) -> None:
    """As `_write_versions`. Releases before migration 0013 read the adapter's own row, so it says the newest too."""
    versions = tables.adapter_versions
    for change in changes:
        manifest: AdapterManifest = change.after
        slug = Slug(change.subject)
        number = await contents.number_of(session, ADAPTERS, slug, manifest.digest)
        await contents.insert(
            session,
            versions,
            [{"adapter": slug, "number": number, "source": msgspec.to_builtins(manifest.source)}],
            ("source",),
        )
        await contents.write_adapter_version(session, slug, number, manifest)
        values = {"manifest": msgspec.to_builtins(manifest), "digest": manifest.digest, "version": number}
        update = sqlalchemy.update(tables.adapters).where(tables.adapters.c.slug == slug)
        await session.execute(update.values(**values))
        if change.before is None or change.before.digest != manifest.digest:
            await contents.release_now(session, slug, number, actor, ADAPTERS)


async def _write_versions(session: AsyncSession, changes: list[Change], actor: str) -> None:
    """A digest seen before is released again under its old number; a moved folder only changes where bytes are."""
    for change in changes:
        made: Manifest = change.after
        slug = Slug(change.subject)
        number = await contents.number_of(session, VARIANTS, slug, made.digest)
        await contents.write_version(
            session, Version(variant=slug, number=number, manifest=made, state="live")
        )
        if change.before is None or change.before.digest != made.digest:
            await contents.release_now(session, slug, number, actor)


async def _remove(session: AsyncSession, changes: list[Change], actor: str) -> None:
    table = {"model": tables.models, "variant": tables.variants, "adapter": tables.adapters}[changes[0].kind]
    (name,) = table.primary_key.columns
    removed = [change.subject for change in changes]
    if changes[0].kind in HOLDERS:
        await _refuse_held(session, *HOLDERS[changes[0].kind], removed)
    await session.execute(sqlalchemy.delete(table).where(store.among(name, removed)))


async def _refuse_held(
    session: AsyncSession, holder: sqlalchemy.Column[str], held: sqlalchemy.Column[str], removed: list[str]
) -> None:
    """What a lab built on them is in no file, and is not the file's to remove."""
    query = sqlalchemy.select(held, holder).where(store.among(held, removed)).order_by(held, holder)
    if found := (await session.execute(query)).all():
        raise InUseError(found[0][0], [slug for subject, slug in found if subject == found[0][0]])


HOLDERS: Mapping[str, tuple[sqlalchemy.Column[str], sqlalchemy.Column[str]]] = {
    "model": (tables.variants.c.slug, tables.variants.c.model),
    "variant": (tables.adapters.c.slug, tables.adapters.c.base),
}
Writer = Callable[[AsyncSession, list[Change], str], Awaitable[None]]
WRITERS: Mapping[diff.Kind, Writer] = {
    "organization": _write_organizations,
    "model": _write_models,
    "variant": _write_variants,
    "version": _write_versions,
    "adapter": _write_adapters,
    "adapter_version": _write_adapter_versions,
}
