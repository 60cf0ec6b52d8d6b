"""kill -9 in the middle of `catalog apply`, of an upload and of a validation: nothing is half done, and all goes on.

Real processes. Where one is caught is no matter of luck: a lock on a table, or a server that stops sending, holds it.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import psycopg
import pytest
import safetensors.numpy

from registry import export, keys, validation
from registry.database import Database
from registry.reading import Place
from tests import admin
from tests.admin import LAB
from tests.product import ROOT, free_port

WITHIN_SECONDS = 150.0  # a busy machine imports slowly

pytestmark = pytest.mark.timeout(400)


def _spawn(dsn: str, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MARQUEE_")}
    env = plain | {"MARQUEE_DATABASE_URL": dsn, "MARQUEE_HUB_ENDPOINT": "http://127.0.0.1:9"} | environment
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _until(reached: Callable[[], Any], process: "subprocess.Popen[bytes]") -> Any:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not (found := reached()):
        assert process.poll() is None, "it ended before it was caught"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


@contextlib.contextmanager
def _locked(dsn: str, table: str) -> Iterator[Callable[[], bool]]:
    """Nobody writes the table meanwhile; yields whether somebody waits to."""
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        holder.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        query = "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
        yield lambda: watcher.execute(query, [table]).fetchone()[0] > 0
        holder.rollback()


# catalog apply


@pytest.mark.parametrize("table", ["variants", "adapter_versions", "changes"])
def test_an_apply_that_is_killed_changes_nothing_and_can_be_repeated(
    dsn: str, table: str, toys: Path, tmp_path: Path
) -> None:
    (tmp_path / "catalog.yaml").write_text(toys.read_text())
    for folder in ("toys", "toys-late", "toys-bent"):
        (tmp_path / folder).symlink_to(toys.parent / folder)
    command = ("-m", "router.cli", "catalog", "apply", "--file", str(tmp_path / "catalog.yaml"))
    before = asyncio.run(_exported(dsn))
    with _locked(dsn, table) as waits:
        process = _spawn(dsn, *command)
        _until(waits, process)
        _kill(process)
    assert asyncio.run(_exported(dsn)) == before
    assert _spawn(dsn, *command).wait(WITHIN_SECONDS) == 0
    after = asyncio.run(_exported(dsn))
    assert all(name in after for name in ("acme/toys:", "acme/toys/late:", "acme/toys-bent:"))
    assert _count(dsn, "adapter_releases") == 1
    assert _spawn(dsn, *command).wait(WITHIN_SECONDS) == 0
    assert (asyncio.run(_exported(dsn)), _count(dsn, "adapter_releases")) == (after, 1)


async def _exported(dsn: str) -> str:
    async with Database.open(dsn, connections=1) as db:
        return await export.export(db)


def _count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# uploads


def _weights(file: Path, megabytes: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({"w": np.random.default_rng(1).random((megabytes, 1 << 17))}, file)
    return file


class Gateway:
    """A gateway process on a port of its own, started again at the same place."""

    def __init__(self, dsn: str, home: Path) -> None:
        self._port = free_port()
        self._dsn, self._home = dsn, home
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        environment = {"MARQUEE_HOME": str(self._home), "MARQUEE_PORT": str(self._port)}
        self.process = _spawn(self._dsn, "-m", "router.gateway", **environment)
        _until(self._serves, self.process)

    def _serves(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200
        return False


@pytest.fixture
def gateway(dsn: str, tmp_path: Path) -> Iterator[Gateway]:
    one = Gateway(dsn, tmp_path / "home")
    yield one
    _kill(one.process)


def test_an_upload_goes_on_after_either_side_was_killed(dsn: str, gateway: Gateway, tmp_path: Path) -> None:
    token = asyncio.run(_key(dsn))
    file = _weights(tmp_path / "lora" / "w.safetensors", 48)
    content = file.read_bytes()
    announced = {"path": file.name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with httpx.Client(base_url=f"{gateway.url}/v1/admin", trust_env=False, timeout=60) as http:
        http.headers.update({"authorization": f"Key {token}", "idempotency-key": "one"})
        upload = http.post("/uploads", json={"files": [announced]}).json()
        place = f"/uploads/{upload['id']}/files?path={file.name}"
        part = tmp_path / "home" / "uploads" / upload["id"] / f"{file.name}.part"

        def slowly() -> Iterator[bytes]:
            for begin in range(0, len(content), 1 << 20):
                if begin == 8 << 20:
                    _until(lambda: part.exists() and part.stat().st_size > 0, gateway.process)
                    _kill(gateway.process)
                yield content[begin : begin + (1 << 20)]

        with pytest.raises(httpx.TransportError):
            http.put(place, content=slowly())
        gateway.start()
        seen = http.get(f"/uploads/{upload['id']}").json()["files"][0]
        assert (seen["verified"], 0 < seen["received_bytes"] <= 9 << 20) == (False, True)
        assert part.read_bytes() == content[: seen["received_bytes"]]

        command = ("-m", "router.cli", "publish", "--url", gateway.url, "--key", token, "upload", str(file))
        client = _spawn(dsn, *command, "--resume", upload["id"])
        held = seen["received_bytes"]
        _until(lambda: not part.exists() or part.stat().st_size > held, client)
        _kill(client)
        assert _spawn(dsn, *command, "--resume", upload["id"]).wait(WITHIN_SECONDS) == 0
        done = http.get(f"/uploads/{upload['id']}").json()
        assert (done["complete"], done["files"][0]["received_bytes"]) == (True, len(content))
        assert (tmp_path / "home" / "uploads" / upload["id"] / file.name).read_bytes() == content


async def _key(dsn: str) -> str:
    async with Database.open(dsn, connections=1) as db:
        return (await keys.create(db, "acme", LAB)).token


# validation

VALIDATE = """
import asyncio, sys
from pathlib import Path
from registry import validation
from registry.database import Database
from registry.reading import Place

async def main(dsn, home):
    async with Database.open(dsn, connections=2) as db:
        await validation.validate(db, Place(home=Path(home), allow_private=True), "k", "acme/toys", 1)

asyncio.run(main(*sys.argv[1:]))
"""


class Stalling(ThreadingHTTPServer):
    """A folder over HTTP that stops in the middle of the weights until it may go on."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.folder = folder
        self.stalled, self.may_go_on = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/toys"


class _Files(BaseHTTPRequestHandler):
    server: Stalling

    def do_GET(self) -> None:
        file = self.server.folder / self.path.removeprefix("/toys/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        whole = "Range" not in self.headers
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[:100])
            if whole and file.suffix == ".safetensors" and not self.server.may_go_on.is_set():
                self.server.stalled.set()
                self.server.may_go_on.wait(WITHIN_SECONDS)
            self.wfile.write(content[100:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("where", ["reading", "storing"])
async def test_a_validation_that_is_killed_can_be_repeated(
    db: Database, where: str, toys: Path, tmp_path: Path
) -> None:
    server = Stalling(toys.parent / "toys")
    async with admin.opened(db, tmp_path / "home", allow_private=True) as office:
        lab = await office.lab("acme")
        await lab.post("/models", {"name": "acme/toys"})
        variant = {"slug": "acme/toys", "model": "acme/toys", "task": "t", "input_schema": {"type": "object"}}
        await lab.post("/variants", variant)
        source = {"kind": "url", "location": server.url}
        await lab.post("/variants/acme~toys/versions", {"source": source})
        before = await _version(lab)
        process = None
        if where == "reading":
            process = _spawn(db.dsn, "-c", VALIDATE, db.dsn, str(tmp_path / "home"))
            await asyncio.to_thread(_until, server.stalled.is_set, process)
            _kill(process)
            server.may_go_on.set()
        else:
            server.may_go_on.set()
            with _locked(db.dsn, "version_components") as waits:
                process = _spawn(db.dsn, "-c", VALIDATE, db.dsn, str(tmp_path / "home"))
                await asyncio.to_thread(_until, waits, process)
                _kill(process)
        left = await _version(lab)
        assert (left["state"], before["state"], left.get("digest")) == ("validating", "draft", None)
        refused = await lab.ask(
            "POST", "/variants/acme~toys/releases", {"shares": [{"version": 1, "percent": 100}]}
        )
        assert refused.status_code == 409
        place = Place(home=tmp_path / "home", allow_private=True)
        report = await _validated_when_free(db, place)
        assert (report.error, report.components) == (None, 4)
        done = await _version(lab)
        assert (done["state"], done["source"]) == ("validated", source)
    server.shutdown()
    server.server_close()


async def _validated_when_free(db: Database, place: Place) -> validation.Report:
    """Postgres lets go of a dead process's lock a moment after it died."""
    for _ in range(200):
        with contextlib.suppress(validation.IllegalMoveError):
            return await validation.validate(db, place, "k", "acme/toys", 1)
        await asyncio.sleep(0.05)
    raise AssertionError("still locked")


async def _version(lab: Any) -> Any:
    return msgspec.to_builtins(await lab.get("/variants/acme~toys/versions/1"))
