"""Whether anybody still waits for something that is on its way, and when it last moved.

Thread-safe; IO on the clock alone. Whoever waits holds one and may give it up from any thread; whoever brings it asks
at every step and says that it moves. It refuses to know what is brought.
"""

import threading
import time

from loaders.errors import AbandonedError, AsideError
from loaders.motion import Motion, OnMotion


class Interest:
    """One order's, in all that has to come for it."""

    def __init__(self, on_motion: OnMotion = lambda motion: None) -> None:
        """`on_motion` is told from whichever thread brings something, at each step of it."""
        self._on_motion = on_motion
        self._given_up = threading.Event()
        self._aside = threading.Event()
        self._stays = False
        self._moved_at = time.monotonic()

    def give_up(self) -> None:
        self._given_up.set()

    def step_aside(self) -> None:
        """Something more urgent has come: whoever brings it hears so once, at its next step."""
        self._aside.set()

    def stay(self) -> None:
        """It has stepped aside often enough."""
        self._stays = True

    @property
    def is_given_up(self) -> bool:
        return self._given_up.is_set()

    def check(self) -> None:
        """Raises `AbandonedError` when nobody waits any more, `AsideError` when others go first."""
        if self._given_up.is_set():
            raise AbandonedError("nobody waits for it any more")
        if self._aside.is_set() and not self._stays:
            self._aside.clear()
            raise AsideError("a request goes first")

    def pause(self, seconds: float) -> None:
        """For whoever brings it: returns early when it is given up. A pause of our own making is no silence."""
        self._given_up.wait(seconds)
        self.moved()

    def moved(self, motion: Motion | None = None) -> None:
        self._moved_at = time.monotonic()
        if motion is not None:
            self._on_motion(motion)

    def step(self) -> None:
        """For whoever moves something in several: says that it moves, and asks."""
        self.moved()
        self.check()

    def follow(self, other: "Interest") -> None:
        """For whoever waits for what is brought for somebody else: it moves when that moves."""
        self._moved_at = max(self._moved_at, time.monotonic() - other.silent_seconds())

    def silent_seconds(self) -> float:
        """Since it last moved."""
        return time.monotonic() - self._moved_at
