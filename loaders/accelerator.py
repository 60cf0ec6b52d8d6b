"""What an accelerator with memory of its own has to offer a host, and the one kind there is: CUDA.

IO. Kernels run on the stream that is current in the device thread; weights arrive on another, the mover's, so that they
never queue behind a run. Who ties the two together is `crossing`; here stand only torch's calls. Nothing is recorded
with the allocator (`record_stream`): a run's end waits for its kernels before it lets go of weights, so no memory comes
back while something reads it, and none is held back longer than that.
"""

import os
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from loaders.errors import NoDeviceError

if TYPE_CHECKING:
    import torch

PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU's context
NO_MEMORY = 2  # cudaErrorMemoryAllocation
SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the allocator's, by an operator

log = structlog.get_logger("marquee.device")


class Mark(Protocol):
    """A place in the mover's stream: behind everything that was sent before. A `torch.cuda.Event`."""

    def wait(self) -> None:
        """The calling thread's stream goes on only after it; the thread itself does not wait."""

    def synchronize(self) -> None:
        """The calling thread waits."""


class Accelerator(Protocol):
    """One of them. What fails raises torch's own errors."""

    torch_device: "torch.device"

    @property
    def title(self) -> str: ...
    @property
    def instructions(self) -> str:
        """What code for it may use."""
        ...

    @property
    def count(self) -> int:
        """Of this kind on the machine, this one included."""
        ...

    def enter_thread(self, *, moves: bool) -> None:
        """Before the calling thread uses it. One that `moves` has the mover's stream for all that it does."""

    def free_bytes(self) -> int: ...
    def room(self, size_bytes: int) -> "torch.Tensor":
        """uint8, for the calling thread's stream; contents undefined."""
        ...

    def landing(self, size_bytes: int) -> "torch.Tensor":
        """The same for the mover's stream. Who uses it elsewhere waits for a mark first, and ends before it is freed."""
        ...

    def send(self, source: "torch.Tensor", target: "torch.Tensor") -> Mark:
        """Copies on the mover's stream, later. `source`, where it is pinned, has to stay as it is until the mark."""
        ...

    def finish(self) -> None:
        """Waits until the calling thread's stream has done what it was told."""

    def give_back(self) -> None:
        """Freed memory, to the driver."""

    def begin_peak(self) -> int:
        """Bytes taken now; `peak_bytes` counts from here."""
        ...

    def peak_bytes(self) -> int: ...
    def pin(self, address: int, size_bytes: int) -> None:
        """Raises `MemoryError`. Where pinning is not to be had at all, copies are only slower."""

    def unpin(self, address: int) -> None: ...


class Cuda:
    """A GPU of NVIDIA's, or what torch takes for one."""

    def __init__(self, index: int) -> None:
        """Raises `NoDeviceError`: torch itself says so late, and in its own words."""
        import torch

        self.torch_device = torch.device("cuda", index)
        if not torch.cuda.is_available():
            raise NoDeviceError(
                str(self.torch_device), "torch finds no GPU with a driver that it was built for"
            )
        if index >= torch.cuda.device_count():
            raise NoDeviceError(
                str(self.torch_device), f"the last one is cuda:{torch.cuda.device_count() - 1}"
            )
        self._stream: Any = None
        self._pinned: set[int] = set()  # addresses
        if not any(name in os.environ for name in SETTINGS):
            # Components of all sizes come and go: without this a gap between two others is of use to none that is
            # larger, and a budget that is kept in bytes runs out of memory.
            torch._C._accelerator_setAllocatorSettings("expandable_segments:True")  # noqa: SLF001

    @property
    def title(self) -> str:
        import torch

        return str(torch.cuda.get_device_name(self.torch_device))

    @property
    def instructions(self) -> str:
        import torch

        return ".".join(map(str, torch.cuda.get_device_capability(self.torch_device)))

    @property
    def count(self) -> int:
        import torch

        return int(torch.cuda.device_count())

    def enter_thread(self, *, moves: bool) -> None:
        """What code means by "the GPU" in the calling thread: without it, every thread's is the machine's first."""
        import torch

        torch.cuda.set_device(self.torch_device)
        if moves:
            torch.cuda.set_stream(self._movers())

    def free_bytes(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def room(self, size_bytes: int) -> "torch.Tensor":
        import torch

        return torch.empty(size_bytes, dtype=torch.uint8, device=self.torch_device)

    def landing(self, size_bytes: int) -> "torch.Tensor":
        import torch

        with torch.cuda.stream(self._movers()):
            return self.room(size_bytes)

    def send(self, source: "torch.Tensor", target: "torch.Tensor") -> Mark:
        import torch

        with torch.cuda.stream(self._movers()):
            target.copy_(source, non_blocking=True)
            mark: Mark = torch.cuda.Event(blocking=True)  # who waits for it leaves the core to others
            mark.record()  # type: ignore[attr-defined]
        return mark

    def finish(self) -> None:
        import torch

        torch.cuda.current_stream(self.torch_device).synchronize()

    def give_back(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def begin_peak(self) -> int:
        import torch

        torch.cuda.reset_peak_memory_stats(self.torch_device)
        return int(torch.cuda.memory_allocated(self.torch_device))

    def peak_bytes(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def pin(self, address: int, size_bytes: int) -> None:
        import torch

        code = int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, PORTABLE))
        if not code:
            self._pinned.add(address)
            return
        self._forget_error()
        if code == NO_MEMORY:
            raise MemoryError(f"{size_bytes} bytes of memory cannot be pinned: CUDA error {code}")
        log.warning("memory cannot be pinned, copies are slower", cuda_error=code)

    def unpin(self, address: int) -> None:
        import torch

        if address in self._pinned:
            self._pinned.remove(address)
            if int(torch.cuda.cudart().cudaHostUnregister(address)):
                self._forget_error()

    def _forget_error(self) -> None:
        """What a call answered, CUDA keeps for whoever launches the next kernel of this thread: this one does."""
        import torch

        try:
            torch.ones(1, device=self.torch_device)
        except RuntimeError as error:
            log.warning("CUDA refused memory", error=str(error).partition("\n")[0])

    def _movers(self) -> Any:
        import torch

        if self._stream is None:
            self._stream = torch.cuda.Stream(self.torch_device)
        return self._stream
