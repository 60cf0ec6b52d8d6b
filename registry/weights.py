"""A safetensors header, checked whole before any byte behind it is believed; every refusal is its own error. Pure."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from registry.catalog import Record
from registry.errors import (
    DtypeError,
    DuplicateNameError,
    GapError,
    HeaderEncodingError,
    HeaderJsonError,
    HeaderTooLongError,
    HeaderTooShortError,
    MetadataError,
    NotSafetensorsError,
    OffsetsError,
    OverlapError,
    ShapeError,
    SizeMismatchError,
    TensorFieldsError,
    TensorNameError,
    TooManyTensorsError,
    TrailingBytesError,
    TruncatedError,
)

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_TENSORS = 200_000
MOST_SIGNS = {  # counted before parsing: a hundred megabytes of `[],` are gigabytes of lists, and half a minute
    b"{": 2 * MAX_TENSORS,
    b"[": 3 * MAX_TENSORS,
    b",": 20 * MAX_TENSORS,
}
MAX_RANK = 16
MAX_DIMENSION = 1 << 48
MAX_NAME_CHARACTERS = 1024
METADATA = "__metadata__"
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (torch.save writes those: pickles)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x80\x02", "a pickle"), (b"\x80\x03", "a pickle"), (b"\x80\x04", "a pickle"), (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "a 7-zip archive"),
    (b"\x28\xb5\x2f\xfd", "zstd"), (b"Rar!", "a RAR archive"), (b"GGUF", "GGUF"), (b"ggml", "GGML"),
    (b"\x89HDF", "HDF5"), (b"\x93NUMPY", "NumPy"), (b"\x7fELF", "an ELF program"), (b"MZ", "a Windows program"),
    (b"#!", "a script"), (b"<!DO", "HTML"), (b"<htm", "HTML"), (b"version https://git-lfs", "a Git LFS pointer"),
)  # fmt: skip
FOREIGN_WORDS = (
    "torch_tensor",
    "ctorch",
    "c__builtin__",
    "cposix",
    "cnumpy",
    "csubprocess",
)  # protocol-0 pickles
TAR_MAGIC = slice(257, 262)
HALVES = (
    r"\ud800-\udfff"  # of characters, which JSON can spell and no text can hold: nobody could be told of them
)
HALF = re.compile(f"[{HALVES}]")
CONTROL = re.compile(f"[\\x00-\\x1f\\x7f{HALVES}]")
SNIFF_BYTES = 512


class Tensor(Record, frozen=True, kw_only=True):
    """Where one tensor lies: offsets count from the first byte after the header."""

    dtype: str  # safetensors' name: `BF16`
    shape: tuple[int, ...]
    begin: int
    end: int


class Index(Record, frozen=True, kw_only=True):
    """A checked header."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = {}
    data_offset: int  # bytes before the data

    @property
    def data_bytes(self) -> int:
        return max((tensor.end for tensor in self.tensors.values()), default=0)

    @property
    def dtype(self) -> str | None:
        """Torch's name of the dtype that most bytes have."""
        return dominant_dtype([self])


def dominant_dtype(indexes: list[Index]) -> str | None:
    """Torch's name of the dtype that most bytes of several shards have."""
    sizes: Counter[str] = Counter()
    for index in indexes:
        for tensor in index.tensors.values():
            sizes[tensor.dtype] += tensor.end - tensor.begin
    if not sizes:
        return None
    name = sizes.most_common(1)[0][0]
    return TORCH_NAMES.get(name, name.lower())


def header_length(start: bytes) -> int:
    """How many bytes of header follow the first eight. Raises when no safetensors file begins so."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    looks_right = length <= MAX_HEADER_BYTES and start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    if not looks_right:  # a right length may begin with the bytes of a two-letter magic
        _refuse_foreign(start)
    if len(start) < LENGTH_BYTES:
        raise TruncatedError(f"{len(start)} bytes are no safetensors file")
    if length > MAX_HEADER_BYTES:
        raise HeaderTooLongError(
            f"the header is said to be {length} bytes long; {MAX_HEADER_BYTES} are allowed"
        )
    if length < 2:
        raise HeaderTooShortError(f"the header is said to be {length} bytes long")
    return length


def _refuse_foreign(start: bytes) -> None:
    for magic, name in FOREIGN:
        if start.startswith(magic):
            raise NotSafetensorsError(f"this is {name}, not safetensors")
    if start[TAR_MAGIC] == b"ustar":
        raise NotSafetensorsError("this is a tar archive, not safetensors")
    text = start[:64].decode("latin-1")
    if any(word in text for word in FOREIGN_WORDS):
        raise NotSafetensorsError("this is a pickle, not safetensors")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its names in order and repeated ones kept, so that repetition can be seen."""


def check(header: bytes, file_bytes: int) -> Index:
    """The index of a file from its header (without the first eight bytes) and its length. Raises `WeightsError`s."""
    entries = _parse(header)
    names = [name for name, _ in entries]
    if len(names) > MAX_TENSORS:
        raise TooManyTensorsError(f"{len(names)} tensors; {MAX_TENSORS} are allowed")
    if len(set(names)) < len(names):
        raise DuplicateNameError(f"{Counter(names).most_common(1)[0][0]!r} stands twice")
    data_offset = LENGTH_BYTES + len(header)
    metadata = _metadata(dict(entries).get(METADATA))
    tensors = {name: _tensor(name, value) for name, value in entries if name != METADATA}
    _check_layout(tensors, file_bytes - data_offset)
    return Index(tensors=tensors, metadata=metadata, data_offset=data_offset)


def _parse(header: bytes) -> _Pairs:
    for sign, most in MOST_SIGNS.items():
        if header.count(sign) > most:
            raise TooManyTensorsError(
                f"more than {most} times {sign.decode()!r}: no {MAX_TENSORS} tensors need that"
            )
    if not header.startswith(b"{"):
        raise HeaderEncodingError("the header does not begin with an opening brace")
    try:
        text = header.decode()
    except UnicodeDecodeError as error:
        raise HeaderEncodingError(f"the header is not UTF-8 at byte {error.start}") from error
    try:
        entries = json.loads(text.rstrip(" "), object_pairs_hook=_Pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HeaderJsonError(f"the header is not JSON: {str(error)[:120]}") from error
    if not isinstance(entries, _Pairs):
        raise HeaderJsonError("the header is not a JSON object")
    return entries


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, _Pairs) or not all(isinstance(text, str) for _, text in value):
        raise MetadataError("__metadata__ must map strings to strings")
    if len(dict(value)) < len(value):
        raise MetadataError("__metadata__ names one key twice")
    if any(HALF.search(text) for pair in value for text in pair):
        raise MetadataError("__metadata__ is no Unicode")
    return dict(value)


def _tensor(name: str, value: Any) -> Tensor:
    if not name or len(name) > MAX_NAME_CHARACTERS or CONTROL.search(name):
        raise TensorNameError(f"{name[:40]!r} cannot be a parameter's name")
    if not isinstance(value, _Pairs) or sorted(key for key, _ in value) != ["data_offsets", "dtype", "shape"]:
        raise TensorFieldsError(
            f"{name}: an entry is dtype, shape and data_offsets, once each and nothing else"
        )
    fields = dict(value)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise DtypeError(f"{name}: unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise ShapeError(f"{name}: {str(shape)[:60]} is not a shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise OffsetsError(f"{name}: {str(offsets)[:60]} are not offsets")
    begin, end = offsets
    _check_size(name, dtype, shape, end - begin)
    return Tensor(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _are_sizes(value: Any) -> bool:
    return type(value) is list and all(
        type(number) is int and 0 <= number <= MAX_DIMENSION for number in value
    )


def _check_size(name: str, dtype: str, shape: list[int], span: int) -> None:
    bits = DTYPE_BITS[dtype]
    for dimension in shape:
        bits *= dimension
    if bits != span * 8:
        raise SizeMismatchError(f"{name}: {dtype} {shape} needs {bits / 8:g} bytes, the offsets span {span}")


def _check_layout(tensors: Mapping[str, Tensor], data_bytes: int) -> None:
    """The tensors fill the data from its first byte to its last, without overlap or gap."""
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.end > data_bytes:
            raise TruncatedError(f"{name} ends at {tensor.end}, the data at {max(data_bytes, 0)}")
        if tensor.begin < reached:
            raise OverlapError(f"{name} begins at {tensor.begin}, inside another tensor")
        if tensor.begin > reached:
            raise GapError(f"bytes {reached} to {tensor.begin} belong to no tensor")
        reached = tensor.end
    if data_bytes < 0:
        raise TruncatedError("the file ends inside its header")
    if data_bytes > reached:
        raise TrailingBytesError(f"{data_bytes - reached} bytes follow the last tensor")
