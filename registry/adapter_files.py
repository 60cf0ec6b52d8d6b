"""Manifests of adapters: which file of a tree is one, and what its header says of it. IO by the tree."""

from pathlib import Path
from typing import Literal

from registry import folders, weights
from registry.catalog import AdapterManifest, Digest, Manifest, Slug, Source, Variant
from registry.errors import FolderError


def read_adapter(
    folder: Path, base: Variant, base_manifest: Manifest, weight_name: str | None = None
) -> AdapterManifest:
    """The manifest of a LoRA folder. Raises `FolderError`, `WeightsError`."""
    name = weight_name or folders.ADAPTER_FILE
    if not (folder / name).is_file():
        raise FolderError(folder, f"{name} is missing")
    tree = folders.Folder(folder)
    source = Source(kind="path", location=str(folder.resolve()))
    return adapter_of(tree, source, name, base.slug, base_manifest.architecture)


def adapter_of(
    tree: folders.Tree, source: Source, weight_name: str, base: Slug, architecture: Digest
) -> AdapterManifest:
    index = tree.index(weight_name)
    return AdapterManifest(
        source=source,
        weights=tree.ref(weight_name),
        base=base,
        architecture=architecture,
        rank=_rank(index),
        layout=_layout(index),
    )


def adapter_file(tree: folders.Tree, weight_name: str | None) -> str:
    """Without a name there must be exactly one safetensors file. Raises `FolderError`."""
    found = [path for path in tree.paths() if path.endswith(".safetensors")]
    if not found:
        raise FolderError(tree.name, "no safetensors file")
    if weight_name is None and len(found) > 1:
        several = f"{', '.join(found[:2])}{', …' if found[2:] else ''}"
        raise FolderError(
            tree.name, f"{len(found)} safetensors files ({several}); say which in `weight_name`"
        )
    if weight_name is not None and weight_name not in found:
        raise FolderError(tree.name, f"{weight_name} is missing")
    return weight_name or found[0]


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
