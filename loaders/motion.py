"""How far something has come that somebody waits for: which file is fetched or checked, which component is read.

Pure but for the clock in `Telling`. It refuses to know who listens, and how they show it.
"""

import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

TELL_SECONDS = 0.1  # between two words on the same thing


class Motion(msgspec.Struct, frozen=True, kw_only=True):
    """So much of one thing has come. A read tells its tensors too."""

    kind: Literal["fetch", "check", "read"]
    name: str
    done_bytes: int
    size_bytes: int
    done_tensors: int = 0
    tensors: int = 0

    @property
    def is_whole(self) -> bool:
        return self.done_bytes >= self.size_bytes


OnMotion = Callable[[Motion], None]  # from any thread; must not block


class Telling:
    """Passes on what is news: one motion in a tenth of a second, whatever begins or ends, nothing twice. Thread-safe."""

    def __init__(self, tell: OnMotion, *, seconds: float = TELL_SECONDS) -> None:
        self._tell = tell
        self._seconds = seconds
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many bytes
        self._lock = threading.Lock()

    def __call__(self, motion: Motion) -> None:
        now, key = time.monotonic(), (motion.kind, motion.name)
        with self._lock:
            at, done_bytes = self._told.get(key, (float("-inf"), -1))
            is_news = motion.done_bytes > done_bytes and (motion.is_whole or now - at >= self._seconds)
            if is_news:
                self._told[key] = now, motion.done_bytes
                self._tell(motion)


class Tally:
    """Adds up what several threads read of one thing."""

    def __init__(self, name: str, size_bytes: int, tensors: int) -> None:
        self._so_far = Motion(kind="read", name=name, done_bytes=0, size_bytes=size_bytes, tensors=tensors)
        self._lock = threading.Lock()

    def add(self, count_bytes: int, tensors: int) -> Motion:
        with self._lock:
            self._so_far = msgspec.structs.replace(
                self._so_far,
                done_bytes=self._so_far.done_bytes + count_bytes,
                done_tensors=self._so_far.done_tensors + tensors,
            )
            return self._so_far
