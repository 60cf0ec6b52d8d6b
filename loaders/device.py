"""The torch seam: devices, arenas of memory, and what the allocator really takes.

IO. Everything the other modules need of torch's memory goes through here, so that a second kind of accelerator is
one more branch in this file. It refuses to know what the bytes mean.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import psutil

from loaders import allowance
from loaders.buffers import Buffers
from loaders.errors import NoDeviceError
from loaders.layout import ALIGNMENT_BYTES, Layout

if TYPE_CHECKING:
    import torch

PAGE_BYTES = 4096
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",  # pinned host memory, the driver's own
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU's context
SMALL_WORK_BYTES = 256 << 20


class Arena:
    """One allocation that holds a component's tensors, each at a 64-byte boundary, and the views into it."""

    def __init__(self, storage: "torch.Tensor", layout: Layout) -> None:
        self.storage = storage  # uint8, one dimension, 64-byte aligned
        self.layout = layout
        self.views = _views(storage, layout)

    @property
    def size_bytes(self) -> int:
        return int(self.storage.untyped_storage().nbytes())


def _refuse_missing(device: Any) -> None:
    """Raises `NoDeviceError`: torch itself says so late, and in its own words."""
    import torch

    if device.type == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(str(device), "torch finds no GPU with a driver that it was built for")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NoDeviceError(str(device), f"the last one is cuda:{torch.cuda.device_count() - 1}")


class Device:
    """One accelerator, or the CPU."""

    def __init__(self, name: str = "auto") -> None:
        import torch

        if name == "auto":
            name = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.torch_device = torch.device(name)
        _refuse_missing(self.torch_device)
        self.buffers = Buffers(None if self.is_cpu else _Driver())

    @property
    def is_cpu(self) -> bool:
        return bool(self.torch_device.type == "cpu")

    @property
    def title(self) -> str:
        """What the host calls its device: `cpu`, `NVIDIA H200`…"""
        import torch

        return "cpu" if self.is_cpu else str(torch.cuda.get_device_name(self.torch_device))

    @property
    def instructions(self) -> str:
        """What code for this device may use: AVX2, AVX512; a GPU's compute capability."""
        import torch

        if self.is_cpu:
            return str(torch.backends.cpu.get_cpu_capability())
        return ".".join(map(str, torch.cuda.get_device_capability(self.torch_device)))

    def enter_thread(self) -> None:
        """What code means by "the GPU" in the calling thread: without it, every thread's is the machine's first."""
        import torch

        if self.torch_device.type == "cuda" and self.torch_device.index is not None:
            torch.cuda.set_device(self.torch_device)

    def use_all_cores(self) -> None:
        """All that this process may use, for the calling thread: OpenMP counts threads per caller."""
        import torch

        torch.set_num_threads(allowance.cores())

    def is_small(self, size_bytes: int) -> bool:
        """Whether a model of so many bytes runs on one core."""
        return self.is_cpu and size_bytes < SMALL_WORK_BYTES

    @contextlib.contextmanager
    def few_cores(self, size_bytes: int) -> Iterator[None]:
        """One core for many small operations: waking the others costs more than they bring."""
        import torch

        before = torch.get_num_threads()
        if self.is_small(size_bytes):
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def free_bytes(self) -> int:
        import torch

        if self.is_cpu:
            free_bytes, allowed = int(psutil.virtual_memory().available), allowance.left_bytes()
            return free_bytes if allowed is None else min(free_bytes, allowed)
        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def host_buffer(self, size_bytes: int) -> "torch.Tensor":
        """Host memory for an arena, page-aligned; pinned where a GPU copies out of it.

        Not by torch's own `pin_memory`: that takes the next power of two, and keeps what was freed for ever.
        """
        return self.buffers.take(size_bytes)

    def to_device(self, arena: Arena) -> Arena:
        """The same layout in the device's memory. On the CPU that is the arena itself."""
        if self.is_cpu:
            return arena
        return Arena(arena.storage.to(self.torch_device), arena.layout)

    def empty_arena(self, layout: Layout) -> Arena:
        """On the device, contents undefined."""
        import torch

        if self.is_cpu:
            return Arena(self.host_buffer(layout.size_bytes), layout)
        storage = torch.empty(layout.size_bytes, dtype=torch.uint8, device=self.torch_device)
        return Arena(storage, layout)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        import torch

        if not self.is_cpu:
            torch.cuda.synchronize(self.torch_device)

    def give_back(self) -> None:
        """Returns freed blocks to the driver, so that `free_bytes` is honest."""
        import torch

        self.buffers.give_back()
        if not self.is_cpu:
            torch.cuda.empty_cache()

    def begin_peak(self) -> int:
        """Bytes allocated now on a GPU; `peak_bytes` counts from here."""
        import torch

        torch.cuda.reset_peak_memory_stats(self.torch_device)
        return int(torch.cuda.memory_allocated(self.torch_device))

    def peak_bytes(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def is_out_of_memory(self, error: BaseException) -> bool:
        import torch

        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)

    def is_broken(self, error: BaseException) -> bool:
        """Whether every later call would fail as well: a GPU's context does not outlive an illegal access."""
        import torch

        return isinstance(error, torch.AcceleratorError) and not self.is_out_of_memory(error)


class _Driver:
    """CUDA's, which pins memory that somebody else has taken."""

    def pin(self, address: int, size_bytes: int) -> None:
        import torch

        code = int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, PORTABLE))
        if code:
            raise MemoryError(f"{size_bytes} bytes of memory cannot be pinned: CUDA error {code}")

    def unpin(self, address: int) -> None:
        import torch

        torch.cuda.cudart().cudaHostUnregister(address)


def _views(storage: "torch.Tensor", layout: Layout) -> Mapping[str, "torch.Tensor"]:
    import torch

    assert storage.data_ptr() % ALIGNMENT_BYTES == 0 or not layout.size_bytes
    views: dict[str, Any] = {}
    typed = {name: storage.view(getattr(torch, name)) for name in {place.dtype for place in layout.places}}
    for place in layout.places:
        whole, shape = typed[place.dtype], place.source.shape
        offset = whole.storage_offset() + place.offset // whole.element_size()
        views[place.name] = whole.as_strided(shape, _strides(shape), offset)  # one step: there are thousands
    return views


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)
