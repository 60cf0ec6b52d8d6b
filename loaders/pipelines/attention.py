"""Which attention kernel `attention: auto` means here, by what the device can do and what is installed.

The choice is pure; `kit` asks torch. Only kernels that differ in roundings: a lossy one is for who names it. It refuses
to download any.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import torch

AUTO = "auto"
HALF = frozenset({"bfloat16", "float16"})  # what fast kernels are made for


class Kernel(msgspec.Struct, frozen=True):
    """One of diffusers' backends, and what it needs."""

    name: str
    first: int  # compute capability, major
    last: int


KERNELS = (  # best first
    Kernel("_flash_3", 9, 9),
    Kernel("_native_cudnn", 9, 12),
    Kernel("flash", 8, 12),
)


class Kit(msgspec.Struct, frozen=True):
    """What there is: a GPU's major compute capability, and kernels whose packages are installed and new enough."""

    capability: int | None
    usable: frozenset[str] = frozenset()


def choose(kit: Kit, dtype: str | None, kernels: Sequence[Kernel] = KERNELS) -> str | None:
    """None: torch's own choice, which is the right one on a CPU and for float32."""
    if kit.capability is None or dtype not in HALF:
        return None
    for kernel in kernels:
        if kernel.first <= kit.capability <= kernel.last and kernel.name in kit.usable:
            return kernel.name
    return None


@functools.cache
def kit(device: "torch.device") -> Kit:
    import torch

    if device.type != "cuda":
        return Kit(None)
    names = (kernel.name for kernel in KERNELS)
    return Kit(torch.cuda.get_device_capability(device)[0], frozenset(filter(_is_usable, names)))


def _is_usable(name: str) -> bool:
    """As diffusers itself will find at the run: what is there may be too old for it, or not load."""
    from diffusers.models import attention_dispatch as known

    try:
        known._check_attention_backend_requirements(known.AttentionBackendName(name))  # noqa: SLF001
    except RuntimeError:
        return False
    return True
