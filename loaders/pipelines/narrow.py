"""Weights that stay 8 bits wide on the device: a layer widens its own when it runs, into room that all layers share.

Touches torch. Half the memory of 16 bits, for one conversion per layer and step. Opt-in; lossy, unless the files hold
8-bit floats anyway: then it is the arithmetic of the widened weights, to the bit. Which layers: the denoiser's plain
linear and convolution layers, but for those that diffusers itself leaves alone when it does such a thing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from loaders.layout import is_narrow
from loaders.pipelines import streamed
from loaders.pipelines.blocks import is_denoiser
from loaders.pipelines.modules import Slots

if TYPE_CHECKING:
    import torch

SKIPPED = ("pos_embed", "patch_embed", "norm", "^proj_in$", "^proj_out$")  # diffusers' own default


def names(slots: Slots) -> frozenset[str]:
    """The slots that may be kept narrow."""
    module = slots.module
    if not is_denoiser(module):
        return frozenset()
    skipped = (*SKIPPED, *(getattr(module, "_skip_layerwise_casting_patterns", None) or ()))
    return frozenset(
        name
        for name, slot in slots.slots.items()
        if slot.is_floating_point()
        and not any(re.search(pattern, name.rpartition(".")[0]) for pattern in skipped)
        and streamed.can_stream(module, name)
        and slots.is_single(name)
    )


class Room:
    """Where layers widen their weights, one at a time; as large as the largest of them, made when first needed."""

    def __init__(self, dtype: "torch.dtype", size: int) -> None:
        self.dtype = dtype
        self._size = size
        self._made: torch.Tensor | None = None

    def __call__(self, weight: "torch.Tensor") -> "torch.Tensor":
        import torch

        if torch.compiler.is_compiling():  # compiled code finds its own room
            return weight.to(self.dtype)
        if self._made is None:
            self._made = torch.empty(self._size, dtype=self.dtype, device=weight.device)
        return self._made[: weight.numel()].view(weight.shape).copy_(weight)


@contextmanager
def widening(parts: Mapping[str, Slots], computed: Mapping[str, str]) -> Iterator[None]:
    """`parts`: by role, as they are pointed now. `computed`: those that may hold narrow weights, and what they compute in."""
    import torch

    with ExitStack() as stack:
        for role, name_of_dtype in computed.items():
            slots, dtype = parts[role], getattr(torch, name_of_dtype)
            narrow = [name for name, slot in slots.slots.items() if is_narrow(str(slot.dtype))]
            if narrow:
                room = Room(dtype, max(slots.slots[name].numel() for name in narrow))
                stack.enter_context(
                    streamed.streaming({role: slots.module}, _untouched(slots, role, narrow, room))
                )
                stack.enter_context(_computing(slots.module, dtype))
        yield


def _untouched(slots: Slots, role: str, narrow: Iterable[str], room: Room) -> Mapping[streamed.Place, Any]:
    """Those whose layer does not merge a LoRA into it at the moment: that widens as well."""
    return {(role, name): room for name in narrow if streamed.can_stream(slots.module, name)}


@contextmanager
def _computing(module: Any, dtype: "torch.dtype") -> Iterator[None]:
    """The module says what it computes in, not what its first weight is stored as: pipelines cast their inputs to it."""
    kind: Any = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"dtype": property(lambda _: dtype)})
    try:
        yield
    finally:
        module.__class__ = kind
