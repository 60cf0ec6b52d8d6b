"""A component without weights: built from its config, with named slots that point wherever they are told.

Touches torch and the model libraries, no files. A module is built once per architecture and role; `point` leads
its parameters into an arena, `unbind` lets go of it. Nothing is copied, so a swap costs a pointer per tensor and a
compiled module stays valid.
"""

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import ArchitectureError
from loaders.layout import UPCAST
from loaders.pipelines import packings
from registry.catalog import Component
from registry.folders import is_packed

if TYPE_CHECKING:
    import torch

LIBRARIES = frozenset({"diffusers", "transformers"})  # a repository's own code is never run
OWN_KERNELS = (
    None,
    "eager",
    "sdpa",
    "flex_attention",
    "batched_mm",
    "grouped_mm",
)  # that come with the libraries
PREFIXES = (
    "text_model.",
    "model.",
    "transformer.",
)  # what releases of the libraries put before names, or dropped


class Slots:
    """A module and its weight slots by name. One slot has several names where weights are tied."""

    def __init__(self, module: Any, device: "torch.device") -> None:
        self.module = module
        self.slots: dict[str, torch.Tensor] = dict(_open_slots(module, device))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._empty = {name: slot.data for name, slot in self.slots.items()}
        self._names = Counter(map(id, self.slots.values()))  # of each slot

    def names_for(self, file_names: frozenset[str]) -> Mapping[str, str]:
        """Slot name → name in the weight files. Raises `ArchitectureError` when a slot would stay empty."""
        renamed = _renamed(self.module, file_names)
        matches = {name: renamed.get(name) or _match(name, file_names) for name in self.slots}
        found = {name: match for name, match in matches.items() if match is not None}
        filled = {id(self.slots[name]) for name in found}
        missing = [name for name, slot in self.slots.items() if id(slot) not in filled]
        if missing:
            raise ArchitectureError(
                f"{type(self.module).__name__}: the files hold no {missing[0]}"
                + (f" and {len(missing) - 1} more weights" if len(missing) > 1 else "")
            )
        return found

    def unique(self) -> Mapping[str, str]:
        """Slot name → the first name of the same slot."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(slot), name) for name, slot in self.slots.items()}

    def is_single(self, name: str) -> bool:
        """Whether no other weight is tied to this one."""
        return self._names[id(self.slots[name])] == 1

    def point(self, views: Mapping[str, "torch.Tensor"]) -> None:
        """Points these slots, by their own names: all of a version's weights, or a LoRA's merged ones."""
        for name, view in views.items():
            self.slots[name].data = view

    def unbind(self) -> None:
        for name, slot in self.slots.items():
            slot.data = self._empty[name]


def build(component: Component, config: Mapping[str, Any], device: "torch.device") -> Slots:
    """Raises `ArchitectureError`. Costs no memory for weights: they are born on the meta device."""
    kind = class_of(component.library, component.class_name)
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "some method") if isinstance(quantized, Mapping) else quantized
        raise ArchitectureError(
            f"{component.name} is quantized by {method}; ordinary, 8-bit float and GGUF weights are loaded"
        )
    _refuse_kernels(component, config)
    try:
        with _without_weights():
            if _is_of_diffusers(kind):
                module = kind.from_config(dict(config))
            else:
                module = kind(kind.config_class.from_dict(dict(config)))
        if not _is_of_diffusers(kind):
            module.tie_weights()  # outside: on the meta device each name would get a tensor of its own
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArchitectureError(f"{component.class_name} cannot be built from its config: {error}") from error
    _cast_buffers(component, module)
    module.eval()
    shapes = {name: tuple(slot.shape) for name, slot in _state(module)}
    slots = Slots(module, device)
    slots.shapes = shapes
    return slots


def _refuse_kernels(component: Component, config: Mapping[str, Any]) -> None:
    """Transformers would fetch code that a config names from the Hub, and run it."""
    for name, value in config.items():
        if name.endswith("_implementation"):
            chosen = tuple(value.values()) if isinstance(value, Mapping) else (value,)
            if unknown := [one for one in chosen if one not in OWN_KERNELS]:
                raise ArchitectureError(
                    f"{component.name} asks for kernels of others: {name} is {unknown[0]!r}"
                )
        elif isinstance(value, Mapping):
            _refuse_kernels(component, value)


def class_of(library: str, class_name: str) -> Any:
    """Raises `ArchitectureError`. A library may also be one of diffusers' own pipeline modules: `stable_audio`."""
    place: Any = None
    if library in LIBRARIES:
        place = importlib.import_module(library)
    elif library.isidentifier():
        place = getattr(importlib.import_module("diffusers.pipelines"), library, None)
    if place is None:
        raise ArchitectureError(f"{library}.{class_name} is not of {' or '.join(sorted(LIBRARIES))}")
    found = getattr(place, class_name, None)
    if not isinstance(found, type):
        raise ArchitectureError(f"{library} has no class {class_name}")
    return found


def load_by_library(component: Component, folder: Path, dtype: str | None) -> Mapping[str, "torch.Tensor"]:
    """The weights under the module's own names, by the library's own loader: slower, but it knows every old layout.

    Raises `ArchitectureError`.
    """
    import torch

    kind = class_of(component.library, component.class_name)
    wanted = dtype or UPCAST.get(component.dtype or "", component.dtype)
    if is_packed(component):
        file = folder / Path(component.weights[0].path).name
        return dict(_state(packings.load(kind, file, folder, wanted)))
    try:
        module = kind.from_pretrained(
            folder,
            torch_dtype=getattr(torch, wanted) if wanted else None,
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ArchitectureError(f"{component.class_name} does not load: {error}") from error
    return dict(_state(module))


def keep_float32(component: Component) -> tuple[str, ...]:
    """Parts of names that the class wants in float32 whatever the dtype asked for."""
    return tuple(
        getattr(class_of(component.library, component.class_name), "_keep_in_fp32_modules", None) or ()
    )


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters on the meta device; buffers for real, because configs alone determine them."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        yield


def _is_of_diffusers(kind: Any) -> bool:
    from diffusers import ModelMixin

    return issubclass(kind, ModelMixin)


def _cast_buffers(component: Component, module: Any) -> None:
    """As `from_pretrained(torch_dtype=...)` does it. Not by the global default dtype: another thread is running."""
    import torch

    if not _is_of_diffusers(type(module)) or component.dtype not in {"float16", "bfloat16"}:
        return
    if keep_float32(component):
        return
    for owner in module.modules():
        for leaf, buffer in owner._buffers.items():  # noqa: SLF001 (torch has no public setter)
            if buffer is not None and buffer.is_floating_point():
                owner._buffers[leaf] = buffer.to(getattr(torch, component.dtype))  # noqa: SLF001


def _open_slots(module: Any, device: "torch.device") -> Iterator[tuple[str, "torch.Tensor"]]:
    """Replaces every weight by an empty tensor on the device, tied ones by one and the same."""
    import torch

    made: dict[int, torch.Tensor] = {}
    for name, old in list(_state(module)):
        owner, leaf = _owner(module, name)
        if id(old) not in made:
            empty = torch.empty(0, dtype=old.dtype, device=device)
            is_parameter = isinstance(old, torch.nn.Parameter)
            # As `from_pretrained` leaves it: torch multiplies by another route when a weight wants no gradient,
            # and the last digit differs.
            made[id(old)] = torch.nn.Parameter(empty, old.requires_grad) if is_parameter else empty
        (owner._parameters if leaf in owner._parameters else owner._buffers)[leaf] = made[id(old)]  # noqa: SLF001
        yield name, made[id(old)]
    for owner in module.modules():
        for leaf, buffer in owner._buffers.items():  # noqa: SLF001
            if buffer is not None:
                owner._buffers[leaf] = buffer.to(device)  # noqa: SLF001


def _state(module: Any) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Parameters and persistent buffers, under every name they have."""
    persistent = set(module.state_dict().keys())
    yield from module.named_parameters(remove_duplicate=False)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if name in persistent:
            yield name, buffer


def _owner(module: Any, name: str) -> tuple[Any, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _renamed(module: Any, file_names: frozenset[str]) -> dict[str, str]:
    """Name in the module → name in older files, as transformers itself translates them."""
    if not hasattr(module, "base_model_prefix"):
        return {}
    from transformers import conversion_mapping, core_model_loading

    changes = conversion_mapping.get_model_conversion_mapping(module)
    renamings = [change for change in changes if isinstance(change, core_model_loading.WeightRenaming)]
    state = dict(_state(module))
    translated = {
        core_model_loading.rename_source_key(name, renamings, [], module.base_model_prefix, state)[0]: name
        for name in sorted(file_names)
    }
    return {name: there for name, there in translated.items() if name in state}


def _match(name: str, file_names: frozenset[str]) -> str | None:
    if name in file_names:
        return name
    for prefix in PREFIXES:
        other = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
        if other in file_names:
            return other
    return None
