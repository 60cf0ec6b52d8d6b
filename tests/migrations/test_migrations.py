"""The schema that the steps make is the one `tables` declares; steps go down as well as up, one after another."""

import re
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import migrations
from registry import ledger_tables as _ledger_tables  # noqa: F401  adds the ledger to the metadata
from registry.database import alchemy_url, check_schema, migrate, revert
from registry.errors import SchemaOutdatedError, SettingsError
from registry.tables import metadata
from router import tables as _queue_tables  # noqa: F401  adds the queue to the metadata

VERSIONS = sorted(path.name for path in (Path(migrations.__file__).parent / "versions").glob("[0-9]*.py"))


def _is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Partitions are made while the product runs; the declarations know only their parents."""
    return not (kind == "table" and name is not None and re.search(r"_(default|\d{8})$", name))


def _differences(dsn: str) -> list[object]:
    engine = sqlalchemy.create_engine(alchemy_url(dsn), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        options = {"include_name": _is_ours, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_migrated_schema_equals_the_declared_one(dsn: str) -> None:
    assert _differences(dsn) == []


def test_steps_go_down_to_nothing_and_up_again(dsn: str) -> None:
    revert(dsn, "base")
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname = 'public' AND relkind IN ('r', 'p') ORDER BY 1"
        ).fetchall()
    assert left == [("alembic_version",)]
    migrate(dsn)
    assert _differences(dsn) == []


def test_migrating_twice_changes_nothing(dsn: str) -> None:
    migrate(dsn)
    assert _differences(dsn) == []


def test_a_gateway_is_told_of_missing_migrations_and_not_of_newer_ones(dsn: str) -> None:
    newest, before = (name.split("_")[0] for name in reversed(VERSIONS[-2:]))
    check_schema(dsn)
    revert(dsn, before)
    with pytest.raises(SchemaOutdatedError) as outdated:
        check_schema(dsn)
    assert (outdated.value.current, outdated.value.needed) == (before, newest)
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    check_schema(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM alembic_version")
    with pytest.raises(SchemaOutdatedError, match="the database is empty"):
        check_schema(dsn)


@pytest.mark.parametrize(
    "dsn", ["nonsense", "", "mysql://a:secret@b/c", "postgresql://a:secret@b:port/c", "host=db dbname=x"]
)
def test_what_is_no_databases_address_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(SettingsError) as refused:
        alchemy_url(dsn)
    assert str(refused.value) == "MARQUEE_DATABASE_URL: not like postgresql://user:password@host/database"


def test_file_names_say_number_phase_and_subject() -> None:
    assert [name[:4] for name in VERSIONS] == [f"{number:04}" for number in range(1, len(VERSIONS) + 1)]
    assert [name for name in VERSIONS if not re.fullmatch(r"\d{4}_(pre|post)_[a-z_]+\.py", name)] == []
