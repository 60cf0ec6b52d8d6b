"""Which attention kernel `attention: auto` means here, by what the device can do and what is installed.

The choice is pure; `kit` asks torch. Only kernels that differ in roundings: a lossy one is for who names it. It refuses
to download any.
"""

import functools
import importlib.util
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
    package: str | None = None


KERNELS = (  # best first
    Kernel("_flash_3", 9, 9, "flash_attn_interface"),
    Kernel("_native_cudnn", 9, 12),
    Kernel("flash", 8, 12, "flash_attn"),
)


class Kit(msgspec.Struct, frozen=True):
    """What there is: a GPU's major compute capability, packages with kernels."""

    capability: int | None
    packages: frozenset[str] = frozenset()


def choose(kit: Kit, dtype: str | None, kernels: Sequence[Kernel] = KERNELS) -> str | None:
    """None: torch's own choice, which is the right one on a CPU and for float32."""
    if kit.capability is None or dtype not in HALF:
        return None
    for kernel in kernels:
        fits = kernel.first <= kit.capability <= kernel.last
        if fits and (kernel.package is None or kernel.package in kit.packages):
            return kernel.name
    return None


@functools.cache
def kit(device: "torch.device") -> Kit:
    import torch

    capability = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None
    packages = {kernel.package for kernel in KERNELS if kernel.package}
    return Kit(capability, frozenset(name for name in packages if importlib.util.find_spec(name)))
