"""The rows of LoRAs that customers bring by address or repository: each its organization's own. IO.

Bytes lie in files named by their digest; a row says what an organization's address led to, for one architecture.
"""

from collections.abc import Collection
from datetime import timedelta

import msgspec
import sqlalchemy
from sqlalchemy.dialects.postgresql import insert

from registry.catalog import AdapterManifest, Digest, OrganizationName, Record
from registry.database import Database
from registry.tables import brought_adapters


class Wish(Record, frozen=True, kw_only=True):
    """What somebody asks for, and for which architecture it has to be."""

    organization: OrganizationName
    path: str
    weight_name: str = ""  # empty: there is only one
    architecture: Digest


async def find(db: Database, wish: Wish, fresh: timedelta) -> AdapterManifest | None:
    """What the address led to, unless that is too long ago: what lies there may have changed."""
    rows = brought_adapters
    query = sqlalchemy.select(rows.c.manifest).where(
        *(rows.c[name] == value for name, value in msgspec.structs.asdict(wish).items()),
        rows.c.fetched_at > sqlalchemy.func.now() - fresh,
    )
    async with db.sessions() as session:
        plain = await session.scalar(query)
    return None if plain is None else msgspec.convert(plain, AdapterManifest)


async def keep(db: Database, wish: Wish, manifest: AdapterManifest) -> None:
    statement = insert(brought_adapters).values(
        **msgspec.structs.asdict(wish), digest=manifest.digest, manifest=msgspec.to_builtins(manifest)
    )
    fresh = {name: statement.excluded[name] for name in ("digest", "manifest")}
    keys = [column.name for column in brought_adapters.primary_key.columns]
    statement = statement.on_conflict_do_update(
        index_elements=keys, set_=fresh | {"fetched_at": sqlalchemy.func.now()}
    )
    async with db.sessions.begin() as session:
        await session.execute(statement)


async def manifests(db: Database, digests: Collection[Digest] | None = None) -> dict[Digest, AdapterManifest]:
    """By digest, whoever brought them: the digest says what the bytes are, not whose."""
    query = sqlalchemy.select(brought_adapters.c.digest, brought_adapters.c.manifest)
    if digests is not None:
        query = query.where(brought_adapters.c.digest.in_(digests))
    async with db.sessions() as session:
        return {
            Digest(row.digest): msgspec.convert(row.manifest, AdapterManifest)
            for row in await session.execute(query)
        }


async def forget(db: Database, older_than: timedelta) -> frozenset[str]:
    """Drops what nobody asked for in so long; returns the sha256 of all that is left."""
    rows = brought_adapters
    async with db.sessions.begin() as session:
        old = rows.c.fetched_at < sqlalchemy.func.now() - older_than
        await session.execute(sqlalchemy.delete(rows).where(old))
        left = await session.scalars(sqlalchemy.select(rows.c.manifest["weights"]["sha256"].astext))
        return frozenset(left.all())
