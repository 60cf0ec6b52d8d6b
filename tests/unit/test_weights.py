"""What a hostile lab would try: each malformed header and disguised file is refused by its own error, and nothing
that the safetensors library writes is.
"""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from registry import errors, weights
from registry.errors import WeightsError
from registry.folders import read_index

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _file(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _tensor(**changes: Any) -> bytes:
    return _file({"a": ONE | changes})


def _two(first: list[int], second: list[int], data: int) -> bytes:
    entries = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in {"a": first, "b": second}.items()
    }
    return _file(entries, bytes(data))


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.bin"))
    return file.getvalue()


def _without(field: str) -> bytes:
    return _file({"a": {name: value for name, value in ONE.items() if name != field}})


CORPUS: list[tuple[str, bytes, type[WeightsError]]] = [
    ("nothing at all", b"", errors.TruncatedError),
    ("three bytes", b"\x01\x02\x03", errors.TruncatedError),
    ("a length and nothing after it", (64).to_bytes(8, "little"), errors.TruncatedError),
    ("a header that is cut off", _file({"a": ONE})[:30], errors.TruncatedError),
    ("data that is cut off", _file({"a": ONE}, bytes(7)), errors.TruncatedError),
    ("no data", _file({"a": ONE}, b""), errors.TruncatedError),
    ("a header length of 2^64 - 1", _file({}, length=2**64 - 1), errors.HeaderTooLongError),
    ("a header length just over the limit", _file({}, length=100_000_001), errors.HeaderTooLongError),
    ("a header length of zero", _file(b"", length=0), errors.HeaderTooShortError),
    ("a header length of one", _file(b"{", length=1), errors.HeaderTooShortError),
    ("a header that begins with a space", _file(b' {"a":1}'), errors.HeaderEncodingError),
    ("a header that begins with a byte order mark", _file(b"\xef\xbb\xbf{}"), errors.HeaderEncodingError),
    ("a header that is a list", _file(b"[]"), errors.HeaderEncodingError),
    ("a header that is not UTF-8", _file(b'{"\xff": 1}'), errors.HeaderEncodingError),
    ("a header in UTF-16", _file('{"a": 1}'.encode("utf-16-le")), errors.HeaderJsonError),
    ("a header that does not end", _file(b'{"a": {'), errors.HeaderJsonError),
    ("two objects", _file(b"{}{}"), errors.HeaderJsonError),
    ("NaN in the header", _file(b'{"a": NaN}'), errors.HeaderJsonError),
    ("Infinity in an offset", _file(b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}'), errors.HeaderJsonError),
    ("a trailing comma", _file(b'{"a": 1,}'), errors.HeaderJsonError),
    ("nesting without end", _file(b'{"a":' * 200_000), errors.HeaderJsonError),
    ("a number of a million digits", _file(b'{"a":' + b"9" * 1_000_000 + b"}"), errors.HeaderJsonError),
    ("zeros instead of spaces behind the object", _file(b"{}\0\0\0\0"), errors.HeaderJsonError),
    ("one name twice", _file(b'{"a": {"dtype":"U8","shape":[8],"data_offsets":[0,8]}, "a": {"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'), errors.DuplicateNameError),
    ("metadata twice", _file(b'{"__metadata__": {}, "__metadata__": {"x": "y"}}', b""), errors.DuplicateNameError),
    ("metadata that is a list", _file({"__metadata__": [], "a": ONE}), errors.MetadataError),
    ("metadata with a number", _file({"__metadata__": {"a": 1}, "a": ONE}), errors.MetadataError),
    ("metadata with an object", _file({"__metadata__": {"a": {}}, "a": ONE}), errors.MetadataError),
    ("metadata with one key twice", _file(b'{"__metadata__": {"k": "1", "k": "2"}}', b""), errors.MetadataError),
    ("an empty name", _file({"": ONE}), errors.TensorNameError),
    ("a name with a zero byte", _file({"a\0b": ONE}), errors.TensorNameError),
    ("a name with a line break", _file({"a\nb": ONE}), errors.TensorNameError),
    ("a name with half a character", _file({"a\ud800b": ONE}), errors.TensorNameError),
    ("metadata with half a character", _file({"__metadata__": {"a": "\udfff"}, "a": ONE}), errors.MetadataError),
    ("a name of ten thousand letters", _file({"a" * 10_000: ONE}), errors.TensorNameError),
    ("an entry that is a string", _file({"a": "x"}), errors.TensorFieldsError),
    ("an entry that is null", _file({"a": None}), errors.TensorFieldsError),
    ("an entry without a dtype", _without("dtype"), errors.TensorFieldsError),
    ("an entry without a shape", _without("shape"), errors.TensorFieldsError),
    ("an entry without offsets", _without("data_offsets"), errors.TensorFieldsError),
    ("an entry with one field more", _tensor(code="import os"), errors.TensorFieldsError),
    ("an entry with one field twice", _file(b'{"a": {"dtype":"F32","dtype":"U8","shape":[2],"data_offsets":[0,8]}}'), errors.TensorFieldsError),
    ("an unknown dtype", _tensor(dtype="F31"), errors.DtypeError),
    ("a dtype in small letters", _tensor(dtype="f32"), errors.DtypeError),
    ("a dtype that is a number", _tensor(dtype=32), errors.DtypeError),
    ("a dtype of Python objects", _tensor(dtype="O"), errors.DtypeError),
    ("a negative dimension", _tensor(shape=[-2]), errors.ShapeError),
    ("a fractional dimension", _tensor(shape=[2.0]), errors.ShapeError),
    ("a dimension that is true", _tensor(shape=[True, 2]), errors.ShapeError),
    ("a shape that is a number", _tensor(shape=2), errors.ShapeError),
    ("a dimension that overflows 64 bits", _tensor(shape=[2**65]), errors.ShapeError),
    ("seventeen dimensions", _tensor(shape=[1] * 16 + [2]), errors.ShapeError),
    ("dimensions whose product overflows", _tensor(shape=[2**40, 2**40]), errors.SizeMismatchError),
    ("offsets that run backwards", _tensor(data_offsets=[8, 0]), errors.OffsetsError),
    ("a negative offset", _tensor(data_offsets=[-8, 0]), errors.OffsetsError),
    ("one offset", _tensor(data_offsets=[8]), errors.OffsetsError),
    ("three offsets", _tensor(data_offsets=[0, 4, 8]), errors.OffsetsError),
    ("offsets that are strings", _tensor(data_offsets=["0", "8"]), errors.OffsetsError),
    ("an offset that overflows 64 bits", _tensor(data_offsets=[0, 2**64]), errors.OffsetsError),
    ("more bytes than the shape needs", _tensor(shape=[1]), errors.SizeMismatchError),
    ("fewer bytes than the shape needs", _tensor(shape=[3]), errors.SizeMismatchError),
    ("half a byte", _tensor(dtype="F4", shape=[15]), errors.SizeMismatchError),
    ("a scalar of eight bytes", _tensor(shape=[]), errors.SizeMismatchError),
    ("two tensors on the same bytes", _two([0, 8], [0, 8], 8), errors.OverlapError),
    ("two tensors that share one byte", _two([0, 5], [4, 8], 8), errors.OverlapError),
    ("a tensor inside another", _two([0, 8], [2, 4], 8), errors.OverlapError),
    ("a gap between tensors", _two([0, 3], [5, 8], 8), errors.GapError),
    ("a gap before the first", _two([2, 4], [4, 8], 8), errors.GapError),
    ("bytes behind the last", _file({"a": ONE}, bytes(9)), errors.TrailingBytesError),
    ("a zip behind the last", _file({"a": ONE}, bytes(8) + _zip()), errors.TrailingBytesError),
    ("data without tensors", _file({}, bytes(4)), errors.TrailingBytesError),
    ("offsets behind the end", _two([0, 4], [4, 12], 8), errors.TruncatedError),
    ("a pickle", pickle.dumps({"a": 1}), errors.NotSafetensorsError),
    ("an old pickle", b"ctorch._utils\n_rebuild_tensor_v2\n", errors.NotSafetensorsError),
    ("a pickle of protocol 2", pickle.dumps([1], protocol=2), errors.NotSafetensorsError),
    ("what torch.save writes", _zip(), errors.NotSafetensorsError),
    ("a tar archive", _tar(), errors.NotSafetensorsError),
    ("gzip", b"\x1f\x8b\x08" + bytes(20), errors.NotSafetensorsError),
    ("GGUF", b"GGUF\x03" + bytes(20), errors.NotSafetensorsError),
    ("a login page", b"<!DOCTYPE html><html>", errors.NotSafetensorsError),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", errors.NotSafetensorsError),
    ("a program", b"\x7fELF\x02\x01\x01" + bytes(20), errors.NotSafetensorsError),
    ("a script", b"#!/bin/sh\nrm -rf ~\n", errors.NotSafetensorsError),
    ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(20), errors.NotSafetensorsError),
]  # fmt: skip


def test_the_corpus_is_large_and_meets_every_refusal() -> None:
    assert len({words for words, _, _ in CORPUS}) == len(CORPUS) >= 40
    met = {kind for _, _, kind in CORPUS}
    assert set(WeightsError.__subclasses__()) - met == {
        errors.TooManyTensorsError,
        errors.DigestMismatchError,
    }


@pytest.mark.parametrize(("content", "refusal"), [pytest.param(*case[1:], id=case[0]) for case in CORPUS])
def test_each_is_refused_by_its_own_error(
    tmp_path: Path, content: bytes, refusal: type[WeightsError]
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_index(file)
    assert type(caught.value) is refusal
    assert len(str(caught.value)) < 300, "the message quotes no more than a line of the file"


def test_a_header_of_too_many_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_TENSORS", 1)
    with pytest.raises(errors.TooManyTensorsError):
        weights.check(_two([0, 4], [4, 8], 8)[8:-8], 10_000)


def test_a_length_that_begins_like_a_windows_program_is_fine(tmp_path: Path) -> None:
    text = json.dumps({"a": ONE}).encode().ljust(int.from_bytes(b"MZ", "little"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(_file(text))
    assert read_index(file).data_bytes == 8


DTYPES = st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_])
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
NAMES = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="._"), min_size=1, max_size=20
)
ARRAYS = st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), max_size=6)


@given(ARRAYS, st.dictionaries(NAMES, st.text(max_size=10), max_size=3))
def test_what_the_library_writes_is_read_as_it_was_written(
    arrays: dict[str, Any], metadata: dict[str, str]
) -> None:
    tensors = {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}
    content = safetensors.numpy.save(tensors, metadata or None)
    length = weights.header_length(content[:512])
    index = weights.check(content[8 : 8 + length], len(content))
    assert {name: (tensor.shape, tensor.end - tensor.begin) for name, tensor in index.tensors.items()} == {
        name: (array.shape, array.nbytes) for name, array in tensors.items()
    }
    assert index.metadata == metadata


@given(st.data())
def test_a_changed_byte_is_refused_or_leaves_a_file_that_the_library_reads_too(data: st.DataObject) -> None:
    content = bytearray(
        safetensors.numpy.save({"a": np.zeros(3, np.float32), "b": np.zeros((2, 2), np.uint8)})
    )
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        length = weights.header_length(bytes(content[:512]))
        index = weights.check(bytes(content[8 : 8 + length]), len(content))
    except WeightsError:
        return
    with_library = {name for name, _ in safetensors.deserialize(bytes(content))}
    assert set(index.tensors) == with_library


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(content: bytes) -> None:
    try:
        length = weights.header_length(content)
        weights.check(content[8 : 8 + length], len(content))
    except WeightsError:
        pass


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"7,"])
def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_parsed(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    header = b'{"a":[' + piece * 4_100_000 + b"7]}"
    with pytest.raises(errors.TooManyTensorsError, match="more than"):
        weights.check(header, len(header) + weights.LENGTH_BYTES)


def test_a_trainers_long_notes_are_no_tensors() -> None:
    notes = json.dumps({"tags": {f"tag {n}": [n, n] for n in range(50_000)}})
    assert weights.check(*_parts({"__metadata__": {"ss_tag_frequency": notes}, "a": ONE})).metadata == {
        "ss_tag_frequency": notes
    }


def _parts(header: dict[str, Any]) -> tuple[bytes, int]:
    text = json.dumps(header).encode()
    return text, weights.LENGTH_BYTES + len(text) + 8
