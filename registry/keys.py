"""API keys: made, shown once, stored as a hash, verified, listed, revoked. IO; this module alone writes them."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import get_args

import sqlalchemy
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from registry import history
from registry.catalog import Caller, OrganizationName, Record, Scope
from registry.database import Database
from registry.errors import UnknownKeyError
from registry.tables import keys, organizations

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
TOKEN = re.compile(r"mq_[a-zA-Z0-9]{8}_[a-zA-Z0-9]{32}")
SCOPES: tuple[Scope, ...] = get_args(Scope)


class NewKey(Record, frozen=True, kw_only=True):
    """A key as its owner sees it once; the token is not kept anywhere."""

    id: str
    token: str
    organization: OrganizationName
    scopes: tuple[Scope, ...]


class KeyRow(Record, frozen=True, kw_only=True):
    """A key as it is listed: everything but the token."""

    id: str
    organization: OrganizationName
    scopes: tuple[Scope, ...]
    title: str | None
    created_at: datetime
    revoked_at: datetime | None


def hash_of(token: str) -> bytes:
    """Tokens hold 190 random bits, so one plain sha256 is enough; it is also the snapshot's dictionary key."""
    return hashlib.sha256(token.encode()).digest()


async def create(
    db: Database,
    organization: str,
    scopes: Iterable[Scope],
    *,
    title: str | None = None,
    actor: str = "operator",
) -> NewKey:
    """Makes the organization too, where it is new."""
    async with db.sessions.begin() as session:
        return await add(session, OrganizationName(organization), scopes, title=title, actor=actor)


async def add(
    session: AsyncSession,
    organization: OrganizationName,
    scopes: Iterable[Scope],
    *,
    title: str | None,
    actor: str,
) -> NewKey:
    """Within the caller's transaction."""
    key_id, secret = _random(8), _random(32)
    key = NewKey(
        id=key_id, token=f"mq_{key_id}_{secret}", organization=organization, scopes=tuple(sorted(set(scopes)))
    )
    values = {"id": key.id, "organization": organization, "scopes": list(key.scopes), "title": title}
    await session.execute(insert(organizations).values(name=organization).on_conflict_do_nothing())
    await session.execute(sqlalchemy.insert(keys).values(**values, hash=hash_of(key.token)))
    entry = history.Entry(actor=actor, kind="key", subject=key.id, owner=organization, after=values)
    await history.append(session, [entry])
    return key


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


async def verify(db: Database, token: str) -> Caller | None:
    """Who holds this token; None when it was never given, or was revoked."""
    if not TOKEN.fullmatch(token):
        return None
    query = sqlalchemy.select(keys).where(keys.c.hash == hash_of(token), keys.c.revoked_at.is_(None))
    async with db.sessions() as session:
        row = (await session.execute(query)).mappings().one_or_none()
    return None if row is None else _caller(row)


async def active(db: Database) -> dict[bytes, Caller]:
    """Every valid key by its hash: what a gateway keeps in memory."""
    query = sqlalchemy.select(keys).where(keys.c.revoked_at.is_(None))
    async with db.sessions() as session:
        return {bytes(row["hash"]): _caller(row) for row in (await session.execute(query)).mappings()}


def _caller(row: sqlalchemy.RowMapping) -> Caller:
    return Caller(organization=row["organization"], key_id=row["id"], scopes=frozenset(row["scopes"]))


async def listing(db: Database, organization: str | None = None) -> tuple[KeyRow, ...]:
    """All keys, revoked ones included, oldest first."""
    async with db.sessions() as session:
        return await listed(session, organization)


async def listed(session: AsyncSession, organization: str | None) -> tuple[KeyRow, ...]:
    query = sqlalchemy.select(keys).order_by(keys.c.created_at, keys.c.id)
    if organization is not None:
        query = query.where(keys.c.organization == organization)
    return tuple([_row(row) for row in (await session.execute(query)).mappings()])


def _row(row: sqlalchemy.RowMapping) -> KeyRow:
    return KeyRow(
        id=row["id"],
        organization=row["organization"],
        scopes=tuple(row["scopes"]),
        title=row["title"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )


async def revoke(
    db: Database, key_id: str, *, organization: str | None = None, actor: str = "operator"
) -> None:
    """At once here; other processes hear of it through `feed`. Raises `UnknownKeyError`. Revoking twice is one."""
    async with db.sessions.begin() as session:
        await end(session, key_id, organization=organization, actor=actor)


async def end(session: AsyncSession, key_id: str, *, organization: str | None, actor: str) -> KeyRow:
    """Revokes within the caller's transaction; returns the key as it was."""
    found = keys.c.id == key_id
    if organization is not None:
        found &= keys.c.organization == organization
    query = sqlalchemy.select(keys).where(found).with_for_update()
    row = (await session.execute(query)).mappings().one_or_none()
    if row is None:
        raise UnknownKeyError(key_id)
    change = sqlalchemy.update(keys).where(found, keys.c.revoked_at.is_(None))
    change = change.values(revoked_at=sqlalchemy.func.now())
    if (await session.execute(change.returning(keys.c.id))).first() is not None:
        entry = history.Entry(
            actor=actor,
            kind="key",
            subject=key_id,
            owner=row["organization"],
            before={"revoked": False},
            after={"revoked": True},
        )
        await history.append(session, [entry])
    return _row(row)
