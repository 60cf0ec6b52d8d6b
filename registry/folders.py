"""Manifests of pipelines that lie in a folder: reads their JSON, hashes files, checks weights. IO.

It believes contents, not names, and follows no path out of the folder. Files it does not know are left out.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from registry import weights
from registry.catalog import Component, FileRef, Manifest, Source
from registry.errors import FolderError, TruncatedError, WeightsError
from registry.examination import Part

CHUNK_BYTES = 8 << 20
SIDE_FOLDERS = ("scheduler", "tokenizer", "feature_extractor", "image_processor", "processor")
SIDE_SUFFIXES = {".json", ".txt", ".model", ".jinja"}
WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "model.fp16")
PUBLISHED_SUFFIXES = SIDE_SUFFIXES | {".safetensors", ".gguf"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
MAX_JSON_BYTES = 64 << 20
MAX_PARSED_BYTES = 8 << 20  # of a config or an index; parsed it is dozens of times larger
GGUF_SUFFIX = ".gguf"  # quantized weights, no pickle
GGUF_DTYPE = "bfloat16"  # what they are computed with
ADAPTER_FILE = "pytorch_lora_weights.safetensors"


class Counted:
    """How many bytes were read so far; a reader adds, another thread looks."""

    def __init__(self) -> None:
        self.bytes = 0


class Tree(Protocol):
    """Files with metadata, wherever they lie. `Folder` is the one on this disk; `hub` has the one on the Hub."""

    name: str

    def paths(self) -> Sequence[str]: ...

    def read(self, path: str) -> bytes:
        """A small file whole. Raises `FolderError` when it is missing or too large."""
        ...

    def ref(self, path: str) -> FileRef: ...

    def index(self, path: str) -> weights.Index:
        """A weights file's checked header. Raises `WeightsError`."""
        ...


class Folder:
    """A tree on this disk. It follows no path out of the folder."""

    def __init__(
        self, root: Path, counted: Counted | None = None, digest: Callable[[Path], str] | None = None
    ) -> None:
        """`digest` is for who knows files' digests otherwise than by reading them."""
        self.name = str(root)
        self._root = root
        self._counted = counted or Counted()
        self._digest = digest or (lambda file: sha256_of(file, self._counted))

    def paths(self) -> Sequence[str]:
        files = (file for file in self._root.rglob("*") if file.is_file())
        return sorted(file.relative_to(self._root).as_posix() for file in files)

    def read(self, path: str) -> bytes:
        file = self._inside(path)
        if not file.is_file():
            raise FolderError(self.name, f"{path} is missing")
        if file.stat().st_size > MAX_JSON_BYTES:
            raise FolderError(self.name, f"{path} is too large")
        return file.read_bytes()

    def ref(self, path: str) -> FileRef:
        file = self._inside(path)
        return FileRef(path=path, size_bytes=file.stat().st_size, sha256=self._digest(file))

    def index(self, path: str) -> weights.Index:
        return read_index(self._inside(path))

    def _inside(self, path: str) -> Path:
        file = self._root / path
        if not file.resolve().is_relative_to(self._root.resolve()):
            raise FolderError(self.name, f"{path} leads out of the folder")
        return file


def read_pipeline(folder: Path, source: Source | None = None) -> Manifest:
    """The manifest of a pipeline folder as `save_pretrained` writes it. Raises `FolderError`, `WeightsError`."""
    return read_tree(Folder(folder), source or Source(kind="path", location=str(folder.resolve())))


def read_tree(tree: Tree, source: Source) -> Manifest:
    """The manifest of a diffusers pipeline. Raises `FolderError`, `WeightsError`."""
    index = _pipeline_index(tree)
    pipeline_class = index.get("_class_name")
    if not isinstance(pipeline_class, str):
        raise FolderError(tree.name, "model_index.json names no pipeline class")
    parts = {name: tuple(value) for name, value in sorted(index.items()) if is_part(value)}
    if not all(word.isprintable() for words in ((pipeline_class,), parts, *parts.values()) for word in words):
        raise FolderError(tree.name, "model_index.json has names that nobody can print")  # or store: a NUL
    paths = tree.paths()
    components = tuple(
        _component(tree, set(paths), name, str(library), str(class_name))
        for name, (library, class_name) in parts.items()
        if not name.startswith(SIDE_FOLDERS)
    )
    if not components:
        raise FolderError(tree.name, "model_index.json names no component with weights")
    sides = [name for name in parts if name.startswith(SIDE_FOLDERS)]
    assets = [path for path in paths if path.split("/", 1)[0] in sides and Path(path).suffix in SIDE_SUFFIXES]
    return Manifest(
        pipeline_class=pipeline_class,
        source=source,
        components=components,
        assets=tuple(tree.ref(path) for path in ["model_index.json", *assets]),
    )


def _pipeline_index(tree: Tree) -> dict[str, Any]:
    try:
        return read_json(tree, "model_index.json")
    except FolderError as error:
        if not error.reason.startswith("model_index.json is missing"):
            raise
        reason = (
            f"{error.reason}: no pipeline as `save_pretrained` writes it; a LoRA is published as an adapter"
        )
        raise FolderError(tree.name, reason) from error


def read_index(file: Path) -> weights.Index:
    """A weights file's checked header. Raises `WeightsError` with the file's name."""
    with file.open("rb") as stream:
        start = stream.read(weights.SNIFF_BYTES)
        try:
            length = weights.header_length(start)
            stream.seek(weights.LENGTH_BYTES)
            header = stream.read(length)
            if len(header) < length:
                raise TruncatedError("the file ends inside its header")
            return weights.check(header, file.stat().st_size)
        except WeightsError as error:
            error.add_note(str(file))
            raise


def is_part(value: Any) -> bool:
    """Whether an entry of model_index.json names a library and a class."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)


def _component(tree: Tree, paths: Collection[str], name: str, library: str, class_name: str) -> Component:
    if f"{name}/config.json" not in paths:
        raise FolderError(tree.name, f"{name}/config.json is missing")
    index_path, shards = _shards(tree, paths, name)
    return Component(
        name=name,
        library=library,
        class_name=class_name,
        config=tree.ref(f"{name}/config.json"),
        weights=tuple([tree.ref(shard) for shard in shards]),
        index=tree.ref(index_path) if index_path else None,
        dtype=_dtype(tree, shards),
    )


def _shards(tree: Tree, paths: Collection[str], name: str) -> tuple[str | None, list[str]]:
    """The shard index, where there is one, and the weights in its order."""
    for stem in WEIGHT_STEMS:
        single, index = (f"{name}/{file}" for file in weight_names(stem))
        if single in paths:
            return None, [single]
        if index in paths:
            shards = [f"{name}/{shard}" for shard in shards_of(tree, index)]
            if missing := [shard for shard in shards if shard not in paths]:
                raise FolderError(tree.name, f"{missing[0]} is missing")
            return index, shards
    for packed in (_gguf_in(paths, f"{name}/"), _only_file(paths)):
        if packed is not None:
            return None, [packed]
    others = [path for path in paths if path.startswith(f"{name}/") and Path(path).suffix in PICKLES]
    reason = f"only {min(others)}, and pickles are not accepted" if others else "no safetensors"
    raise FolderError(tree.name, f"{name} has {reason}")


def shards_of(tree: Tree, index: str) -> list[str]:
    """The files that a shard index names, each once. Raises `FolderError`."""
    named = read_json(tree, index).get("weight_map")
    shards = list(named.values()) if isinstance(named, dict) else []
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise FolderError(tree.name, f"{index} names no shards")
    return list(dict.fromkeys(shards))


def weight_names(stem: str) -> tuple[str, str]:
    """A weights file's name, and that of the index of its shards."""
    plain, dot, variant = stem.partition(".")
    return f"{stem}.safetensors", f"{plain}.safetensors.index{dot}{variant}.json"


def part_of(tree: Tree, component: Component) -> Part:
    """A component as an examiner asks for it: from its files' headers, whatever their size."""
    indexes = [tree.index(file.path) for file in component.weights]
    return Part(
        name=component.name,
        library=component.library,
        class_name=component.class_name,
        config=read_json(tree, component.config.path),
        shapes={name: tensor.shape for index in indexes for name, tensor in index.tensors.items()},
    )


def frame_of(tree: Tree, component: Component) -> Part:
    """A component without its weights: what an adapter is compared with."""
    config = read_json(tree, component.config.path)
    return Part(
        name=component.name, library=component.library, class_name=component.class_name, config=config
    )


def parts_of(tree: Tree, manifest: Manifest) -> tuple[Part, ...]:
    """What an examiner asks for. Packed ones are converted when loaded: names and shapes say nothing yet."""
    return tuple([part_of(tree, component) for component in manifest.components if not is_packed(component)])


def is_packed(component: Component) -> bool:
    """Whether its weights are no safetensors in a folder of its own."""
    return any(
        file.path.endswith(GGUF_SUFFIX) or not file.path.startswith(f"{component.name}/")
        for file in component.weights
    )


def _gguf_in(paths: Collection[str], folder: str) -> str | None:
    """The one GGUF file of a component's folder."""
    found = [path for path in paths if path.startswith(folder) and path.endswith(GGUF_SUFFIX)]
    return found[0] if len(found) == 1 else None


def _only_file(paths: Collection[str]) -> str | None:
    """A checkpoint that is one file beside the configs: whatever has no weights of its own is in there."""
    found = [path for path in paths if "/" not in path and path.endswith((".safetensors", GGUF_SUFFIX))]
    return found[0] if len(found) == 1 and found[0] != ADAPTER_FILE else None


def _dtype(tree: Tree, shards: Sequence[str]) -> str | None:
    if shards[0].endswith(GGUF_SUFFIX):
        return GGUF_DTYPE
    return weights.dominant_dtype([tree.index(shard) for shard in shards])


def sha256_of(file: Path, counted: Counted | None = None) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            if counted is not None:
                counted.bytes += len(chunk)
    return digest.hexdigest()


def read_json(tree: Tree, path: str) -> dict[str, Any]:
    """Half of a surrogate pair is text that nobody can send on or store. Raises `FolderError`."""
    content = tree.read(path)
    if len(content) > MAX_PARSED_BYTES:
        raise FolderError(tree.name, f"{path} is too large to be a config")
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FolderError(tree.name, f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FolderError(tree.name, f"{path} is not a JSON object")
    return value
