"""Reading safetensors: every way gives the library's bytes; a file that is not what it was is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from loaders import blocks, layout, reader
from loaders.device import Device
from loaders.errors import WeightsDamagedError

SHAPES: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "large": ((1200, 900), torch.float32),
    "odd": ((3,), torch.bfloat16),
    "bytes": ((7,), torch.uint8),
    "half": ((129, 65), torch.float16),
    "empty": ((0, 4), torch.float32),
    "scalar": ((), torch.float32),
    "whole": ((5, 5), torch.int64),
    "norm.weight": ((2048,), torch.bfloat16),
}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 50).to(dtype)
        for name, (shape, dtype) in SHAPES.items()
    }


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(2):
        named = {f"{number}.{name}": tensor for name, tensor in tensors(number).items()}
        paths.append(tmp_path / f"model-{number}.safetensors")
        safetensors.torch.save_file(named, paths[-1], metadata={"n": "x" * number})
    return paths


def expected(paths: list[Path]) -> dict[str, torch.Tensor]:
    return {name: tensor for path in paths for name, tensor in safetensors.torch.load_file(path).items()}


def make_cold(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def same(read: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return read.keys() == wanted.keys() and all(
        read[name].dtype == wanted[name].dtype and torch.equal(read[name], wanted[name]) for name in wanted
    )


@pytest.mark.parametrize("cached", [0.0, 1.0])
@pytest.mark.parametrize("block_bytes", [blocks.BLOCK_BYTES, 5000])
def test_every_way_gives_the_same_bytes(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch, cached: float, block_bytes: int
) -> None:
    wanted = expected(shards)
    monkeypatch.setattr(reader, "cut", lambda plan, most: blocks.cut(plan, min(most, block_bytes)))
    monkeypatch.setattr(reader, "cached_share", lambda path: cached)
    plan = layout.lay_out(reader.read_headers(shards))
    told: list[blocks.Block] = []
    arena = reader.read(shards, plan, Device("cpu"), on_block=told.append)
    assert same(dict(arena.views), wanted)
    assert sum(block.size_bytes for block in told) == sum(tensor.nbytes for tensor in wanted.values())
    assert sum(block.tensors for block in told) == sum(bool(tensor.nbytes) for tensor in wanted.values())
    assert all(view.data_ptr() % 64 == 0 for view in arena.views.values())


@pytest.mark.parametrize("cached", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("block_bytes", [blocks.BLOCK_BYTES, 5000])
def test_dtypes_are_cast_on_the_way(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch, cached: float, dtype: str, block_bytes: int
) -> None:
    monkeypatch.setattr(reader, "cut", lambda plan, most: blocks.cut(plan, min(most, block_bytes)))
    monkeypatch.setattr(reader, "cached_share", lambda path: cached)
    chosen = layout.casting(dtype, ["norm"])
    plan = layout.lay_out(reader.read_headers(shards), dtype_of=chosen)
    wanted = {
        name: tensor.to(getattr(torch, chosen(name, str(tensor.dtype).removeprefix("torch."))))
        for name, tensor in expected(shards).items()
    }
    assert same(dict(reader.read(shards, plan, Device("cpu")).views), wanted)


def test_what_nobody_wants_is_not_read(shards: list[Path]) -> None:
    plan = layout.lay_out(reader.read_headers(shards), wanted=lambda name: "large" not in name)
    told: list[blocks.Block] = []
    arena = reader.read(shards, plan, Device("cpu"), on_block=told.append)
    wanted = {name: tensor for name, tensor in expected(shards).items() if "large" not in name}
    assert same(dict(arena.views), wanted)
    assert sum(block.size_bytes for block in told) == sum(tensor.nbytes for tensor in wanted.values())
    assert sum(block.tensors for block in told) == sum(bool(tensor.nbytes) for tensor in wanted.values())


def test_the_page_cache_is_asked_without_filling_it(tmp_path: Path) -> None:
    path = Path(os.environ.get("TMPDIR", "/var/tmp")) / f"marquee-{os.getpid()}.bin"
    try:
        path.write_bytes(os.urandom(4 << 20))
        assert reader.cached_share(path) == 1.0
        make_cold(path)
        before = reader.cached_share(path)
        assert reader.cached_share(path) == before
        path.read_bytes()
        assert reader.cached_share(path) == 1.0
        if before == 1.0:
            pytest.skip("this file system keeps its pages")
        assert before < 0.1
    finally:
        path.unlink()


def replaced(path: Path, plan: layout.Layout) -> None:
    safetensors.torch.save_file({"another": torch.zeros(3)}, path)


def cut_short(path: Path, plan: layout.Layout) -> None:
    os.truncate(path, path.stat().st_size - 4)


def rewritten(path: Path, plan: layout.Layout) -> None:
    """Same header, same size, other bytes, while it is read."""
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\1")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("harm", [replaced, cut_short, Path.unlink])
def test_a_file_that_changed_since_its_header_was_checked_is_refused(
    shards: list[Path], harm: Callable[..., Any]
) -> None:
    plan = layout.lay_out(reader.read_headers(shards))
    harm(shards[1], *([] if harm is Path.unlink else [plan]))
    with pytest.raises(WeightsDamagedError):
        reader.read(shards, plan, Device("cpu"))


@pytest.mark.parametrize("cached", [0.0, 1.0])
@pytest.mark.parametrize("harm", [rewritten, cut_short])
def test_a_file_that_changes_under_the_reader_is_refused(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch, cached: float, harm: Callable[..., Any]
) -> None:
    plan = layout.lay_out(reader.read_headers(shards))
    monkeypatch.setattr(reader, "cached_share", lambda path: cached)
    harmed: list[blocks.Block] = []

    def at_the_first_block(block: blocks.Block) -> None:
        if not harmed:
            harmed.append(block)
            harm(shards[1], plan)

    with pytest.raises(WeightsDamagedError):
        reader.read(shards, plan, Device("cpu"), on_block=at_the_first_block)
