"""Weights in other packings than a folder per component: one file in the trainer's own layout, and GGUF.

Touches torch and diffusers' conversions, one file at a time. Quantized weights are computed back to ordinary ones
here, so that what comes after knows nothing of it: they save disk and network, not memory. No pickle is opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import ArchitectureError, WeightsDamagedError
from registry.folders import GGUF_SUFFIX

if TYPE_CHECKING:
    import torch

UNREADABLE = (
    ValueError,
    LookupError,
    OSError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
)  # of numpy, for strangers' bytes
SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".weight_scale_inv", ".scale_input", ".input_scale")


def refuse_scaled(names: frozenset[str]) -> None:
    """8-bit weights that mean something only together with scales. Raises `ArchitectureError`."""
    scale = next((name for name in sorted(names) if name.endswith(SCALES)), None)
    if scale is not None:
        raise ArchitectureError(f"the weights are scaled 8-bit ones ({scale}), which diffusers does not load")


def load(kind: Any, file: Path, folder: Path, dtype: str | None) -> Any:
    """The class's module, its config from `folder`, its weights out of one file. Raises `ArchitectureError`."""
    import torch

    checkpoint = _unquantized(file) if file.suffix == GGUF_SUFFIX else _tensors(file)
    wanted = getattr(torch, dtype or "float32")
    try:
        module = _converted(kind, checkpoint, str(folder), wanted)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise ArchitectureError(
            f"{file.name} does not load as {kind.__name__}: {type(error).__name__}: {error}"
        ) from error
    finally:
        checkpoint.clear()  # the library's own leftovers hold it until the garbage collector comes
    missing = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if missing:
        raise ArchitectureError(f"{file.name} holds no {missing[0]} of {kind.__name__}")
    return module


def _converted(kind: Any, checkpoint: dict[str, "torch.Tensor"], folder: str, dtype: "torch.dtype") -> Any:
    """By the conversions that `from_single_file` uses."""
    from diffusers.loaders import single_file_utils as known

    if hasattr(kind, "from_single_file"):
        return kind.from_single_file(checkpoint, config=folder, torch_dtype=dtype, local_files_only=True)
    if known.is_clip_model_in_single_file(kind, checkpoint):
        make = known.create_diffusers_clip_model_from_ldm
    elif kind.__name__ == "T5EncoderModel" and known.is_t5_in_single_file(checkpoint):
        make = known.create_diffusers_t5_model_from_checkpoint
    else:
        raise ArchitectureError(f"the file holds no {kind.__name__} in a layout that diffusers converts")
    module = make(kind, checkpoint, config=folder, torch_dtype=dtype, local_files_only=True)
    return module.to(dtype)


def _tensors(file: Path) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise WeightsDamagedError(f"{file.name}: {error}") from error


def _unquantized(file: Path) -> dict[str, "torch.Tensor"]:
    """Raises `WeightsDamagedError` for what is no GGUF file, `ArchitectureError` without the package that reads it."""
    import torch

    try:
        from gguf import GGUFReader, quants
    except ImportError as error:
        raise ArchitectureError("GGUF weights need the extra: pip install 'marquee[gguf]'") from error
    with _damaged(file, *UNREADABLE, MemoryError):  # what a header claims may be any number
        tensors = GGUFReader(file).tensors
    with _damaged(file, *UNREADABLE):  # the file has so much: where memory ends here, it is the host's
        return {
            tensor.name: torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in tensors
        }


@contextmanager
def _damaged(file: Path, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise WeightsDamagedError(f"{file.name} is no GGUF file that can be read: {error}") from error
