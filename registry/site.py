"""A pipeline or an adapter at an http(s) address, as a `folders.Tree`. IO.

A web server lists nothing, so the files that `save_pretrained` writes are asked for by name; weights are read whole
once, for their digest, and kept nowhere. Addresses are the lab's choosing: `outside` keeps them from ours.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote, urlsplit

from registry import folders, outside, weights
from registry.catalog import FileRef, Source
from registry.errors import AddressError, FolderError, TruncatedError, WeightsError

ASKED_AT_ONCE = 8
FOUND = frozenset({200, 206})
SIDE_NAMES = (
    "scheduler_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt",
    "special_tokens_map.json", "added_tokens.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
    "preprocessor_config.json", "processor_config.json", "chat_template.jinja", "config.json",
)  # fmt: skip


class Site:
    """Files below an address, or the one file that the address itself names."""

    def __init__(
        self, source: Source, *, allow_private: bool, counted: folders.Counted | None = None
    ) -> None:
        self.name = source.location
        self._address = urlsplit(source.location)
        self._subfolder = f"{source.subfolder}/" if source.subfolder else ""
        self._allow_private = allow_private
        self._counted = counted or folders.Counted()
        self._known: dict[str, FileRef] = {}
        self._paths: tuple[str, ...] | None = None

    def paths(self) -> Sequence[str]:
        """Those of the names that a pipeline's files can have which are there."""
        if self._paths is None:
            index = folders.read_json(self, "model_index.json")
            names = tuple(dict.fromkeys(_candidates(index)))
            with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
                there = threads.map(self._is_there, names)
                found = [name for name, is_there in zip(names, there, strict=True) if is_there]
            shards = [shard for name in found if ".index" in name for shard in self._shards(name)]
            self._paths = tuple(sorted({"model_index.json", *found, *shards}))
        return self._paths

    def _shards(self, index: str) -> Iterable[str]:
        folder = index.rpartition("/")[0]
        return {f"{folder}/{name}" for name in folders.shards_of(self, index)}

    def _is_there(self, path: str) -> bool:
        with self._opened(path, 0, 1) as answer:
            return answer.status in FOUND

    def read(self, path: str) -> bytes:
        with self._opened(path) as answer:
            if answer.status not in FOUND:
                raise FolderError(self.name, f"{path} is missing (its server answers {answer.status})")
            content = b"".join(_up_to(folders.MAX_JSON_BYTES, answer.chunks, self.name, path))
        self._counted.bytes += len(content)
        return content

    def ref(self, path: str) -> FileRef:
        if path not in self._known:
            digest, size_bytes = hashlib.sha256(), 0
            with self._opened(path) as answer:
                if answer.status not in FOUND:
                    raise FolderError(self.name, f"{path} is missing (its server answers {answer.status})")
                for chunk in answer.chunks:
                    if size_bytes == 0 and path.endswith(".safetensors"):
                        _refuse_foreign(chunk)
                    digest.update(chunk)
                    size_bytes += len(chunk)
                    self._counted.bytes += len(chunk)
            self._known[path] = FileRef(path=path, size_bytes=size_bytes, sha256=digest.hexdigest())
        return self._known[path]

    def index(self, path: str) -> weights.Index:
        size_bytes = self.ref(path).size_bytes
        try:
            length = weights.header_length(self._first(path, weights.SNIFF_BYTES))
            end = weights.LENGTH_BYTES + length
            start = self._first(path, end)
            if len(start) < end:
                raise TruncatedError("the file ends inside its header")
            return weights.check(start[weights.LENGTH_BYTES :], size_bytes)
        except WeightsError as error:
            error.add_note(path)
            raise

    def _first(self, path: str, count: int) -> bytes:
        """Also from servers that know no ranges."""
        data = bytearray()
        with self._opened(path, 0, count) as answer:
            for chunk in answer.chunks:
                data += chunk
                if len(data) >= count:
                    break
        return bytes(data[:count])

    def _opened(
        self, path: str, begin: int = 0, end: int | None = None
    ) -> AbstractContextManager[outside.Answer]:
        headers = {} if end is None else {"Range": f"bytes={begin}-{end - 1}"}
        return _translated(
            outside.opened(self._url(path), may_be_private=lambda _: self._allow_private, headers=headers),
            self.name,
        )

    def _url(self, path: str) -> str:
        """As `loaders.fetch` builds it: the location is a folder's address, or the file's own."""
        if self._address.path.endswith(f"/{quote(path)}"):
            return self.name
        below = f"{self._address.path.rstrip('/')}/{quote(self._subfolder + path)}"
        return self._address._replace(path=below).geturl()


@contextlib.contextmanager
def _translated(opening: AbstractContextManager[outside.Answer], name: str) -> Iterator[outside.Answer]:
    """What the network throws becomes one of our errors."""
    try:
        with opening as answer:
            yield answer
    except outside.FAILURES as error:
        raise AddressError(f"{name} does not deliver: {error or type(error).__name__}") from error


def _candidates(index: dict[str, Any]) -> Iterable[str]:
    for role, value in index.items():
        if not folders.is_part(value):
            continue
        if role.startswith(folders.SIDE_FOLDERS):
            yield from (f"{role}/{name}" for name in SIDE_NAMES)
            continue
        yield f"{role}/config.json"
        for stem in folders.WEIGHT_STEMS:
            yield from (f"{role}/{name}" for name in folders.weight_names(stem))


def _up_to(limit: int, chunks: Iterable[bytes], name: str, path: str) -> Iterable[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise FolderError(name, f"{path} is too large")
        yield chunk


def _refuse_foreign(chunk: bytes) -> None:
    if len(chunk) >= weights.LENGTH_BYTES:
        weights.header_length(chunk[: weights.SNIFF_BYTES])
