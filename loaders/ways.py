"""How a request's LoRAs are applied: merged copies that are kept, or weights merged while their layer runs. Pure.

Both ways give the same bits (`deltas`), so the choice may follow what this host holds at the moment. It is made in
seconds: a kept copy costs one merge and the room it takes, merging on the way costs a merge in every step and room
for one layer.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

Way = Literal["kept", "streamed"]
# What leaves comes back from a disk at about that, or from host memory where there is such a tier.
RELOAD_BYTES_PER_SECOND: Mapping[str, float] = {"cpu": 1.6e9, "cuda": 10e9}
PRIOR_WEIGHTS_PER_SECOND: Mapping[str, float] = {"cpu": 1.0e9, "cuda": 2.0e11}
SMOOTHING = 0.3  # of what was known before, this much goes at each measurement


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of adapters asks for."""

    weights: int  # elements of the weights it changes
    steps: int
    can_stream: bool  # every one of them belongs to a layer that can take buffers


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What the device has for the merged copies now."""

    is_held: bool  # they are there from an earlier run
    evicted_bytes: (
        int | None
    )  # what would have to leave for them; None: they do not fit beside what is in use


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The way and why: what each would cost, in seconds."""

    way: Way
    reason: str
    seconds: Mapping[Way, float]

    def __str__(self) -> str:
        costs = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in self.seconds.items())
        return f"{self.way}: {self.reason} ({costs})"


def choose(
    work: Work, room: Room, weights_per_second: float, reload_bytes_per_second: float = 1.6e9
) -> Choice:
    merge = work.weights / weights_per_second
    seconds: dict[Way, float] = {"kept": merge + (room.evicted_bytes or 0) / reload_bytes_per_second}
    if room.is_held:
        return Choice(way="kept", reason="the merged copies are held", seconds={"kept": 0.0})
    if not work.can_stream:
        return Choice(way="kept", reason="a layer takes no buffers", seconds=seconds)
    if room.evicted_bytes is None:
        only: dict[Way, float] = {"streamed": merge * work.steps}
        return Choice(way="streamed", reason="merged copies do not fit", seconds=only)
    seconds["streamed"] = merge * work.steps
    way = min(seconds, key=seconds.__getitem__)
    reason = (
        "one merge and its room cost less" if way == "kept" else "merging in each step costs less than room"
    )
    return Choice(way=way, reason=reason, seconds=seconds)


def learned(known: float, weights: int, seconds: float) -> float:
    """Weights per second, after one more merge was timed."""
    return known if seconds <= 0 else known + SMOOTHING * (weights / seconds - known)
