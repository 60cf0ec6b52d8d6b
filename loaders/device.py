"""The torch seam: devices, arenas of memory, and what the allocator really takes.

IO. Everything the other modules need of torch's memory goes through here. A kind of accelerator is one class beside
`accelerator.Cuda`, and one more branch in `_accelerator`. It refuses to know what the bytes mean.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import psutil

from loaders import allowance
from loaders.accelerator import Accelerator, Cuda, Mark
from loaders.buffers import Buffers
from loaders.crossing import Crossing, Lane
from loaders.errors import NoDeviceError
from loaders.layout import ALIGNMENT_BYTES, Layout, pack
from loaders.protocol import Tier

if TYPE_CHECKING:
    import torch

PAGE_BYTES = 4096
OUT_OF_HOST_MEMORY = "can't allocate memory"
OUT_OF_DEVICE_MEMORY = (
    "CUDA error: out of memory",  # the driver's own
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
SMALL_WORK_BYTES = 256 << 20


class Arena:
    """One allocation that holds a component's tensors, each at an aligned boundary, and the views into it."""

    def __init__(self, storage: "torch.Tensor", layout: Layout, arrival: Mark | None = None) -> None:
        self.storage = storage  # uint8, one dimension, aligned
        self.layout = layout
        self.views = _views(storage, layout)
        self.arrival = arrival  # when the last of it is there; None where it is there already

    @property
    def size_bytes(self) -> int:
        return int(self.storage.untyped_storage().nbytes())


class Landing:
    """An arena on the device, filled from one in host memory while that is still filled itself."""

    def __init__(self, lane: Lane, layout: Layout) -> None:
        self._crossing = Crossing(lane, layout.size_bytes)
        self._layout = layout

    def advance(self, arena: Arena, stop: int) -> None:
        """Of the arena in host memory, all before `stop` is in place."""
        self._crossing.advance(arena.storage, stop)

    def finish(self, arena: Arena, moved: Callable[[], None] = lambda: None) -> Arena:
        self._crossing.finish(arena.storage, moved)
        return Arena(self._crossing.target, self._layout, self._crossing.mark)


def _accelerator(name: str) -> Accelerator | None:
    """None for the CPU, whose memory is the host's. Raises `NoDeviceError`."""
    import torch

    if name == "all" or "," in name:
        raise NoDeviceError(name, "a process has one; `marquee host` begins one process for each")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    return None if device.type == "cpu" else Cuda(device.index or 0)


class Device:
    """One accelerator, or the CPU."""

    def __init__(self, name: str = "auto", *, accelerator: Accelerator | None = None) -> None:
        import torch

        self._accelerator = accelerator or _accelerator(name)
        self.torch_device = (
            torch.device("cpu") if self._accelerator is None else self._accelerator.torch_device
        )
        self.buffers = Buffers(self._accelerator)
        self._lane = None if self._accelerator is None else Lane(self._accelerator, self.buffers.pin)

    @property
    def is_cpu(self) -> bool:
        return self._accelerator is None

    @property
    def title(self) -> str:
        """What the host calls its device: `cpu`, `NVIDIA H200`…"""
        return "cpu" if self._accelerator is None else self._accelerator.title

    @property
    def instructions(self) -> str:
        """What code for this device may use: AVX2, AVX512; a GPU's compute capability."""
        import torch

        if self._accelerator is None:
            return str(torch.backends.cpu.get_cpu_capability())
        return self._accelerator.instructions

    @property
    def count(self) -> int:
        """Of its kind on this machine; each may have a host of its own, and all share the machine's memory."""
        return 1 if self._accelerator is None else self._accelerator.count

    def enter_thread(self, *, moves: bool = False) -> None:
        """Before the calling thread uses it: the one that runs, or the one that `moves` weights."""
        if self._accelerator is not None:
            self._accelerator.enter_thread(moves=moves)

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
        if self._accelerator is not None:
            return self._accelerator.free_bytes()
        free_bytes, allowed = int(psutil.virtual_memory().available), allowance.left_bytes()
        return free_bytes if allowed is None else min(free_bytes, allowed)

    def host_buffer(self, size_bytes: int) -> "torch.Tensor":
        """Host memory for an arena, page-aligned; pinned once an accelerator copies out of it.

        Not by torch's own `pin_memory`: that takes the next power of two, and keeps what was freed for ever.
        """
        if self._lane is not None:
            self._lane.settle()
        return self.buffers.take(size_bytes)

    def landing(self, layout: Layout) -> Landing:
        """A place on an accelerator for what is about to be read."""
        assert self._lane is not None, "on a CPU weights are where they were read"
        return Landing(self._lane, layout)

    def to_device(self, arena: Arena, moved: Callable[[], None] = lambda: None) -> Arena:
        """The same layout in the device's memory, on its way there. On the CPU that is the arena itself."""
        return arena if self._lane is None else self.landing(arena.layout).finish(arena, moved)

    def gathered(self, tensors: Mapping[str, "torch.Tensor"]) -> Arena:
        """Tensors from anywhere in host memory, in one arena on an accelerator."""
        assert self._lane is not None, "on a CPU weights are where they were read"
        kinds = {
            name: (str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in tensors.items()
        }
        layout = pack(kinds)
        arena = Arena(self._lane.landing(layout.size_bytes), layout)
        for name, view in arena.views.items():
            arena.arrival = self._lane.send(tensors[name], view)
        return arena

    def expect(self, arena: Arena | None) -> None:
        """What the calling thread tells the device from now on comes after the arena's arrival. Waits for nothing."""
        if arena is not None and arena.arrival is not None:
            arena.arrival.wait()

    def empty_arena(self, layout: Layout) -> Arena:
        """On the device, contents undefined."""
        if self._accelerator is None:
            return Arena(self.host_buffer(layout.size_bytes), layout)
        return Arena(self._accelerator.room(layout.size_bytes), layout)

    def wait(self) -> None:
        """Until the device has done what the calling thread told it."""
        if self._accelerator is not None:
            self._accelerator.finish()

    def give_back(self) -> None:
        """Returns freed blocks to the driver, so that `free_bytes` is honest."""
        self.buffers.give_back()
        if self._accelerator is not None:
            self._accelerator.give_back()

    def begin_peak(self) -> int:
        """Bytes allocated now on an accelerator; `peak_bytes` counts from here."""
        assert self._accelerator is not None
        return self._accelerator.begin_peak()

    def peak_bytes(self) -> int:
        assert self._accelerator is not None
        return self._accelerator.peak_bytes()

    def full_tier(self, error: BaseException) -> Tier | None:
        """Which memory the error says is full; None where it says something else."""
        import torch

        text = str(error) if isinstance(error, RuntimeError) else ""
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in OUT_OF_DEVICE_MEMORY):
            return "device"
        if isinstance(error, MemoryError) or OUT_OF_HOST_MEMORY in text:
            return "device" if self.is_cpu else "memory"
        return None

    def is_broken(self, error: BaseException) -> bool:
        """Whether every later call would fail as well: an accelerator is asked, after what may have come of that.

        A context does not outlive an illegal access, whichever library met it first; a kernel that was launched
        wrongly harms nobody else.
        """
        if self._accelerator is None or not isinstance(error, RuntimeError) or self.full_tier(error):
            return False
        try:
            self._accelerator.finish()
        except RuntimeError as again:
            return self.full_tier(again) is None
        return False


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
