"""The embedded server survives kills, tells a stranger's pid from its own, and names what is wrong with its home."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from registry import postgres
from registry.errors import HomeDamagedError, HomeNotWritableError


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    postgres.stop(tmp_path / "home")


def _answers(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def test_one_home_lives_through_everything_that_happens_to_a_server(home: Path) -> None:
    dsn = postgres.ensure(home, durable=False)
    assert _answers(dsn)
    first = postgres.pid(home)
    assert first is not None

    assert postgres.ensure(home, durable=False) == dsn
    assert postgres.pid(home) == first, "a running server is found, not started again"

    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=5)
    assert postgres.pid(home) is None
    assert _answers(postgres.ensure(home, durable=False)), "killed, it starts again"

    postgres.stop(home)
    assert postgres.pid(home) is None
    stranger = home / "postgres" / "data" / "postmaster.pid"
    stranger.write_text(f"{os.getpid()}\n{stranger.parent}\n0\n5432\n\n\n\nready\n")
    assert postgres.pid(home) is None, "a living process that is no Postgres of this folder is not believed"
    assert _answers(postgres.ensure(home, durable=False))


def _without_version(data: Path) -> None:
    (data / "PG_VERSION").unlink()


def _of_another_release(data: Path) -> None:
    (data / "PG_VERSION").write_text("12\n")


def _without_control(data: Path) -> None:
    (data / "global").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_version, "PG_VERSION is missing"),
        (_of_another_release, "it was made by Postgres 12, this is 18"),
        (_without_control, "global/pg_control is missing"),
    ],
)
def test_a_damaged_home_is_named(home: Path, damage: Callable[[Path], None], reason: str) -> None:
    data = home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    damage(data)
    with pytest.raises(HomeDamagedError) as caught:
        postgres.ensure(home)
    assert str(caught.value) == f"the database in {data} is damaged: {reason}"


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    with pytest.raises(HomeNotWritableError):
        postgres.ensure(tmp_path / "home")
