"""A store over a local Hub: what the tests of the disk tier share."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loaders.download import Terms
from loaders.fetch import Remote
from loaders.store import Store
from registry.catalog import FileRef, Source
from tests.hub import Hub, Repository

WEIGHTS = os.urandom(1 << 20)
OTHER = os.urandom(1 << 20)
NAME = "unet/model.safetensors"
TERMS = Terms(block_bytes=1 << 16, segment_bytes=1 << 18, connections=3, attempts=3, backoff_seconds=0.01)
OPEN = Source(kind="hub", location="lab/open")


def ref(data: bytes, path: str = NAME) -> FileRef:
    return FileRef(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def local_hub() -> Iterator[Hub]:
    files = {NAME: WEIGHTS, "other.safetensors": OTHER, "config.json": b"{}", "empty.txt": b""}
    server = Hub(
        {
            "lab/open": Repository(files),
            "lab/gated": Repository(files, gated=True, token="hf_in"),
            "lab/private": Repository(files, token="hf_in"),
        }
    ).start()
    yield server
    server.stop()


class Stores:
    """Call it for a store; all are closed at the end of the block."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self._root = root
        self._hub = hub
        self._made: list[Store] = []

    def __call__(self, home: str = "home", token: str | None = None, **options: Any) -> Store:
        remote = Remote(hub_endpoint=self._hub.endpoint, hub_token=token, allow_private=True)
        self._made.append(Store(self._root / home, remote=remote, **({"terms": TERMS} | options)))
        return self._made[-1]

    def close(self) -> None:
        for store in self._made:
            store.close()
