"""Weights kept 8 bits wide: the arithmetic of the widened ones to the bit, with LoRAs too, in about half the room."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from loaders import adapters, protocol, ways
from loaders.pipelines import modules, narrow
from registry import folders
from registry.catalog import Manifest
from tests import architectures
from tests.bench import Bench

FILES = {
    "sd15": "unet/diffusion_pytorch_model.safetensors",
    "flux": "transformer/diffusion_pytorch_model.safetensors",
}
STORAGE = "float8_e4m3fn"
WIDE = {"dtype": "float32"}  # what is computed in: CPUs are slow with 16 bits
NARROW = {**WIDE, "storage": STORAGE}
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home", 1 << 30)
    yield made
    made.engine.close()
    made.engine.check_integrity()


@pytest.fixture(scope="module", params=FILES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    family = str(request.param)
    folder = tmp_path_factory.mktemp("tiny") / family
    return family, architectures.write(folder, family, seed=1)


def names(family: str, folder: Path) -> frozenset[str]:
    """The denoiser's weights that may be narrow."""
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    denoiser = pipeline.components[FILES[family].partition("/")[0]]
    return narrow.names(modules.Slots(denoiser, torch.device("cpu")))


def changed(family: str, folder: Path, target: Path, change: Callable[[str, torch.Tensor], Any]) -> Manifest:
    shutil.copytree(folder, target)
    tensors = safetensors.torch.load_file(folder / FILES[family])
    made = {name: change(name, tensor) for name, tensor in tensors.items()}
    safetensors.torch.save_file(made, target / FILES[family])
    return folders.read_pipeline(target)


def device_bytes(bench: Bench, manifest: Manifest, role: str) -> int:
    digest = next(part.digest for part in manifest.components if part.name == role)
    return next(h.size_bytes for h in bench.engine.held() if (h.digest, h.tier) == (digest, "device"))


@pytest.mark.parametrize("way", ["kept", "streamed"])
def test_what_is_stored_in_8_bits_is_held_so_and_makes_the_same(
    bench: Bench, base: tuple[str, Path], tmp_path: Path, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "choose", lambda *_: ways.Choice(way=way, reason="a test", seconds={}))
    family, folder = base
    small = changed(family, folder, tmp_path / "small", lambda _, tensor: tensor.to(torch.float8_e4m3fn))
    lora = architectures.write_lora(tmp_path / "lora.safetensors", folder, seed=5)
    uses = {adapters.describe(lora, architecture=small.architecture): 0.75}
    bench.defaults = WIDE
    wide = [bench.picture(small), bench.picture(small, uses)]
    assert wide[0] != wide[1]
    held = Bench(tmp_path / "narrow", 1 << 30)
    held.defaults = NARROW
    try:
        runs = [held.run(small), held.run(small, uses), held.run(small)]
    finally:
        held.engine.close()
    assert [run.outputs[0] for run in runs] == [*wide, wide[0]]
    assert [run.done.how.get("storage") for run in runs] == [STORAGE] * 3
    role = FILES[family].partition("/")[0]
    assert device_bytes(held, small, role) < 0.5 * device_bytes(bench, small, role)


def test_what_is_stored_wide_is_rounded_once(bench: Bench, base: tuple[str, Path], tmp_path: Path) -> None:
    family, folder = base
    may_be = names(family, folder)

    def rounded(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.float8_e4m3fn).to(torch.float32) if name in may_be else tensor

    plain = folders.read_pipeline(folder)
    expected = bench.picture(changed(family, folder, tmp_path / "rounded", rounded))
    untouched = bench.picture(plain)
    bench.defaults = NARROW
    assert bench.picture(plain) == expected != untouched
    bench.defaults = WIDE
    assert bench.picture(plain) == untouched


@pytest.mark.parametrize(
    ("family", "narrow_one", "wide_one"),
    [
        ("flux", "transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.norm1.linear.weight"),
        ("sd15", "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.norm1.weight"),
    ],
)
def test_norms_and_biases_stay_wide(tmp_path: Path, family: str, narrow_one: str, wide_one: str) -> None:
    found = names(family, architectures.write(tmp_path / family, family, seed=1))
    assert (narrow_one in found, wide_one in found, any(name.endswith("bias") for name in found)) == (
        True,
        False,
        False,
    )


def test_only_the_denoiser_is_narrowed() -> None:
    parts = architectures.FAMILIES["sd15"]().components
    found = {
        role: bool(narrow.names(modules.Slots(part, torch.device("cpu"))))
        for role, part in parts.items()
        if isinstance(part, torch.nn.Module)
    }
    assert found == {"text_encoder": False, "unet": True, "vae": False}


def test_an_unknown_storage_is_named(bench: Bench, base: tuple[str, Path]) -> None:
    bench.defaults = {"storage": "int3"}
    bench.submit(folders.read_pipeline(base[1]))
    outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.error, outcome.message) == (
        "architecture_unknown",
        "no storage is called 'int3'; there are: float8_e4m3fn, float8_e5m2",
    )
