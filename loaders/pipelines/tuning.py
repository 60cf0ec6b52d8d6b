"""What is done differently for one run, by what the version and the request ask for and how large the output is. Pure.

Nothing here depends on what a host has free or measured: the same request is run in the same way everywhere, so it
gives the same bytes. What changes a picture beyond roundings is only done when asked for, and says that it is lossy.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from loaders.errors import InputError

Decoding = Literal["whole", "slices", "tiles"]
FIELDS = frozenset({"attention", "step_cache"})  # ours, in a variant's defaults or a request's input
# Kernels that are installed or not; those that diffusers would download are code of strangers.
ATTENTION = frozenset(
    {
        "native", "flex", "flash", "sage", "xformers", "_flash_3",
        "_native_cudnn", "_native_efficient", "_native_flash", "_native_math",
    }
)  # fmt: skip
DECODE_BYTES = 16 << 30  # a decoder may take so much at once before it works in pieces
LIVE_TENSORS = 3  # of the widest layer at full size: its input, its output, and what the convolution unfolds


class Decoder(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an autoencoder without running it."""

    channels: int  # of its widest layer at the output's full size
    item_bytes: int
    can_slice: bool
    can_tile: bool

    def bytes_for(self, pixels: int) -> int:
        return pixels * self.channels * self.item_bytes * LIVE_TENSORS


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How one run is run."""

    decoding: Decoding = "whole"
    step_cache: float | None = None  # the threshold of the first block's change
    attention: str | None = None
    refused: str | None = None  # the attention that `auto` chose first, and that could not do it

    @property
    def changes_layers(self) -> bool:
        """Compiled code is of the layers as they are."""
        return self.step_cache is not None or self.attention is not None

    def said(self) -> dict[str, str]:
        """What the request's owner should know of it."""
        known = {
            "decoding": None if self.decoding == "whole" else self.decoding,
            "step_cache": None if self.step_cache is None else f"{self.step_cache:g}, lossy",
            "attention": f"torch's own, {self.refused} refused" if self.refused else self.attention,
        }
        return {name: value for name, value in known.items() if value is not None}


def plan(given: Mapping[str, Any], decoder: Decoder | None, *, pixels: int, count: int) -> Tuning:
    """`given`: defaults and input together. `pixels`: of all `count` outputs. Raises `InputError` naming the field."""
    return Tuning(
        decoding="whole" if decoder is None else decoding(decoder, pixels=pixels, count=count),
        step_cache=_step_cache(given.get("step_cache")),
        attention=_attention(given.get("attention")),
    )


def decoding(decoder: Decoder, *, pixels: int, count: int) -> Decoding:
    """Slices differ in roundings; tiles are blended where they meet, so they are for what would not fit otherwise."""
    if decoder.bytes_for(pixels) <= DECODE_BYTES:
        return "whole"
    if decoder.can_slice and decoder.bytes_for(pixels // max(count, 1)) <= DECODE_BYTES:
        return "slices"
    return "tiles" if decoder.can_tile else "whole"


def _step_cache(value: Any) -> float | None:
    if value is None or value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError("a step cache's threshold is a number above 0, at most 1", "step_cache")
    return float(value)


def _attention(value: Any) -> str | None:
    if value is None:
        return None
    if value not in ATTENTION:
        raise InputError(
            f"no attention is called {value!r}; there are: {', '.join(sorted(ATTENTION))}", "attention"
        )
    return str(value)
