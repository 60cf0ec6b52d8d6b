"""Turns a manifest into what can run: the architecture built once, its pipeline over the version's assets, its items.

IO through `store`. Called by the mover thread only, so that building never holds up a run; it waits for no source:
`fetch` brings the small files before, on another thread.
"""

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cachetools import LRUCache

from loaders import fetchers, items
from loaders.device import Device
from loaders.errors import ArchitectureError
from loaders.interest import Interest
from loaders.pipelines.blocks import is_denoiser
from loaders.pipelines.built import Built
from loaders.store import Store
from registry.catalog import AdapterManifest, Digest, Manifest, digest_of

SMALL_FILES_AT_ONCE = 8  # what they cost is waiting
LEFT_SECONDS = 3600.0  # after which a half-made folder is no other process's at work
KEPT_VERSIONS = 256  # a version's layout, a few thousand tensors, takes a megabyte or two


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A version that has everything but its weights."""

    manifest: Manifest
    built: Built
    assets: Path  # a folder with scheduler, tokenizers and the rest
    components: tuple[items.ComponentItem, ...]  # in the manifest's order

    @property
    def computed(self) -> str | None:
        """The dtype that its denoiser computes in."""
        pairs = zip(self.manifest.components, self.components, strict=True)
        slots = self.built.slots
        return next((item.computed for part, item in pairs if is_denoiser(slots[part.name].module)), None)


class Assembly:
    """Keeps what it built: modules per architecture, pipelines per set of assets, items per version."""

    def __init__(self, home: Path, store: Store, device: Device) -> None:
        self._folder = home / "assets"
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in (*self._folder.glob("old-*"), *self._folder.glob("new-*")):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if left.name.startswith("old-") or time.time() - left.stat().st_mtime > LEFT_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        self._store = store
        self._device = device
        self._built: dict[Digest, Built] = {}
        self._ready: LRUCache[tuple[Digest, items.Form], Ready] = LRUCache(KEPT_VERSIONS)

    def ready(self, manifest: Manifest, defaults: Mapping[str, Any]) -> Ready:
        """Raises `ArchitectureError`, and `NotHereError` before `fetch` brought the small files."""
        form = items.form(defaults)
        key = (manifest.digest, form)
        found = self._ready.get(key)
        if found is None:
            found = self._ready[key] = self._made(manifest, form)
        return found

    def fetch(self, manifest: Manifest, interest: Interest) -> None:
        """Configs and assets, from wherever they are. Any thread."""
        files = (*(component.config for component in manifest.components), *manifest.assets)
        fetchers.side_by_side(
            [functools.partial(self._store.ensure, file, manifest.source, interest) for file in files],
            SMALL_FILES_AT_ONCE,
        )

    def _made(self, manifest: Manifest, form: items.Form) -> Ready:
        built = self._architecture(manifest)
        folder = self._assets(manifest)
        built.pipeline(folder)
        return Ready(
            manifest=manifest,
            built=built,
            assets=folder,
            components=tuple(
                items.ComponentItem(component, manifest.source, built, self._store, self._device, form)
                for component in manifest.components
            ),
        )

    def adapters(self, ready: Ready, manifests: Sequence[AdapterManifest]) -> tuple[items.AdapterItem, ...]:
        architecture = ready.manifest.architecture
        return tuple(
            items.AdapterItem(manifest, architecture, ready.built, self._store, self._device)
            for manifest in manifests
        )

    def _architecture(self, manifest: Manifest) -> Built:
        if manifest.architecture not in self._built:
            configs = {
                part.name: msgspec.json.decode(
                    self._store.here(part.config).read_bytes(), type=dict[str, Any]
                )
                for part in manifest.components
            }
            self._built[manifest.architecture] = Built(manifest, configs, self._device.torch_device)
        return self._built[manifest.architecture]

    def _assets(self, manifest: Manifest) -> Path:
        """A folder that looks like the repository without weights, made of links to verified files."""
        names = {asset.path: asset.sha256 for asset in manifest.assets}
        folder = self._folder / digest_of(names).removeprefix("sha256:")
        paths = {asset.path: self._store.here(asset) for asset in manifest.assets}
        if any(part == ".." or path.startswith("/") for path in paths for part in path.split("/")):
            raise ArchitectureError("an asset's path leaves its folder")
        targets = {path: str(target.absolute()) for path, target in paths.items()}
        if not _leads_to(folder, targets):
            _link(folder, targets)
        return folder


def _leads_to(folder: Path, targets: Mapping[str, str]) -> bool:
    try:
        return all(str((folder / path).readlink()) == target for path, target in targets.items())
    except OSError:
        return False


def _link(folder: Path, targets: Mapping[str, str]) -> None:
    """Made aside, then moved into its place. Processes of one home may do so at once: the first one's stays."""
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
    try:
        for path, target in targets.items():
            link = fresh / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        if folder.exists():
            with contextlib.suppress(OSError):  # another process was faster
                folder.replace(Path(tempfile.mkdtemp(dir=folder.parent, prefix="old-")))
        try:
            fresh.replace(folder)
        except OSError:
            if not _leads_to(folder, targets):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def warm_up() -> None:
    """Imports what every pipeline needs; seconds the first time."""
    import accelerate  # noqa: F401
    import transformers
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # noqa: F401

    transformers.logging.set_verbosity_error()  # its advice (install torchvision…) is not for operators
