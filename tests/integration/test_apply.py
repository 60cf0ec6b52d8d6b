"""A catalogue file becomes rows and comes back as the same records; twice is once; labs' own entries are safe."""

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest
import sqlalchemy
import yaml

from registry import (
    adapter_desk,
    apply,
    contents,
    desk,
    diff,
    export,
    history,
    manifest,
    store,
    tables,
    usage,
    versions,
    windows,
)
from registry.catalog import Caller, Digest, OrganizationName, Slug, Source
from registry.database import Database
from registry.errors import CatalogError, InUseError
from registry.goods import VARIANTS
from tests.integration.test_usage import _record

ANYONE = OrganizationName("anyone")
LAB = Caller(organization=OrganizationName("acme"), key_id="lab", scopes=frozenset({"models:publish"}))


async def test_the_file_comes_back_as_records_and_a_second_apply_changes_nothing(
    db: Database, toys: Path
) -> None:
    desired = apply.read_file(toys)
    planned = await apply.plan(db, desired)
    assert await apply.apply(db, desired) == planned
    assert await apply.apply(db, desired) == ()

    rows = await store.load_catalog(db)
    assert rows.variants == desired.variants
    assert rows.models == desired.models
    assert {version.variant: version.manifest for version in rows.versions} == desired.contents
    assert {adapter.slug: adapter.manifest for adapter in rows.adapters} == desired.adapter_contents
    opened = windows.resolve(
        [r for r in rows.releases if r.variant == "acme/toys"], ANYONE, await store.now(db)
    )
    assert isinstance(opened, windows.Open)
    assert opened.release.shares[0].version == 1


async def test_identical_components_are_one_row(db: Database, toys: Path) -> None:
    await apply.apply(db, apply.read_file(toys))
    async with db.sessions() as session:
        components = await session.scalar(
            sqlalchemy.select(sqlalchemy.func.count()).select_from(tables.components)
        )
    assert components == 5, "two transformers, and one VAE and two text encoders for both"


async def test_new_bytes_are_a_new_version_and_old_bytes_the_old_one(
    db: Database, toys: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(toys.parent, tmp_path / "copy")
    text = toys.read_text()
    await apply.apply(db, apply.read_folders(manifest.parse(text), folder))
    edited = manifest.parse(text.replace("{path: toys}", "{path: toys-late}"))
    changed = await apply.apply(db, apply.read_folders(edited, folder))
    assert [(change.kind, change.action) for change in changed if change.subject == "acme/toys"] == [
        ("variant", "change"),
        ("version", "change"),
    ]
    assert await _live(db) == {"acme/toys": 2, "acme/toys/late": 1}
    await apply.apply(db, apply.read_folders(manifest.parse(text), folder))
    assert await _live(db) == {"acme/toys": 1, "acme/toys/late": 1}


async def _live(db: Database) -> dict[Slug, int]:
    rows = await store.load_catalog(db)
    found = {}
    for slug in {release.variant for release in rows.releases}:
        answer = windows.resolve([r for r in rows.releases if r.variant == slug], ANYONE, await store.now(db))
        assert isinstance(answer, windows.Open)
        found[slug] = answer.release.shares[0].version
    return found


async def test_what_is_still_called_is_removed_only_when_named(db: Database, toys: Path) -> None:
    desired = apply.read_file(toys)
    await apply.apply(db, desired)
    called = _record(
        (await store.now(db)), slug=Slug("acme/toys/late"), organization=OrganizationName("blue")
    )
    async with db.transaction() as connection:
        await usage.record(connection, [called])
    smaller = manifest.parse(toys.read_text().replace("      acme/toys/late: {path: toys-late}\n", ""))
    without = apply.read_folders(smaller, toys.parent)
    with pytest.raises(InUseError, match=r"acme/toys/late is still called by blue"):
        await apply.apply(db, without)
    assert len((await store.load_catalog(db)).variants) == 2
    removed = await apply.apply(db, without, confirmed=["acme/toys/late"])
    assert [line[0] for line in diff.describe(removed)] == ["-", "0"]
    assert len((await store.load_catalog(db)).variants) == 1


async def test_an_adapter_that_is_still_called_is_removed_only_when_named(db: Database, toys: Path) -> None:
    desired = apply.read_file(toys)
    await apply.apply(db, desired)
    (slug,) = desired.adapter_contents
    used = (desired.adapter_contents[slug].digest,)
    called = _record(await store.now(db), adapters=used, organization=OrganizationName("blue"))
    async with db.transaction() as connection:
        await usage.record(connection, [called])
    without = msgspec.structs.replace(desired, adapters=(), adapter_contents={})
    with pytest.raises(InUseError, match=f"{slug} is still called by blue"):
        await apply.apply(db, without)
    await apply.apply(db, without, confirmed=[slug])
    assert (await store.load_catalog(db)).adapters == ()


async def test_a_labs_variant_is_not_taken_over(db: Database, toys: Path) -> None:
    desired = apply.read_file(toys)
    await apply.apply(db, desired)
    async with db.sessions.begin() as session:
        await session.execute(sqlalchemy.update(tables.variants).values(managed_by="lab"))
    with pytest.raises(CatalogError, match="published by its lab"):
        await apply.apply(db, desired)


async def test_history_is_written_and_cannot_be_rewritten(db: Database, toys: Path) -> None:
    changes = await apply.apply(db, apply.read_file(toys))
    async with db.sessions() as session:
        entries = await history.read(session)
    assert [(e.kind, e.subject) for e in reversed(entries)] == [(c.kind, c.subject) for c in changes]
    for statement in (
        sqlalchemy.update(tables.changes).values(actor="nobody"),
        sqlalchemy.delete(tables.changes),
    ):
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"):
            async with db.sessions.begin() as session:
                await session.execute(statement)


async def test_the_export_applies_as_no_change(db: Database, toys: Path, tmp_path: Path) -> None:
    await apply.apply(db, apply.read_file(toys))
    text = await export.export(db)
    assert set(yaml.safe_load(text)) == {"organizations", "models", "adapters"}
    exported = apply.read_folders(manifest.parse(text), tmp_path)
    assert await apply.plan(db, exported) == ()


async def test_a_lab_that_publishes_the_same_name_at_that_moment_keeps_it(db: Database, toys: Path) -> None:
    desired = apply.read_file(toys)
    async with db.sessions() as lab:
        await desk.create_model(lab, LAB, desk.ModelBody(name="acme/toys", title="The lab's own"))
        applied = asyncio.create_task(apply.apply(db, desired))
        await asyncio.sleep(0.3)  # it waits for the name by now
        await lab.commit()
        with pytest.raises(CatalogError, match="acme/toys is published by its lab"):
            await applied
    async with db.sessions() as session:
        models = (await session.execute(sqlalchemy.select(tables.models))).mappings().all()
    assert [(row["title"], row["managed_by"]) for row in models] == [("The lab's own", "lab")]


async def test_a_number_that_a_lab_takes_at_that_moment_is_not_given_twice(db: Database, toys: Path) -> None:
    await apply.apply(db, apply.read_file(toys))

    async def next_number() -> int:
        async with db.sessions.begin() as session:
            return await contents.number_of(session, VARIANTS, Slug("acme/toys"), Digest("sha256:fresh"))

    async with db.sessions() as lab:
        draft = await versions.add(lab, LAB, "acme/toys", Source(kind="hub", location="acme/toys"))
        fresh = asyncio.create_task(next_number())
        await asyncio.sleep(0.3)
        await lab.commit()
    assert (draft.number, await fresh) == (2, 3)


async def test_what_a_labs_adapter_stands_on_is_not_removed(db: Database, toys: Path) -> None:
    desired = apply.read_file(toys)
    await apply.apply(db, desired)
    async with db.sessions.begin() as session:
        await adapter_desk.create(
            session, LAB, adapter_desk.AdapterBody(slug="acme/outline", base="acme/toys/late")
        )
    smaller = manifest.parse(toys.read_text().replace("      acme/toys/late: {path: toys-late}\n", ""))
    without = apply.read_folders(smaller, toys.parent)
    for confirmed in ((), ("acme/toys/late",)):
        with pytest.raises(InUseError, match="acme/outline"):
            await apply.apply(db, without, confirmed=confirmed)


async def test_a_title_that_the_file_does_not_name_stays(db: Database, toys: Path) -> None:
    desired = apply.read_file(toys)
    async with db.sessions.begin() as session:
        await session.execute(sqlalchemy.insert(tables.organizations).values(name="acme", title="Acme Labs"))
    await apply.apply(db, desired)
    assert [one.title for one in (await store.load_catalog(db)).organizations if one.name == "acme"] == [
        "Acme Labs"
    ]
    assert await apply.plan(db, desired) == ()
