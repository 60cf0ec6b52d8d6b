"""What `marquee load` shows while one waits: what is fetched, checked and read, how fast, how long yet; then the steps.

On a terminal one line that changes; elsewhere a line every ten seconds. Words are pure; `Display` writes them.
"""

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from loaders.motion import Motion

SHOWN_FROM_BYTES = 4 << 20  # what is smaller comes and goes unseen
KEPT_FROM_SECONDS = 2.0  # what took longer leaves its line behind
LINE_SECONDS = 10.0  # between two lines where no line can change
DOING = {"fetch": "fetching", "check": "checking", "read": "reading"}
DONE = {"fetch": "fetched", "check": "checked", "read": "read"}
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """1.2 GB."""
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} {UNITS[power]}" if power < 2 or count >= 99.95 else f"{count:.1f} {UNITS[power]}"


def clock(seconds: float) -> str:
    """1:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def doing(motion: Motion, come_bytes: int, seconds: float) -> str:
    """`come_bytes` came in the `seconds` that it was watched; the others were there before."""
    told = f"{DOING[motion.kind]} {motion.name}: {size(motion.done_bytes)} of {size(motion.size_bytes)}"
    if motion.tensors:
        told += f", {motion.done_tensors} of {motion.tensors} tensors"
    if come_bytes and seconds >= 1:
        left = (motion.size_bytes - motion.done_bytes) * seconds / come_bytes
        told += f", {size(come_bytes / seconds)}/s, {clock(left)} left"
    return told


def done(motion: Motion, seconds: float) -> str:
    return f"{DONE[motion.kind]} {motion.name}: {size(motion.size_bytes)} in {clock(seconds)}"


class Display:
    """Of one command, on one stream."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._changes = stream.isatty()
        self._began: dict[tuple[str, str], tuple[float, int]] = {}
        self._lined_at = clock()

    def moved(self, motion: Motion) -> None:
        if motion.size_bytes < SHOWN_FROM_BYTES:
            return
        now = self._clock()
        began, had_bytes = self._began.setdefault((motion.kind, motion.name), (now, motion.done_bytes))
        if not motion.is_whole:
            self._show(doing(motion, motion.done_bytes - had_bytes, now - began))
        elif now - began >= KEPT_FROM_SECONDS:
            self._keep(done(motion, now - began))

    def stepped(self, step: int, steps: int) -> None:
        told = f"step {step} of {steps}"
        if step == steps:
            self._keep(told)
        else:
            self._show(told)

    def clear(self) -> None:
        """Nothing of a line that changes stays behind."""
        if self._changes:
            self._write("\r\x1b[K")

    def _show(self, told: str) -> None:
        if self._changes:
            columns = shutil.get_terminal_size().columns
            self._write(f"\r{told[: columns - 1]}\x1b[K")  # a line that wraps is not written over
        elif self._clock() - self._lined_at >= LINE_SECONDS:
            self._keep(told)

    def _keep(self, told: str) -> None:
        self._lined_at = self._clock()
        self._write(f"\r{told}\x1b[K\n" if self._changes else f"{told}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
