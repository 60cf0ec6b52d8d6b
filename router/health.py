"""`GET /healthz`, for balancers and supervisors: does this process serve? Process edge."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import psycopg
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from registry.database import Database
from router.dispatcher import Dispatcher

DATABASE_SECONDS = 2.0


class Living(Protocol):
    """What is asked how it is."""

    @property
    def db(self) -> Database: ...

    @property
    def dispatcher(self) -> Dispatcher: ...


def route(living: Callable[[], Living]) -> HTTPRouteHandler:
    """`living` is asked on each call."""

    @get("/healthz", include_in_schema=False)
    async def healthz() -> Response[dict[str, Any]]:
        """200 when the database answers and a dispatcher is active (here, or we stand by for it)."""
        dispatcher = living().dispatcher
        database = await _answers(living().db)
        active = dispatcher.term is not None
        healthy = database and (active or dispatcher.standing_by)
        content = {
            "status": "ok" if healthy else "unavailable",
            "database": database,
            "dispatcher": "active" if active else "standing by",
            "hosts": dispatcher.hosts,
        }
        return Response(content, status_code=200 if healthy else 503)

    return healthz


async def _answers(db: Database) -> bool:
    try:
        async with asyncio.timeout(DATABASE_SECONDS), db.pool.connection() as connection:
            await connection.execute("SELECT 1")
    except (psycopg.Error, TimeoutError, OSError):
        return False
    return True
