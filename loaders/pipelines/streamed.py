"""Layers that merge a LoRA into their weight while they run, and are themselves again afterwards.

Touches torch. For the length of a block the touched layers are of a derived class whose `forward` computes the merged
weight into shared room and uses it; without adapters nothing is wrapped, so nothing is paid and no bit differs.
Compiled code sees a class: the first set of a rank bucket is one more graph, each later one only other numbers.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loaders import deltas

if TYPE_CHECKING:
    import torch

Place = tuple[str, str]  # role, weight


class Update:
    """One layer's factors, and room for the weight they make. Layers share the room: one runs at a time."""

    def __init__(
        self, down: "torch.Tensor", up: "torch.Tensor", target: "torch.Tensor", wide: "torch.Tensor | None"
    ) -> None:
        self.down = down  # (bucket, in), float32
        self.up = up  # (out, bucket), float32
        self.target = target  # of the weight's shape, and of the dtype that is computed in
        self.wide = wide

    def __call__(self, weight: "torch.Tensor") -> "torch.Tensor":
        import torch

        if torch.compiler.is_compiling():  # compiled code finds its own room
            return deltas.fresh(weight, self.down, self.up, self.target.dtype)
        return deltas.add(weight, self.down, self.up, self.target, self.wide)


def can_stream(module: Any, name: str) -> bool:
    """Whether the weight is the plain matrix of a linear layer or the kernel of a convolution, and of no other layer."""
    path, _, leaf = name.rpartition(".")
    kind: Any = type(module.get_submodule(path))
    return leaf == "weight" and _derived(kind) is not None


@contextmanager
def streaming(
    modules: Mapping[str, Any], updates: Mapping[Place, Callable[["torch.Tensor"], "torch.Tensor"]]
) -> Iterator[None]:
    """`modules` by role. `updates`: what a layer uses in its weight's place. Every layer named by `updates` must be one that `can_stream`."""
    changed: list[tuple[Any, Any]] = []
    try:
        for (role, name), update in updates.items():
            owner = modules[role].get_submodule(name.rpartition(".")[0])
            kind: Any = type(owner)
            changed.append((owner, kind))
            owner.__dict__["lora"] = update
            owner.__class__ = _derived(kind)
        yield
    finally:
        for owner, kind in changed:
            owner.__class__ = kind
            owner.__dict__.pop("lora", None)


@functools.cache
def _derived(kind: type) -> type | None:
    """The class that merges on the way; None for layers whose arithmetic is not known here."""
    import torch

    if getattr(kind, "forward", None) is torch.nn.Linear.forward:
        return type(kind.__name__, (kind,), {"forward": _linear})
    if getattr(kind, "forward", None) in {
        torch.nn.Conv1d.forward,
        torch.nn.Conv2d.forward,
        torch.nn.Conv3d.forward,
    }:
        return type(kind.__name__, (kind,), {"forward": _convolution})
    return None


def _linear(self: Any, value: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.nn.functional.linear(value, self.lora(self.weight), self.bias)


def _convolution(self: Any, value: "torch.Tensor") -> "torch.Tensor":
    return self._conv_forward(value, self.lora(self.weight), self.bias)
