"""Validation of a version, of a variant or an adapter: reads its contents, checks every weights file, keeps the outcome. IO.

One process validates a version at a time (an advisory lock, so a dead one leaves nothing locked); killed at any
point it leaves a version that can be validated again.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from registry import adapter_desk, contents, folders, reading, tables, versions
from registry.catalog import Record, Slug, Source, Version, VersionState
from registry.database import Database
from registry.errors import (
    CatalogError,
    FolderError,
    IllegalMoveError,
    InvalidRequestError,
    MisfitError,
    RegistryError,
    WeightsError,
)
from registry.goods import VARIANTS, Goods
from registry.reading import Place

log = structlog.get_logger("marquee.validation")
REPORT_SECONDS = 1.0


class Report(Record, frozen=True, kw_only=True):
    """What validation is doing or found. `error` is the refusal's name."""

    checked_bytes: int = 0
    components: int | None = None
    total_bytes: int | None = None
    shared_bytes: int | None = None  # bytes of components that the catalogue had already
    unexamined: tuple[str, ...] = ()  # parts whose class nobody here knows: their shapes were not compared
    error: str | None = None
    message: str | None = None


async def validate(
    db: Database, place: Place, actor: str, slug: str, number: int, goods: Goods = VARIANTS
) -> Report:
    """Raises `IllegalMoveError` when another process is at it. A refusal is a report, not an exception."""
    case = _Case(db, actor, slug, number, goods)
    async with _alone(case):
        row = await _begin(case)
        counted = folders.Counted()
        try:
            async with _reported(case, counted):
                accept = await _read(case, place, row, counted)
        except (WeightsError, CatalogError, InvalidRequestError) as error:
            return await _finish(case, "rejected", _refusal(error, row["source"], counted))
        except BaseException:
            await asyncio.shield(_finish(case, "draft", Report(message="interrupted")))
            raise
        return await accept(counted)


class _Case(NamedTuple):
    """One version under validation."""

    db: Database
    actor: str
    slug: str
    number: int
    goods: Goods

    @property
    def mine(self) -> sqlalchemy.ColumnElement[bool]:
        return self.goods.version_is(self.slug, self.number)

    async def move(self, session: AsyncSession, state: VersionState, report: Report) -> None:
        await versions.set_state(session, self.actor, self.slug, self.number, state, report, self.goods)


def _refusal(error: RegistryError, source: Mapping[str, Any], counted: folders.Counted) -> Report:
    """Where an upload lies here is nothing that a lab can use."""
    said = error.reason if isinstance(error, FolderError) and source["kind"] == "upload" else str(error)
    notes = "".join(f" ({Path(note).name})" for note in getattr(error, "__notes__", ()))
    name = error.name if isinstance(error, MisfitError) else type(error).__name__
    return Report(checked_bytes=counted.bytes, error=name, message=f"{said}{notes}")


@contextlib.asynccontextmanager
async def _alone(case: _Case) -> AsyncIterator[None]:
    name = f"validate {'' if case.goods is VARIANTS else 'adapter '}{case.slug}@{case.number}"
    async with case.db.pool.connection() as connection:
        row = await (
            await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS mine", [name])
        ).fetchone()
        if row is None or not row["mine"]:
            raise IllegalMoveError("validating", "validating")
        try:
            yield
        finally:
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])


async def _begin(case: _Case) -> sqlalchemy.RowMapping:
    async with case.db.sessions.begin() as session:
        query = sqlalchemy.select(case.goods.versions).where(case.mine)
        row = (await session.execute(query)).mappings().one()
        if row["state"] == "validating":  # we hold the lock, so whoever began is dead
            await case.move(session, "draft", Report(message="interrupted"))
        await case.move(session, "validating", Report())
    return row


Accept = Callable[[folders.Counted], Awaitable[Report]]


async def _read(case: _Case, place: Place, row: sqlalchemy.RowMapping, counted: folders.Counted) -> Accept:
    """What remains to be done once the contents are known to be good."""
    source = msgspec.convert(row["source"], Source)
    if case.goods is VARIANTS:
        version = await reading.read_version(place, source, counted)
        return functools.partial(_accept_version, case, version)
    async with case.db.sessions() as session:
        base = await adapter_desk.base_version(session, case.slug)
    adapter = await reading.read_adapter(place, source, row["weight_name"], base, counted)
    return functools.partial(_accept_adapter, case, adapter)


@contextlib.asynccontextmanager
async def _reported(case: _Case, counted: folders.Counted) -> AsyncIterator[None]:
    """No report comes after this: it would take the place of the last one."""
    watch = asyncio.create_task(_report(case, counted))
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def _report(case: _Case, counted: folders.Counted) -> None:
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        report = msgspec.to_builtins(Report(checked_bytes=counted.bytes))
        async with case.db.sessions.begin() as session:
            statement = sqlalchemy.update(case.goods.versions).where(case.mine)
            await session.execute(statement.values(report=report))


async def _finish(case: _Case, state: VersionState, report: Report) -> Report:
    async with case.db.sessions.begin() as session:
        await case.move(session, state, report)
    log.info("version validated", version=f"{case.slug}@{case.number}", state=state, error=report.error)
    return report


async def _accept_version(case: _Case, found: reading.Contents, counted: folders.Counted) -> Report:
    manifest = found.manifest
    digests = [component.digest for component in manifest.components]
    components = tables.components
    version = Version(variant=Slug(case.slug), number=case.number, manifest=manifest, state="validated")
    async with case.db.sessions.begin() as session:
        query = sqlalchemy.select(components.c.digest).where(components.c.digest.in_(digests))
        known: set[Any] = set((await session.scalars(query)).all())
        report = Report(
            checked_bytes=counted.bytes,
            components=len(digests),
            total_bytes=manifest.size_bytes,
            shared_bytes=sum(c.size_bytes for c in manifest.components if c.digest in known),
            unexamined=found.unexamined,
        )
        await case.move(session, "validated", report)
        await contents.write_version(session, version)
    return report


async def _accept_adapter(case: _Case, found: reading.AdapterContents, counted: folders.Counted) -> Report:
    manifest = found.manifest
    async with case.db.sessions.begin() as session:
        report = Report(
            checked_bytes=counted.bytes, total_bytes=manifest.size_bytes, unexamined=found.unexamined
        )
        await case.move(session, "validated", report)
        await contents.write_adapter_version(session, case.slug, case.number, manifest)
    return report
