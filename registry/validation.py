"""Validation of a version: reads its contents, checks every weights file, and keeps the outcome. IO.

One process validates a version at a time (an advisory lock, so a dead one leaves nothing locked); killed at any
point it leaves a version that can be validated again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy
import structlog

from registry import apply, folders, hub, tables, uploads, versions
from registry.catalog import Manifest, Record, Slug, Source, Version, VersionState
from registry.database import Database
from registry.errors import CatalogError, IllegalMoveError, RegistryError, WeightsError

log = structlog.get_logger("marquee.validation")
REPORT_SECONDS = 1.0


class Report(Record, frozen=True, kw_only=True):
    """What validation is doing or found. `error` is the refusal's name."""

    checked_bytes: int = 0
    components: int | None = None
    total_bytes: int | None = None
    shared_bytes: int | None = None  # bytes of components that the catalogue had already
    error: str | None = None
    message: str | None = None


class Place(Record, frozen=True, kw_only=True):
    """Where contents are read from."""

    home: Path
    endpoint: hub.Endpoint = hub.Endpoint()


async def validate(db: Database, place: Place, actor: str, slug: str, number: int) -> Report:
    """Raises `IllegalMoveError` when another process is at it. A refusal is a report, not an exception."""
    async with _alone(db, slug, number):
        source = await _begin(db, actor, slug, number)
        counted = folders.Counted()
        watch = asyncio.create_task(_report(db, slug, number, counted))
        try:
            manifest = await _read(place, source, counted)
        except (WeightsError, CatalogError) as error:
            return await _finish(db, actor, slug, number, "rejected", _refusal(error, counted))
        except BaseException:
            await asyncio.shield(_finish(db, actor, slug, number, "draft", Report(message="interrupted")))
            raise
        finally:
            watch.cancel()
            await asyncio.wait([watch])
        return await _accept(
            db, actor, Version(variant=Slug(slug), number=number, manifest=manifest), counted
        )


def _refusal(error: RegistryError, counted: folders.Counted) -> Report:
    notes = "".join(f" ({Path(note).name})" for note in getattr(error, "__notes__", ()))
    return Report(checked_bytes=counted.bytes, error=type(error).__name__, message=f"{error}{notes}")


@contextlib.asynccontextmanager
async def _alone(db: Database, slug: str, number: int) -> AsyncIterator[None]:
    name = f"validate {slug}@{number}"
    async with db.pool.connection() as connection:
        row = await (
            await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS mine", [name])
        ).fetchone()
        if row is None or not row["mine"]:
            raise IllegalMoveError("validating", "validating")
        try:
            yield
        finally:
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])


async def _begin(db: Database, actor: str, slug: str, number: int) -> Source:
    found = tables.versions
    mine = (found.c.variant == slug) & (found.c.number == number)
    async with db.sessions.begin() as session:
        row = (await session.execute(sqlalchemy.select(found).where(mine))).mappings().one()
        if row["state"] == "validating":  # we hold the lock, so whoever began is dead
            await versions.set_state(session, actor, slug, number, "draft", Report(message="interrupted"))
        await versions.set_state(session, actor, slug, number, "validating", Report())
        return msgspec.convert(row["source"], Source)


async def _read(place: Place, source: Source, counted: folders.Counted) -> Manifest:
    match source.kind:
        case "upload":
            folder = uploads.folder_of(place.home, source.location)
            return await asyncio.to_thread(folders.read_pipeline, folder, None, counted)
        case "path":
            folder = Path(source.location, source.subfolder or "")
            return await asyncio.to_thread(folders.read_pipeline, folder, source, counted)
        case "hub":
            return await asyncio.to_thread(hub.read_pipeline, place.endpoint, source, counted)
        case "url":
            raise CatalogError("weights by URL are not taken; upload them or name a Hub repository")


async def _report(db: Database, slug: str, number: int, counted: folders.Counted) -> None:
    found = tables.versions
    mine = (found.c.variant == slug) & (found.c.number == number)
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        report = msgspec.to_builtins(Report(checked_bytes=counted.bytes))
        async with db.sessions.begin() as session:
            await session.execute(sqlalchemy.update(found).where(mine).values(report=report))


async def _finish(
    db: Database, actor: str, slug: str, number: int, state: VersionState, report: Report
) -> Report:
    async with db.sessions.begin() as session:
        await versions.set_state(session, actor, slug, number, state, report)
    log.info("version validated", version=f"{slug}@{number}", state=state, error=report.error)
    return report


async def _accept(db: Database, actor: str, version: Version, counted: folders.Counted) -> Report:
    manifest = version.manifest
    digests = [component.digest for component in manifest.components]
    components = tables.components
    async with db.sessions.begin() as session:
        query = sqlalchemy.select(components.c.digest).where(components.c.digest.in_(digests))
        known: set[Any] = set((await session.scalars(query)).all())
        report = Report(
            checked_bytes=counted.bytes,
            components=len(digests),
            total_bytes=manifest.size_bytes,
            shared_bytes=sum(c.size_bytes for c in manifest.components if c.digest in known),
        )
        await versions.set_state(session, actor, version.variant, version.number, "validated", report)
        await apply.write_version(session, msgspec.structs.replace(version, state="validated"))
    return report
