"""Host memory that is really there: page-aligned buffers in huge pages, used again when their tensors are gone.

IO on memory alone. Touching fresh memory costs as much as reading a disk, so what a leaving component gives back
waits for the next one. It waits only as long as it may: a request that no waiting buffer fits gets fresh memory after
all waiting ones were returned, so the sum never grows past what was in use at some moment. Refuses to know tensors'
names and budgets.
"""

import bisect
import contextlib
import ctypes
import mmap
import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

HUGE_BYTES = 2 << 20
SLACK = 1.25  # a waiting buffer may be so much larger than what is asked for; the rest is returned
POOLED_FROM_BYTES = 1 << 20  # below, the ordinary allocator is as good
PIN_BYTES = (
    256 << 20
)  # at a time: a driver locks out every process of the machine meanwhile, and takes no 512 GiB at once


class Pinning(Protocol):
    """Has a GPU's driver hold pages in their place, so that it copies out of them by itself."""

    def pin(self, address: int, size_bytes: int) -> None:
        """Raises `MemoryError`; where pinning is not to be had at all, nothing comes of it."""
        ...

    def unpin(self, address: int) -> None: ...


class Buffers:
    """Buffers of one process. Thread-safe. With `pinning`, what was pinned of them stays so, waiting included."""

    def __init__(self, pinning: Pinning | None = None) -> None:
        self._pinning = pinning
        self._pinned: dict[int, set[int]] = {}  # address of a buffer -> those of its parts that are pinned
        self._sizes: dict[int, int] = {}  # of those that can be, by address
        self._waiting: list[mmap.mmap] = []  # by size
        # Finalizers put here what comes back: they run wherever the garbage collector does, also under our lock.
        self._returned: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._scratch: list[mmap.mmap] = []
        self._alive: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> "torch.Tensor":
        """uint8, one dimension, page-aligned, contents undefined. Comes back when no tensor looks at it any more."""
        import torch

        if size_bytes < POOLED_FROM_BYTES:
            return _small(size_bytes)
        memory = self._fitting(size_bytes) or self._pinnable(self._fresh(size_bytes))
        view = (ctypes.c_char * size_bytes).from_buffer(memory)
        weakref.finalize(view, self._returned.put, memory).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8)

    @contextmanager
    def scratch(self, size_bytes: int) -> Iterator[mmap.mmap]:
        """A buffer for the length of a block; all scratch buffers have one size."""
        with self._lock:
            memory = self._scratch.pop() if self._scratch else None
        if memory is None or len(memory) < size_bytes:
            memory = self._fresh(size_bytes)
        try:
            yield memory
        finally:
            with self._lock:
                self._scratch.append(memory)

    def waiting_bytes(self) -> int:
        with self._lock:
            self._sort_in()
            return sum(map(len, self._waiting))

    def alive_bytes(self) -> int:
        """Of all buffers, in use or waiting."""
        with self._lock:
            return sum(map(len, self._alive))

    def give_back(self) -> None:
        """Returns everything that waits to the system."""
        with self._lock:
            self._sort_in()
            self._drop_waiting()
            self._scratch.clear()

    def pin(self, address: int, size_bytes: int) -> None:
        """What is about to be copied by the driver itself, where it lies in one of these buffers. Raises `MemoryError`.

        Not before: fresh memory is filled by many threads, and pinned by one while those fill the rest.
        """
        if self._pinning is None:
            return
        with self._lock:
            starts = [start for start, length in self._sizes.items() if start <= address < start + length]
        for start in starts:
            first = address - (address - start) % PIN_BYTES
            for part in range(first, address + size_bytes, PIN_BYTES):
                if part not in self._pinned[start]:
                    self._pinning.pin(part, min(PIN_BYTES, start + self._sizes[start] - part))
                    self._pinned[start].add(part)

    def _pinnable(self, memory: mmap.mmap) -> mmap.mmap:
        if self._pinning is not None:
            with self._lock:
                start = _address(memory)
                self._pinned[start], self._sizes[start] = set(), len(memory)
        return memory

    def _drop_waiting(self) -> None:
        if self._pinning is not None:
            for start in map(_address, self._waiting):
                del self._sizes[start]
                for part in self._pinned.pop(start):
                    self._pinning.unpin(part)  # before the system gives the addresses to something else
        self._waiting.clear()

    def _fresh(self, size_bytes: int) -> mmap.mmap:
        memory = _fresh(size_bytes)
        with self._lock:
            self._alive.add(memory)
        return memory

    def _fitting(self, size_bytes: int) -> mmap.mmap | None:
        with self._lock:
            self._sort_in()
            at = bisect.bisect_left(self._waiting, size_bytes, key=len)
            slack = 1.0 if self._pinning else SLACK  # the rest of a pinned one cannot be returned
            if at < len(self._waiting) and len(self._waiting[at]) <= size_bytes * slack + HUGE_BYTES:
                memory = self._waiting.pop(at)
                rest = -(-size_bytes // HUGE_BYTES) * HUGE_BYTES
                if rest < len(memory) and self._pinning is None:
                    memory.madvise(mmap.MADV_DONTNEED, rest, len(memory) - rest)
                return memory
            self._drop_waiting()
            return None

    def _sort_in(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                bisect.insort(self._waiting, self._returned.get_nowait(), key=len)


def trim() -> None:
    """What was freed and the C library keeps for later goes back to the system. Of no use where it is another one."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _fresh(size_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(
        -1, -(-size_bytes // HUGE_BYTES) * HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _small(size_bytes: int) -> "torch.Tensor":
    import torch

    padded = torch.empty(size_bytes + mmap.PAGESIZE, dtype=torch.uint8)
    skip = -padded.data_ptr() % mmap.PAGESIZE
    return padded[skip : skip + size_bytes]
