"""A host meets the registry's hostile corpus: nothing of it reaches memory, from a folder, a download or under the
reader; every refusal is `weights_damaged` and quotes its reason.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loaders import items, layout, reader
from loaders.device import Arena, Device
from loaders.errors import NotHereError, WeightsDamagedError
from loaders.fetch import Remote
from loaders.headers import read_header
from loaders.interest import Interest
from loaders.store import Store
from registry.catalog import FileRef, Source
from tests.hub import Hub, Repository
from tests.unit.test_weights import CORPUS

HONEST = {"a": {"dtype": "F32", "shape": [1 << 16], "data_offsets": [0, 1 << 18]}}
SHIFTED = {"b": {"dtype": "F32", "shape": [1 << 16], "data_offsets": [0, 1 << 18]}}
CASES = [pytest.param(content, id=words) for words, content, _ in CORPUS]


def written(path: Path, header: object, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture
def honest(tmp_path: Path) -> Path:
    return written(tmp_path / "model.safetensors", HONEST, os.urandom(1 << 18))


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len({hashlib.sha256(content).digest() for _, content, _ in CORPUS}) >= 60


@pytest.mark.parametrize("content", CASES)
def test_a_host_refuses_what_the_registry_refuses(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsDamagedError, match=r"model\.safetensors: ."):
        read_header(path)


@pytest.mark.parametrize("content", CASES)
def test_a_file_that_becomes_hostile_after_its_check_is_refused(honest: Path, content: bytes) -> None:
    plan = layout.lay_out(reader.read_headers([honest]))
    honest.write_bytes(content)
    with pytest.raises(WeightsDamagedError):
        reader.read([honest], plan, Device("cpu"))


def become_another(path: Path) -> None:
    written(path, SHIFTED, bytes(1 << 18))


def swap_by_rename(path: Path) -> None:
    written(path.with_suffix(".new"), HONEST, bytes(1 << 18)).replace(path)


def write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"changed!")


def lose_its_end(path: Path) -> None:
    os.truncate(path, 1 << 12)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"PK\x03\x04")


@pytest.mark.parametrize("cached", [0.0, 1.0])
@pytest.mark.parametrize("change", [become_another, swap_by_rename, write_in_place, lose_its_end, grow])
def test_a_file_that_changes_under_the_reader_is_refused(
    honest: Path, monkeypatch: pytest.MonkeyPatch, cached: float, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(reader, "cached_share", lambda path: cached)
    os.utime(honest, (1, 1))  # so that a change within the clock's step shows
    plan = layout.lay_out(reader.read_headers([honest]))
    with pytest.raises(WeightsDamagedError):
        reader.read([honest], plan, Device("cpu"), on_block=lambda _: change(honest))


@pytest.mark.parametrize("stored", ["F8_E8M0", "F4", "F6_E2M3"])
def test_a_dtype_that_torch_cannot_hold_is_refused(tmp_path: Path, stored: str) -> None:
    bits = {"F8_E8M0": 8, "F4": 4, "F6_E2M3": 6}[stored]
    header = {"a": {"dtype": stored, "shape": [64], "data_offsets": [0, 8 * bits]}}
    with pytest.raises(WeightsDamagedError, match=stored):
        read_header(written(tmp_path / "model.safetensors", header, bytes(8 * bits)))


def test_a_blob_that_changes_while_it_is_read_is_fetched_and_read_again(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = honest.read_bytes()
    hub = Hub({"lab/open": Repository({"model.safetensors": content})}).start()
    store = Store(tmp_path / "home", remote=Remote(hub_endpoint=hub.endpoint))
    file = FileRef(
        path="model.safetensors", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    source, read = Source(kind="hub", location="lab/open"), reader.read
    harmed: list[Path] = []

    def harmed_before(paths: list[Path], *rest: Any, **named: Any) -> Arena:
        if not harmed:  # after the store vouched for it, before the reader looks: same size, same header
            harmed.append(paths[0])
            write_in_place(paths[0])
        return read(paths, *rest, **named)

    monkeypatch.setattr(reader, "read", harmed_before)
    store.ensure(file, source)
    plan = layout.lay_out(reader.read_headers([store.here(file)]))
    with pytest.raises(NotHereError):
        items._read(store, [file], plan, Device("cpu"), Interest(), name="it")
    store.ensure(file, source)
    arena = items._read(store, [file], plan, Device("cpu"), Interest(), name="it")
    assert bytes(arena.storage.numpy().data) == content[-(1 << 18) :]
    assert hub.gets(file.path) == 2
    store.close()
    hub.stop()
