"""What a source holds, whatever its kind: opened as a tree, read into a manifest, examined against its configs. IO."""

import asyncio
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from registry import adapter_files, examination, folders, hub, site, uploads
from registry.catalog import AdapterManifest, Manifest, Record, Source, Version
from registry.errors import FolderError, MisfitError
from registry.examination import Examiner, Lora, Question, Verdict


class Place(Record, frozen=True, kw_only=True):
    """Where contents are read from, and who says whether they fit."""

    home: Path
    endpoint: hub.Endpoint = hub.Endpoint()
    allow_private: bool = False  # whether addresses may lie inside private networks
    examine: Examiner = examination.nobody


class Contents(NamedTuple):
    """A manifest, and the parts of which nobody could say whether they fit."""

    manifest: Manifest
    unexamined: tuple[str, ...]


class AdapterContents(NamedTuple):
    manifest: AdapterManifest
    unexamined: tuple[str, ...]


def open_tree(place: Place, source: Source, counted: folders.Counted) -> tuple[folders.Tree, Source]:
    """The tree, and the source as hosts will find it: uploads are folders here, revisions are commits. Blocks."""
    match source.kind:
        case "upload":
            folder = uploads.folder_of(place.home, source.location)
            return folders.Folder(folder, counted), Source(kind="path", location=str(folder.resolve()))
        case "path":
            return folders.Folder(Path(source.location, source.subfolder or ""), counted), source
        case "hub":
            repository = hub.Repository(place.endpoint, source, counted)
            return repository, hub.pinned(source, repository)
        case "url":
            return site.Site(source, allow_private=place.allow_private, counted=counted), source


async def read_version(place: Place, source: Source, counted: folders.Counted) -> Contents:
    """Raises `CatalogError`s, `WeightsError`s."""

    def read() -> tuple[Manifest, Question]:
        tree, found = open_tree(place, source, counted)
        manifest = folders.read_tree(tree, found)
        parts = folders.parts_of(tree, manifest)
        return manifest, Question(pipeline_class=manifest.pipeline_class, parts=parts)

    manifest, question = await asyncio.to_thread(read)
    verdict = _accepted(await place.examine(question))
    return Contents(manifest, verdict.unexamined)


async def read_adapter(
    place: Place, source: Source, weight_name: str | None, base: Version, counted: folders.Counted
) -> AdapterContents:
    """Raises `CatalogError`s, `WeightsError`s."""

    def read() -> tuple[AdapterManifest, Question]:
        tree, found = open_tree(place, source, counted)
        name = (
            _file_of(found, weight_name)
            if found.kind == "url"
            else adapter_files.adapter_file(tree, weight_name)
        )
        manifest = adapter_files.adapter_of(tree, found, name, base.variant, base.manifest.architecture)
        return manifest, adapter_question(place, tree, name, base.manifest)

    manifest, question = await asyncio.to_thread(read)
    verdict = _accepted(await place.examine(question))
    return AdapterContents(described(manifest, verdict), verdict.unexamined)


def adapter_question(place: Place, tree: folders.Tree, name: str, base: Manifest) -> Question:
    """Does this file fit a model of the base's configs? Blocks."""
    index = tree.index(name)
    base_tree, _ = open_tree(place, base.source, folders.Counted())
    return Question(
        pipeline_class=base.pipeline_class,
        parts=tuple([folders.frame_of(base_tree, component) for component in base.components]),
        lora=Lora(
            shapes={key: tensor.shape for key, tensor in index.tensors.items()}, metadata=index.metadata
        ),
    )


def described(manifest: AdapterManifest, verdict: Verdict) -> AdapterManifest:
    """What an examination found out is more than what the names alone say."""
    found = {
        name: value for name in ("rank", "layout", "target_modules") if (value := getattr(verdict, name))
    }
    return msgspec.structs.replace(manifest, **found)


def _file_of(source: Source, weight_name: str | None) -> str:
    """Which file an address means: the one it ends with, unless another is named."""
    name = weight_name or unquote(urlsplit(source.location).path.rpartition("/")[2])
    if not name.endswith(".safetensors"):
        raise FolderError(source.location, "it does not end with the name of a .safetensors file")
    return name


def _accepted(verdict: Verdict) -> Verdict:
    if verdict.error is not None:
        raise MisfitError(verdict.error, verdict.message or verdict.error)
    return verdict
