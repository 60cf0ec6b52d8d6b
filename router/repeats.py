"""Submits that can be repeated: for a day, an `Idempotency-Key` names one request of its organization. IO.

The claim is committed before the request, with the id that the request will have. Whoever comes again with the key
submits under that id, which the queue takes once: a process that dies between the two leaves nothing half done, and
two that come at once are one request. A refused request claims nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg_pool import PoolClosed

from registry.catalog import Digest, OrganizationName, digest_of
from registry.database import Connection, Database, load_queries
from router.errors import QueueUnavailableError, RepeatedKeyError
from router.fingerprint import canonical
from router.queue import LOST
from router.requests import Record, RequestId

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))


class Repeat(Record, frozen=True, kw_only=True):
    """A caller's own name for one request, and what it asked under it."""

    organization: OrganizationName
    key: str
    asked: Digest


def repeat(organization: OrganizationName, key: str, slug: str, arguments: Mapping[str, Any]) -> Repeat:
    """Pure. The same input in another order of keys is the same request."""
    asked = digest_of({"slug": slug, "input": canonical(arguments)})
    return Repeat(organization=organization, key=key, asked=asked)


class Repeats:
    """The claims of all gateways, in one table."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def first(self, repeat: Repeat) -> RequestId | None:
        """The request that was accepted under this key. Raises `RepeatedKeyError`, `QueueUnavailableError`."""
        return await self._ask("first", repeat)

    async def claim(self, repeat: Repeat, request_id: RequestId) -> RequestId:
        """The id to submit under: this one, or that of whoever came first. Raises as `first` does."""
        claimed = await self._ask("claim", repeat, request_id=request_id)
        assert claimed is not None, "a claim answers with a row"
        return claimed

    async def _ask(self, name: str, repeat: Repeat, **more: Any) -> RequestId | None:
        parameters = {"organization": repeat.organization, "key": repeat.key, "asked": repeat.asked} | more
        try:
            async with self._db.pool.connection() as connection:
                row = await (await connection.execute(QUERIES[name], parameters)).fetchone()
        except (*LOST, PoolClosed) as error:
            raise QueueUnavailableError("the database does not answer") from error
        if row is None:
            return None
        if row["asked"] != repeat.asked:
            raise RepeatedKeyError
        return RequestId(str(row["request_id"]))


async def forget_old(connection: Connection) -> None:
    """Keys that are older than a day name nothing any more."""
    await connection.execute(QUERIES["forget_old"])
