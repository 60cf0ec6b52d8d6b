"""The arithmetic of a LoRA set, in one place: factors padded to a rank bucket, and the weight they make of another.

Touches tensors alone. Copies that are kept and weights that are merged while a layer runs both come from here, by
the same operations on operands of the same shapes, so they are the same bits; that is why the way may be chosen by
cost. Several adapters are one multiplication: their ranks stand side by side, in the order of their digests.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import torch

SMALLEST_BUCKET = 8


class Factors(msgspec.Struct, frozen=True):
    """One adapter's part in one weight. Without tensors: it leaves this weight alone, and its ranks are zeros."""

    rank: int  # the adapter's, the largest of its layers
    down: Any = None  # (rank here, in, …)
    up: Any = None  # (out, rank here, …)
    scale: float = 1.0

    @property
    def rank_here(self) -> int:
        return 0 if self.down is None else int(self.down.shape[0])


def bucket(rank: int) -> int:
    """The next power of two, so that adapters of many ranks share buffers and compiled code."""
    return max(SMALLEST_BUCKET, 1 << (rank - 1).bit_length())


def fill(down: "torch.Tensor", up: "torch.Tensor", parts: Sequence[Factors]) -> None:
    """Writes a set's factors in place. down: (bucket, in), up: (out, bucket), float32; scales go into `up`."""
    if sum(part.rank_here for part in parts) < down.shape[0]:
        down.zero_()
        up.zero_()
    start = 0
    for part in parts:
        if part.down is not None:
            end = start + part.rank_here
            down[start:end].copy_(part.down.flatten(1))
            up[:, start:end].copy_(part.up.flatten(1)).mul_(part.scale)
        start += part.rank


def add(
    original: "torch.Tensor",
    down: "torch.Tensor",
    up: "torch.Tensor",
    target: "torch.Tensor",
    wide: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Target = original + up @ down, summed in float32 and rounded once. Returns the target.

    `wide`: float32 room of the weight's size, for weights of another dtype.
    """
    import torch

    rows, columns = up.shape[0], down.shape[1]
    if original.dtype == torch.float32:
        torch.addmm(original.view(rows, columns), up, down, out=target.view(rows, columns))
        return target
    total = torch.empty(rows, columns, device=original.device) if wide is None else wide
    total.copy_(original.view(rows, columns)).addmm_(up, down)
    target.view(rows, columns).copy_(total)
    return target


def fresh(
    original: "torch.Tensor", down: "torch.Tensor", up: "torch.Tensor", dtype: "torch.dtype"
) -> "torch.Tensor":
    """What `add` makes, as one expression without room of its own."""
    import torch

    rows, columns = up.shape[0], down.shape[1]
    total = torch.addmm(original.view(rows, columns).to(torch.float32), up, down)
    return total.to(dtype).view(original.shape)
