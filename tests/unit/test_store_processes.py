"""The store shared by processes of one machine: one of them fetches, and a killed one's part is continued."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, Repository, sha256

ROOT = Path(__file__).parents[2]
WEIGHTS = os.urandom(4 << 20)
BLOCK_BYTES = 1 << 16
CHILD = """
import sys
from pathlib import Path
from loaders.download import Terms
from loaders.fetch import Remote
from loaders.pace import Pace
from loaders.store import Store
from registry.catalog import FileRef, Source

home, endpoint, sha256, size, speed = sys.argv[1:]
terms = Terms(block_bytes=1 << 16, segment_bytes=1 << 18, connections=2)
store = Store(
    Path(home), remote=Remote(hub_endpoint=endpoint), pace=Pace(float(speed) or None), terms=terms
)
file = FileRef(path="model.safetensors", size_bytes=int(size), sha256=sha256)
print(store.ensure(file, Source(kind="hub", location="lab/open")))
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub({"lab/open": Repository({"model.safetensors": WEIGHTS})}).start()
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path: Path, hub: Hub) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def call(bytes_per_second: float = 0) -> "subprocess.Popen[str]":
        arguments = [tmp_path / "home", hub.endpoint, sha256(WEIGHTS), len(WEIGHTS), bytes_per_second]
        command = [sys.executable, "-c", CHILD, *map(str, arguments)]
        children.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield call
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def served_bytes(hub: Hub) -> int:
    ranges = [asked.removeprefix("bytes=").split("-") for _, _, asked in hub.requests if asked]
    return sum(int(stop) - int(start) + 1 for start, stop in ranges)


def test_after_kill_9_what_arrived_is_not_fetched_again(start: Start, hub: Hub, tmp_path: Path) -> None:
    child = start(bytes_per_second=2 << 20)
    blocks = tmp_path / "home/partial" / f"{sha256(WEIGHTS)}.blocks"
    while not (blocks.exists() and blocks.read_bytes().count(1) >= 10):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    arrived = blocks.read_bytes().count(1)
    assert not list((tmp_path / "home/blobs/sha256").glob("*/*"))
    hub.requests.clear()
    path, _ = start().communicate()
    assert Path(path.strip()).read_bytes() == WEIGHTS
    assert served_bytes(hub) == len(WEIGHTS) - arrived * BLOCK_BYTES


def test_processes_that_want_one_blob_fetch_it_once(start: Start, hub: Hub) -> None:
    children = [start(bytes_per_second=8 << 20) for _ in range(3)]
    paths = {child.communicate()[0].strip() for child in children}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == WEIGHTS
    assert served_bytes(hub) == len(WEIGHTS)
