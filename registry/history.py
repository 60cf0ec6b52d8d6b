"""The append-only history of the catalogue: who changed what, when, from what to what. IO.

The database refuses to rewrite it, and each entry wakes the listeners of `feed` when its transaction commits.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry.catalog import Record
from registry.tables import changes


class Entry(Record, frozen=True, kw_only=True):
    """One change to one subject; `before` is None for an addition, `after` for a removal."""

    actor: str
    kind: str
    subject: str
    owner: str | None = None
    before: Any = None
    after: Any = None
    id: int = 0  # given by the database
    at: datetime | None = None  # by the database's clock


async def append(session: AsyncSession, entries: Sequence[Entry]) -> None:
    """Within the caller's transaction, so that a change and its history stand or fall together."""
    if not entries:
        return
    rows = [
        {
            "actor": entry.actor,
            "kind": entry.kind,
            "subject": entry.subject,
            "owner": entry.owner,
            "before": _plain(entry.before),
            "after": _plain(entry.after),
        }
        for entry in entries
    ]
    await session.execute(sqlalchemy.insert(changes), rows)


def _plain(value: Any) -> Any:
    return sqlalchemy.null() if value is None else msgspec.to_builtins(value)


async def read(
    session: AsyncSession,
    *,
    owner: str | None = None,
    subject: str | None = None,
    limit: int = 100,
    below: int | None = None,
) -> tuple[Entry, ...]:
    """Newest first; `below` pages on. Of a variant or an adapter also what its versions went through."""
    query = sqlalchemy.select(changes).order_by(changes.c.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(changes.c.owner == owner)
    if subject is not None:
        versions = changes.c.subject.startswith(f"{subject}@", autoescape=True)
        query = query.where((changes.c.subject == subject) | versions)
    if below is not None:
        query = query.where(changes.c.id < below)
    return tuple(Entry(**row) for row in (await session.execute(query)).mappings())
