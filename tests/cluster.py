"""An embedded Postgres for each worker of a test run; each test gets a clone of a migrated template.

Workers share none: a transaction that is open in any database of a server holds back what `rollups.fold` may take.
`MARQUEE_TEST_CLUSTER` names the folder of their homes; the process that began the run makes it, stops the servers,
and removes it.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from registry import postgres
from registry.database import Database, migrate

HOME = "MARQUEE_TEST_CLUSTER"
TEMPLATE = "template_marquee"


def pytest_configure(config: pytest.Config) -> None:
    if HOME not in os.environ:
        os.environ[HOME] = tempfile.mkdtemp(prefix="marquee-tests-")
        config.add_cleanup(_remove)


def _remove() -> None:
    homes = Path(os.environ.pop(HOME))
    for home in homes.iterdir():
        postgres.stop(home)
    shutil.rmtree(homes, ignore_errors=True)


def _execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The home folder of this worker's Postgres, started and with the template in place."""
    home = Path(os.environ[HOME]) / os.environ.get("PYTEST_XDIST_WORKER", "only")
    home.mkdir()
    admin = postgres.ensure(home, durable=False)
    _execute(admin, f"CREATE DATABASE {TEMPLATE}")
    migrate(postgres.dsn(home, TEMPLATE))
    return home


@pytest.fixture
def empty_dsn(cluster: Path) -> Iterator[str]:
    """A database without any tables."""
    yield from _fresh(cluster, "template1")


@pytest.fixture
def dsn(cluster: Path) -> Iterator[str]:
    """A migrated database of this test's own."""
    yield from _fresh(cluster, TEMPLATE)


@pytest.fixture(scope="module")
def module_dsn(cluster: Path) -> Iterator[str]:
    """A migrated database that the tests of one file share."""
    yield from _fresh(cluster, TEMPLATE)


def _fresh(cluster: Path, template: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    admin = postgres.dsn(cluster)
    _execute(admin, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield postgres.dsn(cluster, name)
    _execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database.open(dsn, connections=4) as database:
        yield database
