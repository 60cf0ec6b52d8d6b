"""What a run takes beside its weights, as it was: from the device's allocator, on a CPU from the process's own size.

IO on counters alone. A figure that something else may have disturbed is no figure: then the answer is None.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from loaders.device import Device

RESET_PEAK = "5"  # to clear_refs: the highest resident size counts from now on (proc_pid_clear_refs(5))


class Footprint:
    """Measures the runs of one device. Used by the device thread."""

    def __init__(self, device: Device, *, disturbed: Callable[[], object]) -> None:
        """`disturbed` gives another answer when weights moved meanwhile, and None while they do."""
        self._device = device
        self._disturbed = disturbed
        self._floor_bytes: int | None = None  # interpreter, libraries and modules, without weights

    @contextlib.contextmanager
    def of_run(self, learn: Callable[[int], None]) -> Iterator[None]:
        """Tells `learn` the bytes that the block took at its highest, where that is known."""
        if self._floor_bytes is None:
            self._floor_bytes = self._besides_weights(_resident_bytes()) if self._device.is_cpu else 0
        before = self._disturbed()
        held_bytes = self._begin()
        yield
        if held_bytes is not None and before is not None and self._disturbed() == before:
            learn(max(0, self._highest_bytes(held_bytes)))

    def _begin(self) -> int | None:
        if not self._device.is_cpu:
            return self._device.begin_peak()
        try:
            Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        except OSError:
            return None  # no Linux, or not allowed
        return self._floor_bytes

    def _highest_bytes(self, held_bytes: int) -> int:
        if not self._device.is_cpu:
            return self._device.peak_bytes() - held_bytes
        return self._besides_weights(_highest_resident_bytes()) - held_bytes

    def _besides_weights(self, resident_bytes: int) -> int:
        return resident_bytes - self._device.buffers.alive_bytes()


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _highest_resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return _resident_bytes()
