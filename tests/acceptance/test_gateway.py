"""`marquee gateway` by itself: it refuses in one line what it cannot serve, and serves where the database is ready."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from registry import database
from tests.product import UP_WITHIN_SECONDS, free_port

pytestmark = pytest.mark.timeout(400)


def _gateway(dsn: str, home: Path, port: int) -> "subprocess.Popen[str]":
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MARQUEE_")}
    command = [sys.executable, "-P", "-m", "router.cli", "gateway", "--home", str(home), "--port", str(port)]
    environment = plain | {"MARQUEE_DATABASE_URL": dsn, "MARQUEE_HUB_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def test_a_database_without_this_releases_migrations_is_refused(dsn: str, tmp_path: Path) -> None:
    database.revert(dsn, "base")
    process = _gateway(dsn, tmp_path, free_port())
    _, said = process.communicate(timeout=UP_WITHIN_SECONDS)
    assert process.returncode == 1
    assert said.startswith("marquee: the database is empty, this release needs ")
    assert said.endswith(": run `marquee migrate` first\n")


def test_it_serves_and_stops(dsn: str, tmp_path: Path) -> None:
    port = free_port()
    process = _gateway(dsn, tmp_path, port)
    deadline = time.monotonic() + UP_WITHIN_SECONDS
    health: dict[str, object] = {}
    while health.get("dispatcher") != "active":
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
        try:
            health = httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).json()
        except httpx.HTTPError:
            continue
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert "Traceback" not in log
    assert process.returncode in {0, -signal.SIGTERM}  # the server hands the signal on once all has ended
