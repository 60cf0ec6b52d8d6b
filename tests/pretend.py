"""An accelerator that is none: two memories made of the one there is, and copies that are really late. For tests alone.

What a GPU does wrong silently is an error here. Room on the device holds no numbers until a copy has landed, and none
again as soon as it was freed; a copy lands when its mark is waited for or when a worker feels like it, and not before;
host memory that is written, unpinned or returned while a copy out of it is under way is found out by its sum; and
weights that are freed before the run that read them was waited for are noted. Kernels are the CPU's, so bits can be
compared with a CPU's.
"""

import ctypes
import mmap
import random
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from loaders import buffers, crossing, reader
from loaders.device import SMALL_WORK_BYTES, Device

NOTHING = 0xFF  # a byte; many of them are no number in any float
LATEST_SECONDS = 0.002


class Copy:
    """One that was sent. It holds no memory: whoever sent it has to."""

    def __init__(self, source: torch.Tensor, target: torch.Tensor, *, is_pinned: bool) -> None:
        is_late = is_pinned and source.is_contiguous()
        self.staged = None if is_late else source.clone()  # by the driver, or by torch
        self.address, self.size_bytes = source.data_ptr(), source.nbytes
        self.sum = _sum(source)
        self.dtype, self.shape = source.dtype, source.shape
        self.target: torch.Tensor | None = target
        self.place = target.untyped_storage().data_ptr()
        self.has_landed = False
        target.view(torch.uint8).fill_(NOTHING)

    def land(self) -> str | None:
        """What was wrong with it."""
        source, target = self.staged, self.target
        assert target is not None
        if source is None:
            there = (ctypes.c_char * self.size_bytes).from_address(self.address)
            source = torch.frombuffer(there, dtype=target.dtype).view(target.shape)
        target.copy_(source)
        self.target, self.has_landed = None, True  # a mark holds no memory either
        return None if _sum(source) == self.sum else "memory was written under a copy"


class Mark:
    def __init__(self, accelerator: "Pretend", copy: Copy) -> None:
        self._accelerator = accelerator
        self._copy = copy

    def synchronize(self) -> None:
        self._accelerator.land(self._copy)

    def wait(self) -> None:
        """Kernels here are run by the thread that launches them, so that thread has to wait for what its stream would."""
        self._accelerator.land(self._copy)
        self._accelerator.is_read(self._copy.place)


class Pretend:
    """`late`: nothing lands before it is waited for. Otherwise a worker lands it, some time."""

    def __init__(self, *, capacity_bytes: int = 1 << 40, late: bool = True, seed: int = 0) -> None:
        self.torch_device = torch.device("cpu")
        self.title, self.instructions, self.count = "Pretend", "1", 2
        self.capacity_bytes = capacity_bytes
        self.violations: list[str] = []
        self.error: Exception | None = None  # of a copy that is under way; from then on of everything
        self.sent_bytes = 0
        self.entered: list[tuple[str, bool]] = []  # threads by name
        self.taken: dict[int, int] = {}  # address -> bytes
        self.peak = 0
        self._read: set[int] = set()  # addresses that kernels may still look at
        self._pinned: dict[int, int] = {}
        self._under_way: deque[Copy] = deque()
        self._lock = threading.RLock()
        self._rng = random.Random(seed)
        self._late = late
        self._is_over = threading.Event()
        if not late:
            threading.Thread(target=self._work, daemon=True).start()

    # what `loaders.accelerator.Accelerator` asks for

    def enter_thread(self, *, moves: bool) -> None:
        self.entered.append((threading.current_thread().name, moves))

    def free_bytes(self) -> int:
        return self.capacity_bytes - sum(self.taken.values())

    def room(self, size_bytes: int) -> torch.Tensor:
        return self._taken(size_bytes)

    def landing(self, size_bytes: int) -> torch.Tensor:
        return self._taken(size_bytes)

    def send(self, source: torch.Tensor, target: torch.Tensor) -> Mark:
        self._check()
        copy = Copy(source, target, is_pinned=self._is_pinned(source.data_ptr()))
        with self._lock:
            self._under_way.append(copy)
            self.sent_bytes += source.nbytes
        return Mark(self, copy)

    def finish(self) -> None:
        self._check()
        with self._lock:
            self._read.clear()

    def give_back(self) -> None:
        self._check()

    def begin_peak(self) -> int:
        self.peak = sum(self.taken.values())
        return self.peak

    def peak_bytes(self) -> int:
        return self.peak

    def pin(self, address: int, size_bytes: int) -> None:
        for start, length in self._pinned.items():
            if address < start + length and start < address + size_bytes:
                self.violations.append("memory was returned to the system while it was pinned")
        self._pinned[address] = size_bytes

    def unpin(self, address: int) -> None:
        size_bytes = self._pinned.pop(address)
        with self._lock:
            for copy in self._under_way:
                if copy.staged is None and address <= copy.address < address + size_bytes:
                    self.violations.append("memory was unpinned under a copy")
                    copy.staged = (
                        torch.zeros(copy.size_bytes, dtype=torch.uint8).view(copy.dtype).view(copy.shape)
                    )

    # how it does it

    def land(self, wanted: Copy) -> None:
        """Everything that was sent up to it, in order."""
        while not wanted.has_landed:
            self._land_oldest()

    def is_read(self, place: int) -> None:
        with self._lock:
            self._read.add(place)

    def close(self) -> None:
        self._is_over.set()

    def _land_oldest(self) -> None:
        with self._lock:
            if not self._under_way:
                return
            self._check()
            copy = self._under_way.popleft()
            if wrong := copy.land():
                self.violations.append(wrong)

    def _work(self) -> None:
        while not self._is_over.is_set():
            time.sleep(self._rng.random() * LATEST_SECONDS)
            if self.error is None:
                self._land_oldest()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _is_pinned(self, address: int) -> bool:
        return any(start <= address < start + length for start, length in self._pinned.items())

    def _taken(self, size_bytes: int) -> torch.Tensor:
        self._check()
        if size_bytes > self.free_bytes():
            raise torch.OutOfMemoryError(f"Pretend out of memory: {size_bytes} bytes")
        memory = mmap.mmap(-1, max(size_bytes, 1))
        memory.write(bytes([NOTHING]) * size_bytes)
        view = (ctypes.c_char * max(size_bytes, 1)).from_buffer(memory)
        address = ctypes.addressof(view)
        self.taken[address] = size_bytes
        self.peak = max(self.peak, sum(self.taken.values()))
        weakref.finalize(view, self._freed, address, memory).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8)[:size_bytes]

    def _freed(self, address: int, memory: mmap.mmap) -> None:
        if address in self._read:
            self.violations.append("weights were freed under a run")
        del self.taken[address]


class PretendDevice(Device):
    """Its kernels are the CPU's, so as many cores have to run them as on a CPU, or the bits differ."""

    def __init__(self, accelerator: Pretend) -> None:
        super().__init__(accelerator=accelerator)

    def is_small(self, size_bytes: int) -> bool:
        return size_bytes < SMALL_WORK_BYTES


def _sum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(torch.uint8).numpy())


def patched(setattr_: Callable[[Any, str, Any], None], *, under_way: int = 64) -> None:
    """As small models have to be treated to be treated like large ones, and much of them is late."""
    setattr_(crossing, "CHUNK_BYTES", 16 << 10)
    setattr_(crossing, "MOST_UNDER_WAY", under_way)
    setattr_(reader, "BLOCK_BYTES", 20 << 10)
    setattr_(buffers, "POOLED_FROM_BYTES", 1 << 10)
