"""What a host moves: components and adapters, with the steps that bring their files to disk, memory and device.

IO through `store`, `reader` and `device`. An item knows its files and its layout; it refuses to know budgets.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from loaders import adapters, layout, reader
from loaders.device import Arena, Device
from loaders.pipelines.built import Built
from loaders.pipelines.modules import keep_float32
from loaders.store import Store
from registry.catalog import AdapterManifest, Component, Digest, FileRef, Manifest, Source, digest_of


class Bound(msgspec.Struct, frozen=True):
    """A component's payload: its weights by slot name, and the arena that holds them."""

    arena: Arena
    views: Mapping[str, Any]


class ComponentItem:
    """One component of a version. Its digest also says the dtype it is cast to, where that is not its own."""

    def __init__(
        self,
        component: Component,
        source: Source,
        built: Built,
        store: Store,
        device: Device,
        dtype: str | None,
    ) -> None:
        self._component = component
        self._source = source
        self._built = built
        self._store = store
        self._device = device
        self._dtype = dtype
        self._layout: layout.Layout | None = None
        self.reported: Digest = component.digest
        self.digest: Digest = (
            component.digest
            if dtype in {None, component.dtype}
            else digest_of({"cast": component.digest, "dtype": dtype})
        )

    @property
    def disk_bytes(self) -> int:
        return self._component.size_bytes

    def fetch(self) -> None:
        self._paths()

    def measure(self) -> int:
        return self._plan().size_bytes

    def load(self) -> Bound:
        arena = reader.read(self._paths(), self._plan(), self._device)
        return self._bound(arena)

    def copy(self, payload: Bound) -> Bound:
        return self._bound(self._device.to_device(payload.arena))

    def _paths(self) -> list[Path]:
        return [self._store.ensure(file, self._source) for file in self._component.weights]

    def _plan(self) -> layout.Layout:
        if self._layout is None:
            headers = reader.read_headers(self._paths())
            names = self._names(frozenset(name for header in headers for name in header.tensors))
            self._layout = layout.lay_out(
                headers,
                dtype_of=layout.casting(self._dtype, keep_float32(self._component)),
                wanted=frozenset(names.values()).__contains__,
            )
        return self._layout

    def _names(self, file_names: frozenset[str]) -> Mapping[str, str]:
        return self._built.names_for(self._component, file_names)

    def _bound(self, arena: Arena) -> Bound:
        names = self._names(frozenset(arena.views))
        return Bound(arena, {slot: arena.views[name] for slot, name in names.items()})


class AdapterItem:
    """One LoRA, parsed for one architecture."""

    def __init__(
        self, manifest: AdapterManifest, architecture: Digest, built: Built, store: Store, device: Device
    ) -> None:
        self._manifest = manifest
        self._built = built
        self._store = store
        self._device = device
        self.reported: Digest = manifest.digest
        self.digest: Digest = (
            manifest.digest
            if architecture == manifest.architecture
            else digest_of({"adapter": manifest.digest, "architecture": architecture})
        )  # parsing depends on the pipeline class

    @property
    def disk_bytes(self) -> int:
        return self._manifest.size_bytes

    def fetch(self) -> None:
        self._path()

    def measure(self) -> int:
        return layout.lay_out(reader.read_headers([self._path()])).size_bytes

    def load(self) -> adapters.Lora:
        headers = reader.read_headers([self._path()])
        arena = reader.read([self._path()], layout.lay_out(headers), self._device)
        modules = {role: slots.module for role, slots in self._built.slots.items()}
        lora = adapters.parse(arena.views, headers[0].metadata, self._built.pipeline_class, modules)
        adapters.check(lora, {role: slots.shapes for role, slots in self._built.slots.items()})
        return lora

    def copy(self, payload: adapters.Lora) -> adapters.Lora:
        return adapters.moved(payload, self._device.torch_device)

    def _path(self) -> Path:
        return self._store.ensure(self._manifest.weights, self._manifest.source)


def read_configs(manifest: Manifest, read: Callable[[FileRef, Source], bytes]) -> dict[str, dict[str, Any]]:
    """Each component's config by role."""
    return {
        component.name: msgspec.json.decode(read(component.config, manifest.source), type=dict[str, Any])
        for component in manifest.components
    }
