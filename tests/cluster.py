"""One embedded Postgres for a whole test run, xdist workers included; each test gets a clone of a migrated template.

`MARQUEE_TEST_CLUSTER` names its home; the process that began the run makes the folder, stops the server, removes it.
"""

import contextlib
import fcntl
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
    home = Path(os.environ.pop(HOME))
    postgres.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    with (home / "tests.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The home folder of the run's Postgres, started and with the template in place."""
    home = Path(os.environ[HOME])
    with _alone(home):
        admin = postgres.ensure(home, durable=False)
        with psycopg.connect(admin) as connection:
            ready = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone()
        if ready is None:
            _execute(admin, f"CREATE DATABASE {TEMPLATE}_new")
            migrate(postgres.dsn(home, f"{TEMPLATE}_new"))
            _execute(admin, f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}")
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
    with _alone(cluster):  # a template cannot be copied twice at once
        _execute(admin, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield postgres.dsn(cluster, name)
    _execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database.open(dsn, connections=4) as database:
        yield database
