"""What a name means to somebody without a router: a folder, a slug of the catalogue file, or a repository on the Hub.

IO: reads headers and digests, wherever they lie. A folder is looked at anew each time, because it may have been saved
again; a repository is found once, and again by what was found before where the Hub does not answer. It refuses to run
anything.
"""

import contextlib
import difflib
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import structlog

from loaders import adapters, whole
from loaders.digests import Digests, Stamp, stamp
from loaders.errors import (
    InputError,
    SourceDownError,
    WeightsDamagedError,
    WeightsGatedError,
    WeightsMissingError,
)
from loaders.interest import Interest
from registry import adapter_files, defaults, folders, hub, manifest, site
from registry.catalog import AdapterManifest, Catalog, Manifest, Slug, Source, Variant
from registry.errors import (
    AddressError,
    FolderError,
    GatedError,
    HubError,
    HubSilentError,
    WeightsError,
)
from registry.settings import Settings

REPOSITORY = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w.-]+?)(/(?P<file>.+\.safetensors))?(@(?P<revision>[^@]+))?"
)

log = structlog.get_logger("marquee.finding")

Look = tuple[tuple[str, Stamp], ...]  # how a folder's files look


class Finding:
    """Over one home and at most one catalogue file."""

    def __init__(
        self, settings: Settings, catalog_file: Path | None, *, home: Path, digests: Digests
    ) -> None:
        self._settings = settings
        self._catalog_file = catalog_file
        self._folder = home / "found"
        self._digests = digests
        self._known: dict[str, tuple[Look | None, Manifest]] = {}

    def manifest(self, name: str, interest: Interest) -> Manifest:
        """Raises `WeightsMissingError`, `WeightsGatedError`, `WeightsDamagedError`, `SourceDownError`."""
        with _translated(name):
            source = self._source(name)
            look = _look(self._local(source)) if source.kind == "path" else None
            known = self._known.get(name)
            if known is None or known[0] != look:
                made = self._of_hub(name, source) if source.kind == "hub" else self._read(source, interest)
                known = self._known[name] = look, made
        return known[1]

    def adapter(self, lora: str, base: Manifest, interest: Interest) -> AdapterManifest:
        """Of a file, a folder, an adapter's slug, or a repository (with a file of it). Raises as `manifest`, and
        `InputError` where there is none.
        """
        path = Path(lora)
        with _translated(lora):
            if path.is_dir():
                path = path / folders.ADAPTER_FILE
            if path.is_file():
                digest = functools.partial(self._digests.of, interest=interest)
                return adapters.describe(path, architecture=base.architecture, digest=digest)
            entry = next((a for a in self._catalog.adapters if a.slug == Slug(lora)), None)
            if entry is not None:
                tree, source = self._tree(entry.source, interest)
                name = _file_of(tree, source, entry.weight_name)
                return adapter_files.adapter_of(tree, source, name, entry.base, base.architecture)
            return self._adapter_of_hub(lora, base)

    def defaults(self, name: str) -> Mapping[str, Any]:
        """What the catalogue says of a slug's runs: dtype, steps…"""
        variant = None if Path(name).is_dir() else self._variant(name)
        return {} if variant is None else defaults.for_hosts(variant)

    def _source(self, name: str) -> Source:
        """A folder before a slug before a repository."""
        if Path(name).is_dir():
            return Source(kind="path", location=str(Path(name).resolve()))
        variant = self._variant(name)
        if variant and variant.source:
            return variant.source
        found = REPOSITORY.fullmatch(name)
        if found is None or found["file"]:
            return Source(kind="hub", location=name)
        return Source(kind="hub", location=found["repo"], revision=found["revision"])

    def _variant(self, name: str) -> Variant | None:
        return next((v for v in self._catalog.variants if v.slug == Slug(name)), None)

    @functools.cached_property
    def _catalog(self) -> Catalog:
        if self._catalog_file is None or not self._catalog_file.is_file():
            return Catalog()
        return manifest.parse(
            self._catalog_file.read_text(), lambda kind, name: {}
        )  # schemas are a gateway's business

    def _local(self, source: Source) -> Path:
        folder = Path(source.location, source.subfolder or "")
        return folder if self._catalog_file is None else self._catalog_file.resolve().parent / folder

    def _read(self, source: Source, interest: Interest) -> Manifest:
        return folders.read_tree(*self._tree(source, interest))

    def _tree(self, source: Source, interest: Interest) -> tuple[folders.Tree, Source]:
        """Its files, read from where they are, and the source as the store will find it. Weights stay there."""
        if source.kind == "url":
            return site.Site(source, allow_private=True), source
        if source.kind == "hub":
            found = self._repository(source)
            return found, hub.pinned(source, found)
        folder = self._local(source)
        digest = functools.partial(self._digests.of, interest=interest)
        return folders.Folder(folder, digest=digest), Source(kind="path", location=str(folder.resolve()))

    def _repository(self, source: Source) -> hub.Repository:
        from huggingface_hub import get_token

        token = self._settings.hub_token or get_token()
        return hub.Repository(hub.Endpoint(url=self._settings.hub_endpoint, token=token), source)

    def _of_hub(self, name: str, source: Source) -> Manifest:
        """Weights that are here run although the Hub is away, as they were found last."""
        path = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.msgpack"
        try:
            found = self._repository(source)
            made = folders.read_tree(found, hub.pinned(source, found))
        except HubSilentError as error:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                known = msgspec.msgpack.decode(path.read_bytes(), type=Manifest)
                log.warning("the Hub is away; as found last", repository=name, revision=known.source.revision)
                return known
            raise SourceDownError(self._said(name, error)) from error
        except GatedError:
            raise
        except HubError as error:
            raise WeightsMissingError(self._said(name, error)) from error
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            whole.write(path, msgspec.msgpack.encode(made))
        return made

    def _said(self, name: str, error: HubError) -> str:
        if self._variant(name) is not None:
            return f"{name}: {error}"
        if Path(name).is_file():
            return f"{name} is a file; a model is a folder with model_index.json, where one file beside the configs will do"
        meant = _meant(name, [variant.slug for variant in self._catalog.variants])
        return f"{name} is no folder, no slug of the catalogue{meant}, and no repository that the Hub gives us: {error}"

    def _adapter_of_hub(self, lora: str, base: Manifest) -> AdapterManifest:
        meant = _meant(lora, [adapter.slug for adapter in self._catalog.adapters])
        found = REPOSITORY.fullmatch(lora)
        if meant or found is None or (found["repo"].endswith(".safetensors") and not found["file"]):
            raise InputError(
                f"there is no LoRA {lora}, neither a file nor a slug of the catalogue{meant}", "loras"
            )
        source = Source(kind="hub", location=found["repo"], revision=found["revision"])
        try:
            tree = self._repository(source)
        except (HubSilentError, GatedError):
            raise
        except HubError as error:
            raise InputError(
                f"there is no LoRA {lora}, neither a file, nor a slug of the catalogue, nor a repository: {error}",
                "loras",
            ) from error
        file = adapter_files.adapter_file(tree, found["file"])
        slug = Slug("local/base")
        return adapter_files.adapter_of(tree, hub.pinned(source, tree), file, slug, base.architecture)


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """The registry's refusals, and a disk's, under this package's names."""
    try:
        yield
    except GatedError as error:
        raise WeightsGatedError(str(error)) from error
    except HubSilentError as error:
        raise SourceDownError(str(error)) from error
    except WeightsError as error:
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise WeightsDamagedError(f"{name}: {error}{where}") from error
    except (FolderError, AddressError, HubError) as error:
        said = str(error)
        raise WeightsMissingError(said if said.startswith(name) else f"{name}: {said}") from error
    except OSError as error:
        raise WeightsMissingError(f"{name} cannot be read: {error}") from error


def _look(folder: Path) -> Look:
    """Of every file in it. Raises `OSError`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return tuple((str(file), stamp(file)) for file in files)


def _meant(wrong: str, names: Sequence[str]) -> str:
    """What of our own was probably misspelt, as words behind the error."""
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.8)
    return f" (did you mean {near[0]}?)" if near else ""


def _file_of(tree: folders.Tree, source: Source, given: str | None) -> str:
    """Which file of its source an adapter is."""
    if given is not None or source.kind == "path":
        return given or folders.ADAPTER_FILE
    if source.kind == "url":
        return unquote(urlsplit(source.location).path.rpartition("/")[2])
    return adapter_files.adapter_file(tree, None)
