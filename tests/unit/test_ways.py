"""Kept copies or merging on the way: the cheaper one in seconds, and why."""

import pytest

from loaders.ways import Choice, Room, Work, choose, learned

WORK = Work(weights=1_000_000_000, steps=4, can_stream=True)
FREE = Room(is_held=False, evicted_bytes=0)
CASES = {
    "free room: one merge instead of four": (
        WORK,
        FREE,
        Choice(
            way="kept",
            reason="one merge and its room cost less",
            seconds={"kept": 1.0, "streamed": 4.0},
        ),
    ),
    "held from an earlier run: nothing to do": (
        WORK,
        Room(is_held=True, evicted_bytes=0),
        Choice(way="kept", reason="the merged copies are held", seconds={"kept": 0.0}),
    ),
    "what would leave takes longer to bring back": (
        WORK,
        Room(is_held=False, evicted_bytes=8_000_000_000),
        Choice(
            way="streamed",
            reason="merging in each step costs less than room",
            seconds={"kept": 6.0, "streamed": 4.0},
        ),
    ),
    "no room beside what is in use": (
        WORK,
        Room(is_held=False, evicted_bytes=None),
        Choice(way="streamed", reason="merged copies do not fit", seconds={"streamed": 4.0}),
    ),
    "a layer that takes no buffers": (
        Work(weights=1_000_000_000, steps=4, can_stream=False),
        Room(is_held=False, evicted_bytes=None),
        Choice(way="kept", reason="a layer takes no buffers", seconds={"kept": 1.0}),
    ),
    "one step: no reason to keep anything but the next request": (
        Work(weights=1_000_000_000, steps=1, can_stream=True),
        FREE,
        Choice(way="kept", reason="one merge and its room cost less", seconds={"kept": 1.0, "streamed": 1.0}),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cheaper_way_is_chosen(case: str) -> None:
    work, room, expected = CASES[case]
    assert choose(work, room, weights_per_second=1e9) == expected


def test_what_comes_back_from_host_memory_may_leave_more_readily() -> None:
    """A GPU's has a tier between it and the disk."""
    work = Work(weights=10**8, steps=4, can_stream=True)
    room = Room(is_held=False, evicted_bytes=10**9)
    ways = [choose(work, room, 1e9, rate).way for rate in (1.6e9, 10e9)]
    assert ways == ["streamed", "kept"]


def test_the_pace_follows_what_was_measured() -> None:
    assert learned(100.0, 200, 1.0) == 130.0
    assert learned(100.0, 200, 0.0) == 100.0
