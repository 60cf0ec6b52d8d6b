"""What labs do with their models and variants; every operation within the caller's transaction. IO.

A name belongs to the organization it begins with: others' drafts, versions and keys do not exist for a lab.
Operators may act for anybody. Each change bumps its subject's revision (the ETag) and is written to the history.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import history, ledger_tables, publishing, store, tables
from registry.catalog import (
    Caller,
    Model,
    OrganizationName,
    Price,
    Record,
    Scope,
    Variant,
)
from registry.errors import (
    AccessError,
    InUseError,
    StaleError,
    TakenError,
    UnknownSubjectError,
)

OPERATE: Scope = "operate"
ELSEWHERE = "an adapter of another organization"  # its name may still be a secret
CALLED_WITHIN = sqlalchemy.text("interval '30 days'")  # who did still counts on it

Line = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]  # shown as a name, so never empty
Lines = Annotated[str, msgspec.Meta(max_length=20_000)]
Tags = Annotated[tuple[Line, ...], msgspec.Meta(max_length=50)]


class ModelBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    title: Line | None = None
    description: Lines | None = None
    licence: Line | None = None


class ModelPatch(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays."""

    title: Line | msgspec.UnsetType | None = msgspec.UNSET
    description: Lines | msgspec.UnsetType | None = msgspec.UNSET
    licence: Line | msgspec.UnsetType | None = msgspec.UNSET


class VariantBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slug: str
    model: str
    task: Line
    input_schema: dict[str, Any]
    name: Line | None = None
    description: Lines | None = None
    tags: Tags = ()
    licence: Line | None = None
    price: Price | None = None
    defaults: Mapping[str, Any] = {}


class VariantPatch(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays."""

    task: Line | msgspec.UnsetType = msgspec.UNSET
    input_schema: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    name: Line | msgspec.UnsetType | None = msgspec.UNSET
    description: Lines | msgspec.UnsetType | None = msgspec.UNSET
    tags: Tags | msgspec.UnsetType = msgspec.UNSET
    licence: Line | msgspec.UnsetType | None = msgspec.UNSET
    price: Price | msgspec.UnsetType | None = msgspec.UNSET
    defaults: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def require(caller: Caller, scope: Scope) -> None:
    """Raises `AccessError`. `operate` implies every scope."""
    if scope not in caller.scopes and OPERATE not in caller.scopes:
        raise AccessError(f"the key lacks the scope {scope}")


def may_see(caller: Caller, owner: str) -> bool:
    return caller.organization == owner or OPERATE in caller.scopes


def own(caller: Caller, name: str) -> None:
    """Raises `AccessError` unless the name begins with the caller's organization."""
    owner = name.split("/", 1)[0]
    if not may_see(caller, owner):
        raise AccessError(f"{owner}/ belongs to another organization")


async def note(
    session: AsyncSession, caller: Caller, kind: str, subject: str, before: Any, after: Any
) -> None:
    owner = subject.split("/", 1)[0]
    entry = history.Entry(
        actor=caller.key_id, kind=kind, subject=subject, owner=owner, before=before, after=after
    )
    await history.append(session, [entry])


async def row_of(
    session: AsyncSession, caller: Caller, table: sqlalchemy.Table, name: str, *, lock: bool = False
) -> sqlalchemy.RowMapping:
    """Raises `UnknownSubjectError` also for what belongs to somebody else: a stranger learns nothing."""
    (key,) = table.primary_key.columns
    query = sqlalchemy.select(table).where(key == name)
    row = (await session.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    if row is None or not may_see(caller, row["owner"]):
        raise UnknownSubjectError(table.name.rstrip("s"), name)
    return row


def check_revision(row: sqlalchemy.RowMapping, expected: int | None) -> None:
    """Raises `StaleError`. None: the caller did not say what it saw."""
    if expected is not None and row["revision"] != expected:
        raise StaleError(f"it is at revision {row['revision']} by now, not {expected}")


async def bump(session: AsyncSession, table: sqlalchemy.Table, name: str, values: dict[str, Any]) -> int:
    (key,) = table.primary_key.columns
    fresh = values | {"revision": table.c.revision + 1, "updated_at": sqlalchemy.func.now()}
    statement = sqlalchemy.update(table).where(key == name).values(**fresh).returning(table.c.revision)
    return int((await session.execute(statement)).scalar_one())


# Models


async def create_model(session: AsyncSession, caller: Caller, body: ModelBody) -> Model:
    own(caller, body.name)
    publishing.check_slug(body.name, body.name.split("/", 1)[0])
    model = Model(**{name: getattr(body, name) for name in body.__struct_fields__})
    await insert(session, tables.models, msgspec.structs.asdict(model) | {"owner": model.owner}, model.name)
    await note(session, caller, "model", model.name, None, model)
    return model


async def edit_model(
    session: AsyncSession, caller: Caller, name: str, patch: ModelPatch, expected: int | None
) -> tuple[Model, int]:
    row = await row_of(session, caller, tables.models, name, lock=True)
    check_revision(row, expected)
    old = store.model_of(row)
    new = msgspec.structs.replace(old, **given(patch))
    revision = await bump(session, tables.models, name, given(patch))
    await note(session, caller, "model", name, old, new)
    return new, revision


async def remove_model(session: AsyncSession, caller: Caller, name: str) -> None:
    row = await row_of(session, caller, tables.models, name, lock=True)
    query = sqlalchemy.select(tables.variants.c.slug).where(tables.variants.c.model == name)
    if slugs := (await session.scalars(query)).all():
        raise InUseError(name, slugs)
    await session.execute(sqlalchemy.delete(tables.models).where(tables.models.c.name == name))
    await note(session, caller, "model", name, store.model_of(row), None)


# Variants


async def create_variant(session: AsyncSession, caller: Caller, body: VariantBody) -> Variant:
    own(caller, body.slug)
    publishing.check_slug(body.slug, body.slug.split("/", 1)[0])
    publishing.check_schema(body.input_schema)
    publishing.check_price(body.price, body.defaults)
    await row_of(session, caller, tables.models, body.model)
    variant = Variant(**{name: getattr(body, name) for name in body.__struct_fields__})
    await insert(session, tables.variants, store.variant_row(variant), variant.slug)
    await note(session, caller, "variant", variant.slug, None, variant)
    return variant


async def edit_variant(
    session: AsyncSession, caller: Caller, slug: str, patch: VariantPatch, expected: int | None
) -> tuple[Variant, int]:
    row = await row_of(session, caller, tables.variants, slug, lock=True)
    check_revision(row, expected)
    if patch.input_schema is not msgspec.UNSET:
        publishing.check_schema(patch.input_schema)
    old = store.variant_of(row)
    new = msgspec.structs.replace(old, **given(patch))
    if {"price", "defaults"} & given(patch).keys():
        publishing.check_price(new.price, new.defaults)
    plain = store.variant_row(new)
    revision = await bump(session, tables.variants, slug, {name: plain[name] for name in given(patch)})
    await note(session, caller, "variant", slug, old, new)
    return new, revision


async def callers(session: AsyncSession, slug: str) -> list[str]:
    """The organizations that called a variant lately."""
    usage = ledger_tables.usage_records
    lately = usage.c.finished_at > sqlalchemy.func.now() - CALLED_WITHIN
    query = sqlalchemy.select(usage.c.organization).where(usage.c.slug == slug, lately).distinct()
    return sorted((await session.scalars(query)).all())


async def remove_variant(session: AsyncSession, caller: Caller, slug: str) -> None:
    """Raises `InUseError` with the names of who called it lately."""
    row = await row_of(session, caller, tables.variants, slug, lock=True)
    adapters = tables.adapters
    if names := await callers(session, slug):
        raise InUseError(slug, names)
    query = sqlalchemy.select(adapters.c.slug, adapters.c.owner).where(adapters.c.base == slug)
    if based := (await session.execute(query)).all():
        raise InUseError(slug, [one.slug if may_see(caller, one.owner) else ELSEWHERE for one in based])
    await session.execute(sqlalchemy.delete(tables.variants).where(tables.variants.c.slug == slug))
    await note(session, caller, "variant", slug, store.variant_of(row), None)


async def insert(session: AsyncSession, table: sqlalchemy.Table, values: dict[str, Any], name: str) -> None:
    owner = values["owner"]
    await session.execute(
        sqlalchemy.dialects.postgresql.insert(tables.organizations)
        .values(name=owner)
        .on_conflict_do_nothing()
    )
    statement = sqlalchemy.dialects.postgresql.insert(table).values(**values).on_conflict_do_nothing()
    if (await session.execute(statement.returning(*table.primary_key.columns))).first() is None:
        raise TakenError(f"{name} exists already")


def given(patch: Record) -> dict[str, Any]:
    return {
        name: value
        for name in patch.__struct_fields__
        if (value := getattr(patch, name)) is not msgspec.UNSET
    }


def organization_of(caller: Caller, asked: str | None) -> OrganizationName:
    """On whose behalf: one's own, or anybody's for operators."""
    if asked is None or asked == caller.organization:
        return caller.organization
    if OPERATE not in caller.scopes:
        raise AccessError("only operators act for another organization")
    return OrganizationName(asked)
