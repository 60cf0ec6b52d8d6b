"""What labs do with their adapters; every operation within the caller's transaction. IO.

As `desk` for models and variants: a name belongs to the organization it begins with, and others' do not exist. The
base may be anybody's, as long as this lab may call it.
"""

from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import desk, ledger_tables, publishing, store, tables, windows
from registry.catalog import AdapterEntry, AdapterManifest, Caller, Record, Slug, Version
from registry.errors import InUseError, InvalidRequestError, UnknownSubjectError
from registry.manifest import MAX_SCALE


class AdapterBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rank, layout and target modules are read from the file, so nobody has to say them."""

    slug: str
    base: str
    name: desk.Line | None = None
    description: desk.Lines | None = None
    licence: desk.Line | None = None
    trigger_words: desk.Tags = ()
    recommended_scale: float = 1.0


class AdapterPatch(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays. The base stays: what was made for another is another adapter."""

    name: desk.Line | msgspec.UnsetType | None = msgspec.UNSET
    description: desk.Lines | msgspec.UnsetType | None = msgspec.UNSET
    licence: desk.Line | msgspec.UnsetType | None = msgspec.UNSET
    trigger_words: desk.Tags | msgspec.UnsetType = msgspec.UNSET
    recommended_scale: float | msgspec.UnsetType = msgspec.UNSET


class AdapterView(Record, frozen=True, kw_only=True):
    """An adapter as its lab sees it; the last fields are its newest validated version's."""

    slug: Slug
    base: Slug
    name: str | None = None
    description: str | None = None
    licence: str | None = None
    trigger_words: tuple[str, ...] = ()
    recommended_scale: float = 1.0
    version: int | None = None
    digest: str | None = None
    architecture: str | None = None
    rank: int | None = None
    layout: str | None = None
    target_modules: tuple[str, ...] = ()
    size_bytes: int | None = None


async def create(session: AsyncSession, caller: Caller, body: AdapterBody) -> AdapterView:
    desk.own(caller, body.slug)
    publishing.check_slug(body.slug, body.slug.split("/", 1)[0])
    _check_scale(body.recommended_scale)
    await callable_base(session, caller, body.base)
    entry = AdapterEntry(
        **{name: getattr(body, name) for name in body.__struct_fields__}, source=store.NO_SOURCE
    )
    await desk.insert(session, tables.adapters, store.entry_row(entry), entry.slug)
    await desk.note(session, caller, "adapter", entry.slug, None, _told(entry))
    return (await view_of(session, caller, entry.slug))[0]


async def edit(
    session: AsyncSession, caller: Caller, slug: str, patch: AdapterPatch, expected: int | None
) -> tuple[AdapterView, int]:
    row = await desk.row_of(session, caller, tables.adapters, slug, lock=True)
    desk.check_revision(row, expected)
    given = desk.given(patch)
    if isinstance(patch.recommended_scale, float):
        _check_scale(patch.recommended_scale)
    old = store.entry_of(row)
    new = msgspec.structs.replace(old, **given)
    await desk.bump(
        session, tables.adapters, slug, {name: msgspec.to_builtins(given[name]) for name in given}
    )
    await desk.note(session, caller, "adapter", slug, _told(old), _told(new))
    return await view_of(session, caller, slug)


async def remove(session: AsyncSession, caller: Caller, slug: str) -> None:
    """Raises `InUseError` with the names of who called it lately."""
    row = await desk.row_of(session, caller, tables.adapters, slug, lock=True)
    if names := await callers(session, slug):
        raise InUseError(slug, names)
    await session.execute(sqlalchemy.delete(tables.adapters).where(tables.adapters.c.slug == slug))
    await desk.note(session, caller, "adapter", slug, _told(store.entry_of(row)), None)


async def callers(session: AsyncSession, slug: str) -> list[str]:
    """By the ledger's days, which know each call's adapters by digest, and by the ledger for what is not summed yet."""
    versions, days, usage = tables.adapter_versions, ledger_tables.usage_days, ledger_tables.usage_records
    mine = sqlalchemy.select(versions.c.digest).where(
        versions.c.adapter == slug, versions.c.digest.is_not(None)
    )
    digests = list((await session.scalars(mine)).all())
    some = sqlalchemy.cast(digests, sqlalchemy.ARRAY(sqlalchemy.Text))
    lately = sqlalchemy.func.now() - desk.CALLED_WITHIN
    recent = sqlalchemy.func.now() - sqlalchemy.text("interval '1 day'")
    summed = sqlalchemy.select(days.c.organization).where(days.c.day > lately, days.c.adapters.op("&&")(some))
    single = sqlalchemy.select(usage.c.organization).where(
        usage.c.finished_at > recent, usage.c.adapters.op("&&")(some)
    )
    return sorted((await session.scalars(summed.union(single))).all()) if digests else []


async def view_of(session: AsyncSession, caller: Caller, slug: str) -> tuple[AdapterView, int]:
    """With its revision. Raises `UnknownSubjectError`."""
    row = await desk.row_of(session, caller, tables.adapters, slug)
    found = await store.read_adapters(session, tables.adapters.c.slug == slug)
    return _view(row, found[-1] if found else None), row["revision"]


async def views(session: AsyncSession, caller: Caller) -> tuple[AdapterView, ...]:
    adapters = tables.adapters
    query = sqlalchemy.select(adapters).order_by(adapters.c.slug)
    mine = None
    if desk.OPERATE not in caller.scopes:
        mine = adapters.c.owner == caller.organization
        query = query.where(mine)
    newest = {found.slug: found for found in await store.read_adapters(session, mine)}
    return tuple([_view(row, newest.get(row["slug"])) for row in (await session.execute(query)).mappings()])


def _view(row: sqlalchemy.RowMapping, newest: Any) -> AdapterView:
    own = {name: row[name] for name in AdapterBody.__struct_fields__}
    own["trigger_words"] = tuple(own["trigger_words"])
    if newest is None:
        return AdapterView(**own)
    manifest: AdapterManifest = newest.manifest
    names = ("digest", "architecture", "rank", "layout", "target_modules", "size_bytes")
    return AdapterView(**own, version=newest.version, **{name: getattr(manifest, name) for name in names})


def _told(entry: AdapterEntry) -> AdapterBody:
    return AdapterBody(**{name: getattr(entry, name) for name in AdapterBody.__struct_fields__})


def _check_scale(scale: float) -> None:
    if not -MAX_SCALE <= scale <= MAX_SCALE:
        raise InvalidRequestError("recommended_scale", f"from {-MAX_SCALE:g} to {MAX_SCALE:g}")


async def callable_base(session: AsyncSession, caller: Caller, slug: str) -> None:
    """It is one's own, or one that this caller could call. Raises `UnknownSubjectError`, as for what does not exist."""
    query = sqlalchemy.select(tables.variants).where(tables.variants.c.slug == slug)
    row = (await session.execute(query)).mappings().one_or_none()
    if row is None or not (
        desk.may_see(caller, row["owner"]) or await _is_open(session, caller, store.variant_of(row))
    ):
        raise UnknownSubjectError("variant", slug)


async def _is_open(session: AsyncSession, caller: Caller, variant: Any) -> bool:
    releases = await store.read_releases(session, variant.slug)
    if not releases:  # listed by a catalogue file, weights not pinned yet
        return variant.source is not None or variant.partner is not None
    now = (await session.execute(store.CLOCK)).scalar_one()
    return isinstance(windows.resolve(releases, caller.organization, now), windows.Open)


async def base_version(session: AsyncSession, slug: str) -> Version:
    """What the adapter's base answers the adapter's lab with now, else its newest validated version.

    Raises `InvalidRequestError` when no version of the base is known.
    """
    adapters = tables.adapters
    row = (
        await session.execute(
            sqlalchemy.select(adapters.c.base, adapters.c.owner).where(adapters.c.slug == slug)
        )
    ).one()
    versions = await store.read_versions(
        session, (tables.versions.c.variant == row.base) & tables.versions.c.digest.is_not(None)
    )
    if not versions:
        raise InvalidRequestError("base", f"the weights of {row.base} are not known here")
    now = (await session.execute(store.CLOCK)).scalar_one()
    match windows.resolve(await store.read_releases(session, row.base), row.owner, now):
        case windows.Open(release=release):
            number = release.shares[0].version
            return next((found for found in versions if found.number == number), versions[-1])
        case _:
            return versions[-1]
