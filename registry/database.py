"""Postgres for everyone: an SQLAlchemy engine for plain reads, a psycopg pool for hand-written SQL, migrations. IO.

Transactions are the callers': `async with db.sessions.begin()` or `async with db.transaction()`.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from registry.errors import DatabaseUnreachableError, MigrationError, SchemaOutdatedError, SettingsError

Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

LOST = (  # what is raised where nobody answers, or stops answering
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
)
# Whether the other machine is still there is asked of its kernel, by both ends: one that vanishes says nothing, and
# would keep its locks, a dispatcher's among them, for the two hours that systems wait by themselves.
WATCHED = {
    "connect_timeout": 10,  # seconds, as all here but the last
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds that what was sent may stay unacknowledged
}
WATCHING = {  # the server's end, by names of its settings; those that a server lacks are left out
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "client_connection_check_interval": "5000",  # who waits for a lock is asked as well
}
WATCH = (
    "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS wanted (name, value)"
    " JOIN pg_settings USING (name)"
)
POOL_CONNECTIONS = 16
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 10.0  # for a free connection
RECONNECT_SECONDS = 2.0  # the pool doubles its pauses meanwhile; then each new caller makes it try afresh


class Database:
    """One process's connections to one database."""

    def __init__(self, dsn: str, sessions: async_sessionmaker[AsyncSession], pool: Pool) -> None:
        self.dsn = dsn
        self.sessions = sessions
        self.pool = pool

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, dsn: str, *, connections: int = POOL_CONNECTIONS) -> AsyncIterator["Database"]:
        """Raises `DatabaseUnreachableError` when nobody answers within ten seconds."""
        address = alchemy_url(dsn)
        probes = watching(dsn)
        pool: Pool = AsyncConnectionPool(
            dsn,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True, **probes},
            configure=watch,
            min_size=1,
            max_size=connections,
            timeout=WAIT_SECONDS,
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
        )
        engine = create_async_engine(
            address,
            pool_size=4,
            max_overflow=8,
            json_deserializer=msgspec.json.decode,
            connect_args=probes,
        )
        sqlalchemy.event.listen(engine.sync_engine, "connect", _watch_plain)
        try:
            await _answer(pool)
            yield cls(dsn, async_sessionmaker(engine, expire_on_commit=False), pool)
        finally:
            await pool.close()
            await engine.dispose()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction: committed at the end, rolled back on any exception."""
        async with self.pool.connection() as connection, connection.transaction():
            yield connection


async def connect(dsn: str) -> psycopg.AsyncConnection:
    """One connection by itself, in autocommit, that a machine which vanishes does not keep open."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **watching(dsn))
    await watch(connection)
    return connection


def watching(dsn: str) -> dict[str, Any]:
    """Our probes, but for what the address says about them itself."""
    said = conninfo_to_dict(dsn)
    return {name: value for name, value in WATCHED.items() if name not in said}


async def watch(connection: psycopg.AsyncConnection[Any]) -> None:
    """Have the server probe this client too. Over a Unix socket nothing is probed, nor need be."""
    await connection.execute(WATCH, [list(WATCHING), list(WATCHING.values())])


def _watch_plain(connection: DBAPIConnection, record: object) -> None:
    """The same, of the engine's; these begin a transaction, whose rollback would take it back."""
    cursor = connection.cursor()
    cursor.execute(WATCH, [list(WATCHING), list(WATCHING.values())])
    cursor.close()
    connection.commit()


async def _answer(pool: Pool) -> None:
    try:
        await pool.open(wait=True, timeout=CONNECT_SECONDS)
    except (PoolTimeout, psycopg.Error) as error:
        raise DatabaseUnreachableError(f"the database does not answer: {error}") from error


def alchemy_url(dsn: str) -> sqlalchemy.URL:
    """Raises `SettingsError`, without the address: it may hold a password."""
    try:
        url = sqlalchemy.make_url(dsn)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        url = None
    if url is None or url.drivername.partition("+")[0] not in {"postgresql", "postgres"}:
        raise SettingsError("MARQUEE_DATABASE_URL", "not like postgresql://user:password@host/database")
    return url.set(drivername="postgresql+psycopg")


def load_queries(path: Path) -> Mapping[str, str]:
    """A `.sql` file's queries by name: each starts with a line `-- name: NAME`, then its purpose, then the query."""
    queries: dict[str, str] = {}
    for block in path.read_text().split("-- name: ")[1:]:
        name, _, text = block.partition("\n")
        queries[name.strip()] = text.strip()
    return queries


def migrate(dsn: str, revision: str = "head") -> None:
    """Brings the schema to `revision`; several processes may try at once. Blocks. Raises `MigrationError`."""
    from alembic import command

    with _engine(dsn) as engine, _translated():
        command.upgrade(_configuration(engine), revision)


def check_schema(dsn: str) -> None:
    """Raises `SchemaOutdatedError`. A newer schema is no matter: migrations work with the release before. Blocks."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with _engine(dsn) as engine, _translated():
        script = ScriptDirectory.from_config(_configuration(engine))
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    head = str(script.get_current_head())
    if current != head and (
        current is None or current in {known.revision for known in script.walk_revisions()}
    ):
        raise SchemaOutdatedError(current, head)


def revert(dsn: str, revision: str) -> None:
    """Brings the schema down to `revision`. Blocks. Raises `MigrationError`."""
    from alembic import command

    with _engine(dsn) as engine, _translated():
        command.downgrade(_configuration(engine), revision)


def _configuration(engine: sqlalchemy.Engine) -> Any:
    from alembic.config import Config

    import migrations

    configuration = Config(attributes={"engine": engine})
    configuration.set_main_option("script_location", str(Path(migrations.__file__).parent))
    configuration.set_main_option("path_separator", "os")
    return configuration


@contextlib.contextmanager
def _engine(dsn: str) -> Any:
    engine = sqlalchemy.create_engine(alchemy_url(dsn), poolclass=sqlalchemy.NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def _translated() -> Any:
    from alembic.util.exc import CommandError

    try:
        yield
    except sqlalchemy.exc.OperationalError as error:
        raise DatabaseUnreachableError(f"the database does not answer: {error.orig}") from error
    except (sqlalchemy.exc.SQLAlchemyError, CommandError) as error:
        raise MigrationError(str(error).strip().splitlines()[0]) from error
