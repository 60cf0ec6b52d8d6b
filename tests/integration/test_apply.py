"""A catalogue file becomes rows and comes back as the same records; twice is once; labs' own entries are safe."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy
import yaml

from registry import apply, diff, export, history, manifest, store, tables, usage, windows
from registry.catalog import OrganizationName, Slug
from registry.database import Database
from registry.errors import CatalogError, InUseError
from tests.integration.test_usage import _record

ANYONE = OrganizationName("anyone")


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
    opened = windows.resolve([r for r in rows.releases if r.variant == "acme/toys"], ANYONE, rows.at)
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
        answer = windows.resolve([r for r in rows.releases if r.variant == slug], ANYONE, rows.at)
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
