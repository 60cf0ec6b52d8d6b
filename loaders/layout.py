"""Where each tensor of a component lies in its arena.

Pure. Every tensor starts at a 256-byte boundary: the same weights give the same bits only from equally aligned
memory, and a GPU's libraries choose their kernels by alignments of up to so much (on a CPU 64 would do). Names, shapes and dtypes come from checked headers.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec

from loaders.headers import Header, TensorAt
from registry.weights import DTYPE_BITS, TORCH_NAMES

ALIGNMENT_BYTES = 256
ITEM_BYTES: Mapping[str, int] = {TORCH_NAMES[name]: DTYPE_BITS[name] // 8 for name in TORCH_NAMES}
UPCAST: Mapping[str, str] = {"float8_e4m3fn": "bfloat16", "float8_e5m2": "bfloat16"}  # stored → computed with
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", *UPCAST})

DtypeOf = Callable[[str, str], str]  # (tensor's name, stored dtype) -> dtype in the arena


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor: where it stands in its file, and where and as what in the arena."""

    name: str
    shard: int
    source: TensorAt
    dtype: str
    offset: int
    size_bytes: int

    @property
    def is_cast(self) -> bool:
        return self.dtype != self.source.dtype


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    places: tuple[Place, ...]
    size_bytes: int


def is_narrow(dtype: str) -> bool:
    """Whether no layer computes with it; as torch writes it, or without its `torch.`."""
    return dtype.removeprefix("torch.") in UPCAST


def as_stored(name: str, dtype: str) -> str:
    return dtype


def as_computed(name: str, dtype: str) -> str:
    """As stored, but for 8-bit floats, which no layer computes with."""
    return UPCAST.get(dtype, dtype)


def casting(dtype: str | None, keep_float32: Sequence[str] = ()) -> DtypeOf:
    """Floats become `dtype`, except those whose dotted name has a part in `keep_float32`."""
    if dtype is None:
        return as_computed

    def chosen(name: str, stored: str) -> str:
        if stored not in FLOATS:
            return stored
        return "float32" if not set(keep_float32).isdisjoint(name.split(".")) else dtype

    return chosen


def narrowing(dtype_of: DtypeOf, names: Container[str], dtype: str) -> DtypeOf:
    """The same, but that these floats are kept as `dtype`."""

    def chosen(name: str, stored: str) -> str:
        usual = dtype_of(name, stored)
        return dtype if name in names and usual in FLOATS else usual

    return chosen


def lay_out(
    headers: Sequence[Header], *, dtype_of: DtypeOf = as_stored, wanted: Callable[[str], bool] = bool
) -> Layout:
    """In file order, so that reading is sequential. Tensors that are not wanted take no room."""
    places: list[Place] = []
    offset = 0
    for shard, header in enumerate(headers):
        for name, tensor in sorted(header.tensors.items(), key=lambda item: item[1].start):
            if not wanted(name):
                continue
            dtype = dtype_of(name, tensor.dtype)
            size_bytes = tensor.size_bytes // ITEM_BYTES[tensor.dtype] * ITEM_BYTES[dtype]
            places.append(
                Place(
                    name=name, shard=shard, source=tensor, dtype=dtype, offset=offset, size_bytes=size_bytes
                )
            )
            offset += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return Layout(places=tuple(places), size_bytes=offset)


def pack(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Layout:
    """For tensors that come from no file: name → dtype and shape, one after the other."""
    places: list[Place] = []
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        source = TensorAt(dtype=dtype, shape=shape, start=0, size_bytes=size_bytes)
        places.append(
            Place(name=name, shard=0, source=source, dtype=dtype, offset=offset, size_bytes=size_bytes)
        )
        offset += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return Layout(places=tuple(places), size_bytes=offset)
