"""Steps go up and down under a database full of rows, while the release before goes on reading and writing it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psycopg
import sqlalchemy

from registry import apply, keys, partitions, store, uploads, usage, writes
from registry.catalog import Caller, FileRef, OrganizationName
from registry.database import Database, alchemy_url, migrate, revert
from router import ids
from router.housekeeping import PARTITIONED
from router.queue import Queue
from router.requests import Request
from tests.integration.conftest import toys  # noqa: F401  the fixture
from tests.integration.test_usage import _record
from tests.migrations.test_migrations import VERSIONS, _differences

NUMBERS = [name[:4] for name in VERSIONS]
BEFORE_AND_AFTER_SECONDS = 0.15
STEPS = 3  # the newest ones; the others were released long ago
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def _populate(dsn: str, catalog: Path) -> store.CatalogRows:
    """Something in every table that has a writer; what has none by now is filled by the readers' own inserts."""
    async with Database.open(dsn, connections=2) as db:
        await apply.apply(db, apply.read_file(catalog))
        key = await keys.create(db, "acme", ["models:publish"])
        caller = Caller(organization=OrganizationName("acme"), key_id=key.id)
        body = uploads.UploadBody(files=(FileRef(path="a.json", size_bytes=2, sha256="0" * 64),))
        async with db.sessions.begin() as session:
            await uploads.create(session, caller, body)

        async def answer(_: Any) -> writes.Answer:
            return writes.Answer(body={"made": True})

        await writes.once(db, caller.organization, "once", "fingerprint", answer)
        async with db.transaction() as connection:
            await partitions.prepare(connection, PARTITIONED, NOW.date(), days=1)
            await usage.record(connection, [_record(NOW)])
        request = Request(
            id=ids.request_id(NOW.timestamp()), organization=caller.organization, key_id=key.id,
            slug="marquee/shapes", version="sha256:v", input={"prompt": "x"}, created_at=NOW,
            webhook_url="https://a.example",
        )  # fmt: skip
        await Queue(db, origin="here").submit(request, taken=False)
        return await store.load_catalog(db)


class Former:
    """The release before, as far as the database sees it: every statement names the columns that it knew."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._tables = _known(dsn)
        self._stop = threading.Event()
        self.rounds = 0
        self.longest_seconds = 0.0
        self.trouble: list[str] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        time.sleep(BEFORE_AND_AFTER_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(BEFORE_AND_AFTER_SECONDS)
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                for table, columns in self._tables.items():
                    for statement in _statements(table, columns):
                        began = time.monotonic()
                        try:
                            connection.execute(statement)
                        except psycopg.Error as error:
                            self.trouble.append(f"{statement}: {error}")
                            self._stop.set()
                        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                self.rounds += 1


def _known(dsn: str) -> dict[str, list[str]]:
    """Tables and their columns, without those that only the database may write."""
    engine = sqlalchemy.create_engine(alchemy_url(dsn), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        found = sqlalchemy.MetaData()
        found.reflect(connection)
    return {
        name: [column.name for column in table.columns if column.identity is None]
        for name, table in found.tables.items()
        if name != "alembic_version" and not name[-8:].isdigit() and not name.endswith("_default")
    }


def _statements(table: str, columns: list[str]) -> Iterator[str]:
    names = ", ".join(f'"{column}"' for column in columns)
    yield f"SELECT {names} FROM {table} LIMIT 20"
    yield f"INSERT INTO {table} ({names}) SELECT {names} FROM {table} LIMIT 1 ON CONFLICT DO NOTHING"
    if table != "changes":  # the history refuses to be rewritten
        same = ", ".join(f'"{column}" = "{column}"' for column in columns)
        yield f"UPDATE {table} SET {same} WHERE ctid = (SELECT ctid FROM {table} LIMIT 1)"


def _counts(dsn: str) -> dict[str, int]:
    """Rows by table; where the database gives the keys, the former release adds some."""
    with psycopg.connect(dsn) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _known(dsn)
        }


def _persistently(step: Any, dsn: str, revision: str) -> None:
    """A step that cannot get its lock gives up and is repeated, as an operator would."""
    for _ in range(3):
        with contextlib.suppress(Exception):
            step(dsn, revision)
            return
    step(dsn, revision)


def test_the_newest_steps_go_up_and_down_while_the_release_before_serves(dsn: str, toys: Path) -> None:  # noqa: F811
    expected = asyncio.run(_populate(dsn, toys))
    for number, below in reversed(list(zip(NUMBERS[1:], NUMBERS[:-1], strict=True))[-STEPS:]):
        revert(dsn, below)
        before = _counts(dsn)
        with Former(dsn) as former:
            _persistently(migrate, dsn, number)
            _persistently(revert, dsn, below)
        assert former.trouble == [], f"{number} breaks the release before it"
        assert former.rounds >= 2
        after = _counts(dsn)
        assert [table for table, count in before.items() if after[table] < count] == [], "rows were lost"
    migrate(dsn)
    assert _differences(dsn) == []
    left = asyncio.run(_catalog(dsn))
    assert (left.models, left.variants, left.versions) == (
        expected.models, expected.variants, expected.versions,
    )  # fmt: skip


def test_adapters_that_the_release_before_pinned_stay_callable(dsn: str, toys: Path) -> None:  # noqa: F811
    """Migration 0013 makes versions and releases of what stood in the adapters' own rows."""
    expected = asyncio.run(_populate(dsn, toys))
    revert(dsn, "0012")
    migrate(dsn)
    left = asyncio.run(_catalog(dsn))
    assert left.adapters == expected.adapters
    assert [(release.variant, release.shares) for release in left.adapter_releases] == [
        (release.variant, release.shares) for release in expected.adapter_releases
    ]
    assert asyncio.run(_planned(dsn, toys)) == ()


async def _planned(dsn: str, catalog: Path) -> Any:
    async with Database.open(dsn, connections=1) as db:
        return await apply.plan(db, apply.read_file(catalog))


async def _catalog(dsn: str) -> store.CatalogRows:
    async with Database.open(dsn, connections=1) as db:
        return await store.load_catalog(db)
