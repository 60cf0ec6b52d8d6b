"""Writes that can be repeated: the answer to an Idempotency-Key is stored in the transaction that did the work. IO.

A repeated request is answered with the first answer. Concurrent ones wait for each other at the key's row.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from registry import tables
from registry.catalog import OrganizationName, Record
from registry.database import Database
from registry.errors import ReusedKeyError

KEPT_DAYS = 7


class Answer(Record, frozen=True, kw_only=True):
    """What a write answers. `secrets` are body fields that the first answer alone shows."""

    status: int = 200
    body: Any = None
    etag: str | None = None
    secrets: tuple[str, ...] = ()


Operation = Callable[[AsyncSession], Awaitable[Answer]]


async def once(
    db: Database, organization: OrganizationName, key: str, fingerprint: str, operation: Operation
) -> Answer:
    """Raises `ReusedKeyError`, and whatever the operation raises: then nothing is stored and it may be repeated."""
    writes = tables.writes
    async with db.sessions.begin() as session:
        row = {"organization": organization, "key": key, "fingerprint": fingerprint}
        claim = insert(writes).values(**row).on_conflict_do_nothing().returning(writes.c.key)
        mine = (writes.c.organization == organization) & (writes.c.key == key)
        if (await session.execute(claim)).first() is None:
            return await _first_answer(session, mine, fingerprint)
        answer = await operation(session)
        plain = msgspec.to_builtins(answer.body)
        kept = (
            {name: None if name in answer.secrets else value for name, value in plain.items()}
            if answer.secrets
            else plain
        )
        values = {"status": answer.status, "body": kept, "etag": answer.etag}
        await session.execute(sqlalchemy.update(writes).where(mine).values(**values))
        return msgspec.structs.replace(answer, body=plain)


async def _first_answer(
    session: AsyncSession, mine: sqlalchemy.ColumnElement[bool], fingerprint: str
) -> Answer:
    row = (await session.execute(sqlalchemy.select(tables.writes).where(mine))).mappings().one()
    if row["fingerprint"] != fingerprint:
        raise ReusedKeyError("this Idempotency-Key came with another request before")
    return Answer(status=row["status"], body=row["body"], etag=row["etag"])


async def forget_old(session: AsyncSession) -> None:
    """Answers older than a week; whoever repeats a request after that long repeats its work."""
    age = sqlalchemy.func.now() - sqlalchemy.text(f"interval '{KEPT_DAYS} days'")
    await session.execute(sqlalchemy.delete(tables.writes).where(tables.writes.c.created_at < age))
