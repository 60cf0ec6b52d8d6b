"""Both ends of a database connection ask each other's kernels, so that a machine which vanishes keeps no locks."""

import os
import socket

import psycopg
import sqlalchemy
from psycopg.rows import scalar_row

from registry import database
from registry.database import Database
from tests.silent_proxy import SilentProxy

OPTIONS = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
SHOWN = "SELECT current_setting('client_connection_check_interval')"


def _options(descriptor: int) -> dict[str, int]:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return {name: connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OPTIONS}


async def test_every_connection_is_watched_from_both_ends(dsn: str) -> None:
    async with SilentProxy(dsn).listening() as proxy, Database.open(proxy.dsn, connections=2) as db:
        async with db.pool.connection() as pooled, await database.connect(proxy.dsn) as single:
            for connection in (pooled, single):
                assert _options(connection.fileno()) == OPTIONS
                assert (
                    await (await connection.cursor(row_factory=scalar_row).execute(SHOWN)).fetchone() == "5s"
                )
        async with db.sessions() as session:
            raw = await (await session.connection()).get_raw_connection()
            assert raw.driver_connection is not None
            assert _options(raw.driver_connection.fileno()) == OPTIONS
            await session.rollback()
            assert await session.scalar(sqlalchemy.text(SHOWN)) == "5s"


def test_the_servers_settings_are_called_so(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT name FROM pg_settings").fetchall()
    assert database.WATCHING.keys() <= {name for (name,) in found}


def test_what_an_address_says_itself_is_kept() -> None:
    said = "postgresql://a:b@c/d?keepalives_idle=60&connect_timeout=3"
    left = database.WATCHED.keys() - database.watching(said).keys()
    assert left == {"keepalives_idle", "connect_timeout"}
    assert sqlalchemy.make_url(said).query["keepalives_idle"] == "60"
