"""Weights that are no folder per component: one file in the trainer's layout, 8-bit floats, GGUF. Each gives the
picture of the same weights stored plainly; what cannot be loaded is named.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from loaders import adapters, protocol
from loaders.pipelines import packings
from registry import folders
from registry.catalog import Manifest
from registry.errors import FolderError
from tests import architectures, ldm
from tests.bench import Bench

UNET = "unet/diffusion_pytorch_model.safetensors"
SMALL = {"image_size": {"width": 32, "height": 32}}  # half precision is slow on a CPU


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(tmp_path_factory.mktemp("tiny") / "sd15", "sd15", seed=1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home", 1 << 30)
    yield made
    made.engine.close()
    made.engine.check_integrity()


def copied(
    folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    """The pipeline with other UNet weights."""
    shutil.copytree(folder, target)
    safetensors.torch.save_file(change(safetensors.torch.load_file(folder / UNET)), target / UNET)
    return target


def refusal(bench: Bench, manifest: Manifest) -> tuple[str, str, str]:
    bench.submit(manifest)
    outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed), outcome
    return outcome.kind, outcome.error, outcome.message


def test_one_file_in_the_trainers_layout_gives_the_same_picture(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    plain = folders.read_pipeline(folder)
    packed = folders.read_pipeline(ldm.repack(folder, tmp_path / "packed"))
    assert {file.path for part in packed.components for file in part.weights} == {ldm.NAME}
    assert packed.architecture == plain.architecture
    assert bench.picture(packed) == bench.picture(plain)


def assert_bent_alike(bench: Bench, packed: Manifest, plain: Manifest, base: Path) -> None:
    """A LoRA changes packed weights as it changes the same weights stored plainly."""
    file = architectures.write_lora(bench.home / "lora.safetensors", base, seed=5, rank=4)
    uses = {adapters.describe(file, architecture=packed.architecture): 0.75}
    bent = bench.picture(packed, uses, **SMALL)
    assert bent == bench.picture(plain, uses, **SMALL)
    assert bent != bench.picture(packed, **SMALL)


def to_float8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}


def rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.float8_e4m3fn).to(torch.bfloat16) for name, tensor in tensors.items()}


def test_8_bit_floats_are_computed_with_in_16_bits(bench: Bench, tmp_path: Path) -> None:
    half = architectures.write(tmp_path / "half", "sd15", seed=1, dtype=torch.bfloat16)
    small = folders.read_pipeline(copied(half, tmp_path / "float8", to_float8))
    wide = folders.read_pipeline(copied(half, tmp_path / "rounded", rounded))
    dtypes = {part.name: part.dtype for part in small.components}
    assert dtypes == {"text_encoder": "bfloat16", "unet": "float8_e4m3fn", "vae": "bfloat16"}
    assert bench.picture(small, **SMALL) == bench.picture(wide, **SMALL)
    assert_bent_alike(bench, small, wide, half)


def gguf(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Written by the format's own package; what a reader has to get back."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    writer, back = GGUFWriter(file, "tiny"), {}
    for name, tensor in tensors.items():
        is_matrix = tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        kind = GGMLQuantizationType.Q8_0 if is_matrix else GGMLQuantizationType.F32
        packed = quants.quantize(tensor.float().numpy(), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        back[name] = torch.from_numpy(quants.dequantize(packed, kind).copy()).reshape(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return back


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(tmp_path_factory.mktemp("tiny") / "flux", "flux", seed=1, dtype=torch.bfloat16)


TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def with_gguf(flux: Path, target: Path) -> tuple[Path, Path]:
    """The transformer quantized, and the plain pipeline of what that holds."""
    tensors = safetensors.torch.load_file(flux / TRANSFORMER)
    shutil.copytree(flux, target / "gguf")
    shutil.copytree(flux, target / "plain")
    (target / "gguf" / TRANSFORMER).unlink()
    back = gguf(target / "gguf/transformer/tiny-Q8_0.gguf", tensors)
    safetensors.torch.save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in back.items()}, target / "plain" / TRANSFORMER
    )
    return target / "gguf", target / "plain"


def test_gguf_gives_the_picture_of_what_it_holds(bench: Bench, flux: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    quantized, plain = with_gguf(flux, tmp_path)
    packed, wide = folders.read_pipeline(quantized), folders.read_pipeline(plain)
    assert bench.picture(packed, **SMALL) == bench.picture(wide, **SMALL)
    assert_bent_alike(bench, packed, wide, flux)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"GGUF", id="cut off"),
        pytest.param(b"\x80\x04\x95" + bytes(64), id="a pickle"),
        pytest.param(b"GGUF\x03\0\0\0" + b"\xff" * 64, id="counts without end"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_file_that_only_claims_to_be_gguf_is_damaged(
    bench: Bench, flux: Path, tmp_path: Path, content: bytes
) -> None:
    pytest.importorskip("gguf")
    folder = tmp_path / "hostile"
    shutil.copytree(flux, folder)
    (folder / TRANSFORMER).unlink()
    (folder / "transformer/tiny.gguf").write_bytes(content)
    assert refusal(bench, folders.read_pipeline(folder))[:2] == ("model", "weights_damaged")


def test_a_host_without_memory_blames_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It said that the publisher's weights were damaged, which no other host tries again."""
    quants = pytest.importorskip("gguf").quants
    gguf(tmp_path / "tiny.gguf", {"weight": torch.ones(4, 32)})

    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(quants, "dequantize", full)
    with pytest.raises(MemoryError):
        packings._unquantized(tmp_path / "tiny.gguf")


def test_scaled_8_bit_weights_are_refused(bench: Bench, folder: Path, tmp_path: Path) -> None:
    def scaled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**to_float8(tensors), "conv_in.scale_weight": torch.ones(())}

    kind, error, message = refusal(bench, folders.read_pipeline(copied(folder, tmp_path / "scaled", scaled)))
    assert (kind, error) == ("model", "architecture_unknown")
    assert "scaled 8-bit ones (conv_in.scale_weight)" in message


def test_another_librarys_quantization_is_named(bench: Bench, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "quantized"
    shutil.copytree(folder, target)
    config: dict[str, Any] = json.loads((target / "unet/config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (target / "unet/config.json").write_text(json.dumps(config))
    kind, error, message = refusal(bench, folders.read_pipeline(target))
    assert (kind, error) == ("model", "architecture_unknown")
    assert message.startswith("unet is quantized by bitsandbytes")


def test_one_file_that_holds_something_else_is_named(bench: Bench, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "other"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    safetensors.torch.save_file({"something.weight": torch.ones(4)}, target / "other.safetensors")
    assert refusal(bench, folders.read_pipeline(target))[:2] == ("model", "architecture_unknown")


def test_a_pickle_beside_the_configs_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "pickled"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    (target / "checkpoint.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(FolderError, match="no safetensors"):
        folders.read_pipeline(target)
