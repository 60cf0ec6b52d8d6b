"""What a host moves: components and adapters, with the steps that bring their files to disk, memory and device.

IO through `store`, `reader` and `device`. An item knows its files and its layout; it refuses to know budgets.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from loaders import adapters, layout, reader
from loaders.blocks import Block
from loaders.buffers import trim
from loaders.device import Arena, Device
from loaders.errors import ArchitectureError
from loaders.headers import Header
from loaders.interest import Interest
from loaders.motion import Tally
from loaders.partial import named
from loaders.pipelines import packings
from loaders.pipelines.built import Built
from loaders.pipelines.modules import keep_float32, load_by_library
from loaders.pipelines.narrow import names as narrow_names
from loaders.store import Store
from registry.catalog import AdapterManifest, Component, Digest, FileRef, Source, digest_of
from registry.folders import GGUF_SUFFIX

COPIES = 4  # of one weight, while GGUF's arithmetic makes float32 of it


class Bound(msgspec.Struct, frozen=True):
    """A component's payload: its weights by slot name, and the arena that holds them."""

    arena: Arena
    views: Mapping[str, Any]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant's defaults say of how its weights are held."""

    dtype: str | None = None  # computed in; None: as stored
    storage: str | None = None  # of a denoiser's large weights, narrower than they are computed in

    def digest_of(self, component: Component) -> Digest:
        """The component's own, where it is held as it is stored."""
        said = {} if self.dtype in {None, component.dtype} else {"dtype": self.dtype}
        if self.storage is not None:
            said["storage"] = self.storage
        return digest_of({"cast": component.digest, **said}) if said else component.digest


def form(defaults: Mapping[str, Any]) -> Form:
    """Raises `ArchitectureError`."""
    storage = defaults.get("storage")
    if storage is not None and storage not in layout.UPCAST:
        raise ArchitectureError(
            f"no storage is called {storage!r}; there are: {', '.join(sorted(layout.UPCAST))}"
        )
    return Form(dtype=defaults.get("dtype"), storage=storage)


class ComponentItem:
    """One component of a version. Its digest also says in what form it is held, where that is not its own."""

    def __init__(
        self,
        component: Component,
        source: Source,
        built: Built,
        store: Store,
        device: Device,
        form: Form,
    ) -> None:
        self._component = component
        self._source = source
        self._slots = built.slots[component.name]
        self._store = store
        self._device = device
        self._form = form
        self._is_foreign = False  # the files name the weights otherwise than the module does
        self._layout: layout.Layout | None = None
        self.reported: Digest = component.digest
        self.digest: Digest = form.digest_of(component)

    @property
    def storage(self) -> str | None:
        return self._form.storage

    @property
    def computed(self) -> str:
        """The dtype that narrow weights are widened to."""
        stored = self._component.dtype or "float32"
        return self._form.dtype or layout.UPCAST.get(stored, stored)

    @property
    def disk_bytes(self) -> int:
        return self._store.takes(self._component.weights, self._source)

    def fetch(self, interest: Interest) -> None:
        """All or none: shards of a component that does not come whole may be evicted for others."""
        component = self._component
        besides = (component.config, component.index) if self._is_foreign else ()
        try:
            for file in (*component.weights, *besides):
                if file is not None:
                    self._store.ensure(file, self._source, interest)
        except BaseException:
            for file in component.weights:
                self._store.release(file.sha256)
            raise

    def measure(self) -> int:
        return self._plan().size_bytes

    def aside(self) -> int:
        """What the library's loader holds at most: the file's weights as it reads them, or its module and our copy.

        GGUF weights are computed back to float32 before they become what is wanted, one at a time with its copies.
        """
        if not self._is_foreign:
            return 0
        weights = self._component.weights
        read_bytes = sum(file.size_bytes for file in weights)
        if weights[0].path.endswith(GGUF_SUFFIX):
            names = set(self._slots.unique().values())
            counts = [math.prod(self._slots.shapes[name]) for name in names]
            read_bytes = 4 * (sum(counts) + COPIES * max(counts, default=0))
        return max(read_bytes, self._plan().size_bytes)

    def load(self, interest: Interest) -> Bound:
        if self._is_foreign:
            return self._bound(self._converted())
        return self._bound(self._read(interest))

    def load_onward(self, interest: Interest) -> tuple[Bound, Bound | None]:
        if self._is_foreign:
            return self.load(interest), None
        landing = self._device.landing(self._plan())
        arena = self._read(interest, landing.advance)
        return self._bound(arena), self._bound(landing.finish(arena, interest.step))

    def copy(self, payload: Bound, interest: Interest) -> Bound:
        return self._bound(self._device.to_device(payload.arena, interest.step))

    def _read(self, interest: Interest, on_filled: reader.OnFilled | None = None) -> Arena:
        files, name = self._component.weights, self._component.name
        return _read(self._store, files, self._plan(), self._device, interest, name=name, on_filled=on_filled)

    def _paths(self) -> list[Path]:
        return [self._store.here(file) for file in self._component.weights]

    def _plan(self) -> layout.Layout:
        if self._layout is None:
            self._layout = self._layout_of_files() or self._own_layout()
        return self._layout

    def _layout_of_files(self) -> layout.Layout | None:
        """None where they have to be converted."""
        self._is_foreign = self._component.weights[0].path.endswith(GGUF_SUFFIX)
        if self._is_foreign:
            return None
        headers = reader.read_headers(self._paths())
        file_names = frozenset(name for header in headers for name in header.tensors)
        packings.refuse_scaled(file_names)
        try:
            names = self._slots.names_for(file_names)
        except ArchitectureError:
            self._is_foreign = True
            return None
        dtype_of = layout.casting(self._form.dtype, keep_float32(self._component))
        if self._form.storage is not None:
            narrow = frozenset(names[name] for name in narrow_names(self._slots) if name in names)
            dtype_of = layout.narrowing(dtype_of, narrow, self._form.storage)
        return layout.lay_out(headers, dtype_of=dtype_of, wanted=frozenset(names.values()).__contains__)

    def _own_layout(self) -> layout.Layout:
        """For files in another release's layout: the module's own names, whatever they are called in there."""
        stored, slots = self._component.dtype, self._slots
        computed = self._form.dtype or layout.UPCAST.get(stored or "", stored)
        chosen = layout.casting(computed, keep_float32(self._component))
        if self._form.storage is not None:
            chosen = layout.narrowing(chosen, narrow_names(slots), self._form.storage)
        return layout.pack(
            {
                name: (chosen(name, str(slots.slots[name].dtype).removeprefix("torch.")), slots.shapes[name])
                for name in dict.fromkeys(slots.unique().values())
            }
        )

    def _converted(self) -> Arena:
        """By the library's own loader, then into an arena like all others."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            files = (self._component.config, *self._component.weights, self._component.index)
            for file in (file for file in files if file is not None):
                (folder / Path(file.path).name).symlink_to(self._store.here(file).absolute())
            found = load_by_library(self._component, folder, self._form.dtype)
        trim()  # the file's weights as they were read are gone; room was booked for one of the two
        arena = Arena(self._device.host_buffer(self._plan().size_bytes), self._plan())
        for name, view in arena.views.items():
            view.copy_(found[name].detach())
        return arena

    def _bound(self, arena: Arena) -> Bound:
        slots = self._slots
        names = slots.unique() if self._is_foreign else slots.names_for(frozenset(arena.views))
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
        self._size_bytes: int | None = None
        self.reported: Digest = manifest.digest
        self.digest: Digest = (
            manifest.digest
            if architecture == manifest.architecture
            else digest_of({"adapter": manifest.digest, "architecture": architecture})
        )  # parsing depends on the pipeline class

    @property
    def disk_bytes(self) -> int:
        return self._store.takes((self._manifest.weights,), self._manifest.source)

    def fetch(self, interest: Interest) -> None:
        self._store.ensure(self._manifest.weights, self._manifest.source, interest)

    def measure(self) -> int:
        if self._size_bytes is None:
            self._size_bytes = layout.lay_out(self._headers()).size_bytes
        return self._size_bytes

    def aside(self) -> int:
        return 0

    def load(self, interest: Interest) -> adapters.Lora:
        plan = layout.lay_out(self._headers())
        weights = self._manifest.weights
        arena = _read(self._store, (weights,), plan, self._device, interest, name=weights.path)
        modules = {role: slots.module for role, slots in self._built.slots.items()}
        lora = adapters.parse(arena.views, self._headers()[0].metadata, self._built.pipeline_class, modules)
        adapters.check(lora, {role: slots.shapes for role, slots in self._built.slots.items()})
        return lora

    def load_onward(self, interest: Interest) -> tuple[adapters.Lora, None]:
        return self.load(interest), None

    def copy(self, payload: adapters.Lora, interest: Interest) -> adapters.Lora:
        return adapters.moved(payload, self._device.gathered)

    def _headers(self) -> tuple[Header, ...]:
        return reader.read_headers([self._path()])

    def _path(self) -> Path:
        return self._store.here(self._manifest.weights)


def _read(
    store: Store,
    files: Sequence[FileRef],
    plan: layout.Layout,
    device: Device,
    interest: Interest,
    *,
    name: str,
    on_filled: reader.OnFilled | None = None,
) -> Arena:
    """The verified bytes. Raises `NotHereError` for files that change meanwhile: they have to be had again."""
    sizes = [place.source.size_bytes for place in plan.places]
    tally = Tally(name, sum(sizes), sum(map(bool, sizes)))

    def moved(block: Block) -> None:
        interest.moved(tally.add(block.size_bytes, block.tensors))
        interest.check()

    try:
        with named("the weights"):
            paths = [store.here(file) for file in files]
            return reader.read(paths, plan, device, on_block=moved, on_filled=on_filled)
    finally:
        for file in files:  # also where the reader took a file that changed for a damaged one
            store.here(file)
