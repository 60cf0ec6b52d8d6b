"""A safetensors header as the loaders read it: torch's dtypes and offsets from the file's first byte.

The checking is `registry.weights`'; here its refusals become the host's, and dtypes that torch cannot hold are
refused.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec

from loaders.errors import WeightsDamagedError
from registry import folders, weights
from registry.errors import WeightsError

KEPT_HEADERS = 256  # by path and stamp; a thousand tensors take about half a megabyte


class TensorAt(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a file. `dtype` is torch's name of it; `start` counts from the file's first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    tensors: Mapping[str, TensorAt]
    metadata: Mapping[str, str] = {}


def read_header(path: Path) -> Header:
    """Read again only when the file's stamp is another. Raises `WeightsDamagedError`."""
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsDamagedError(f"{path.name}: {error}") from error
    return _read(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=KEPT_HEADERS)
def _read(path: Path, *stamp: int) -> Header:
    try:
        index = folders.read_index(path)
    except (WeightsError, OSError) as error:
        raise WeightsDamagedError(f"{path.name}: {error}") from error
    return Header(
        tensors={name: _tensor(name, tensor, index.data_offset) for name, tensor in index.tensors.items()},
        metadata=index.metadata,
    )


def _tensor(name: str, tensor: weights.Tensor, data_offset: int) -> TensorAt:
    dtype = weights.TORCH_NAMES.get(tensor.dtype)
    if dtype is None:
        raise WeightsDamagedError(f"{name} has the dtype {tensor.dtype}, which torch cannot hold")
    return TensorAt(
        dtype=dtype,
        shape=tensor.shape,
        start=data_offset + tensor.begin,
        size_bytes=tensor.end - tensor.begin,
    )
