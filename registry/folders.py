"""Manifests of pipelines and adapters that lie in a folder: reads their JSON, hashes files, checks weights. IO.

It believes contents, not names, and follows no path out of the folder. Files it does not know are left out.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from registry import weights
from registry.catalog import AdapterManifest, Component, FileRef, Manifest, Source, Variant
from registry.errors import FolderError, TruncatedError, WeightsError

CHUNK_BYTES = 8 << 20
SIDE_FOLDERS = ("scheduler", "tokenizer", "feature_extractor", "image_processor", "processor")
SIDE_SUFFIXES = {".json", ".txt", ".model", ".jinja"}
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
MAX_JSON_BYTES = 64 << 20
ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def read_pipeline(folder: Path, source: Source | None = None) -> Manifest:
    """The manifest of a diffusers pipeline as `save_pretrained` writes it. Raises `FolderError`, `WeightsError`."""
    index = _json(folder, "model_index.json")
    pipeline_class = index.get("_class_name")
    if not isinstance(pipeline_class, str):
        raise FolderError(folder, "model_index.json names no pipeline class")
    parts = {name: tuple(value) for name, value in sorted(index.items()) if _is_part(value)}
    components = tuple(
        _component(folder, name, str(library), str(class_name))
        for name, (library, class_name) in parts.items()
        if not name.startswith(SIDE_FOLDERS)
    )
    if not components:
        raise FolderError(folder, "model_index.json names no component with weights")
    assets = [_ref(folder, folder / "model_index.json")]
    assets += [
        _ref(folder, file)
        for name in parts
        for file in _files(folder / name)
        if name.startswith(SIDE_FOLDERS) and file.suffix in SIDE_SUFFIXES
    ]
    return Manifest(
        pipeline_class=pipeline_class,
        source=source or Source(kind="path", location=str(folder.resolve())),
        components=components,
        assets=tuple(assets),
    )


def read_adapter(
    folder: Path, base: Variant, base_manifest: Manifest, weight_name: str | None = None
) -> AdapterManifest:
    """The manifest of a LoRA folder. Raises `FolderError`, `WeightsError`."""
    file = folder / (weight_name or ADAPTER_FILE)
    if not file.is_file():
        raise FolderError(folder, f"{file.name} is missing")
    index = read_index(file)
    return AdapterManifest(
        source=Source(kind="path", location=str(folder.resolve())),
        weights=_ref(folder, file),
        base=base.slug,
        architecture=base_manifest.architecture,
        rank=_rank(index),
        layout=_layout(index),
    )


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


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)


def _component(folder: Path, name: str, library: str, class_name: str) -> Component:
    place = folder / name
    if not (place / "config.json").is_file():
        raise FolderError(folder, f"{name}/config.json is missing")
    index_file, shards = _shards(folder, name)
    indexes = [read_index(shard) for shard in shards]
    return Component(
        name=name,
        library=library,
        class_name=class_name,
        config=_ref(folder, place / "config.json"),
        weights=tuple(_ref(folder, shard) for shard in shards),
        index=_ref(folder, index_file) if index_file else None,
        dtype=weights.dominant_dtype(indexes),
    )


def _shards(folder: Path, name: str) -> tuple[Path | None, list[Path]]:
    """The shard index, where there is one, and the weights in its order."""
    for stem in WEIGHT_STEMS:
        single = folder / name / f"{stem}.safetensors"
        if single.is_file():
            return None, [single]
        index = folder / name / f"{stem}.safetensors.index.json"
        if index.is_file():
            names = dict.fromkeys(_json(folder / name, index.name).get("weight_map", {}).values())
            shards = [_inside(folder, folder / name / str(shard)) for shard in names]
            if missing := [shard.name for shard in shards if not shard.is_file()]:
                raise FolderError(folder, f"{name}/{missing[0]} is missing")
            return index, shards
    others = [
        file.name for file in _files(folder / name) if file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
    ]
    reason = f"only {others[0]}, and pickles are not accepted" if others else "no safetensors"
    raise FolderError(folder, f"{name} has {reason}")


def _inside(folder: Path, file: Path) -> Path:
    if not file.resolve().is_relative_to(folder.resolve()):
        raise FolderError(folder, f"{file.name} leads out of the folder")
    return file


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def _ref(folder: Path, file: Path) -> FileRef:
    return FileRef(
        path=_inside(folder, file).relative_to(folder).as_posix(),
        size_bytes=file.stat().st_size,
        sha256=sha256_of(file),
    )


def sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _json(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name
    if not file.is_file():
        raise FolderError(folder, f"{name} is missing")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise FolderError(folder, f"{name} is too large")
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FolderError(folder, f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FolderError(folder, f"{name} is not a JSON object")
    return value


def _layout(index: weights.Index) -> Literal["diffusers", "kohya"]:
    return (
        "kohya"
        if any("lora_down" in name or name.startswith("lora_") for name in index.tensors)
        else "diffusers"
    )


def _rank(index: weights.Index) -> int | None:
    """The rank of the first down projection: its output dimension."""
    for name, tensor in index.tensors.items():
        if ("lora_A" in name or "lora_down" in name) and tensor.shape:
            return tensor.shape[0]
    return None
