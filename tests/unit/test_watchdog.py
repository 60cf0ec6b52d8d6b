"""The watch over the device: quiet while it works or is idle, a report and the end of the process when it hangs."""

import asyncio
import contextlib

from loaders import protocol, watchdog
from loaders.protocol import AttemptKey

ATTEMPT = AttemptKey("r1", 2)


class Engine:
    def __init__(self, seconds: float | None, *, is_broken: bool = False) -> None:
        self._seconds = seconds
        self.is_broken = is_broken

    def stalled(self) -> tuple[AttemptKey, float] | None:
        return None if self._seconds is None else (ATTEMPT, self._seconds)


async def watched(
    seconds: float | None, *, is_broken: bool = False
) -> tuple[list[protocol.Failed], list[int]]:
    reports: list[protocol.Failed] = []
    exits: list[int] = []
    watch = watchdog.watch(
        Engine(seconds, is_broken=is_broken),
        report=reports.append,
        leave=exits.append,
        hung_seconds=0.05,
        check_seconds=0.01,
    )
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(watch, 0.3)
    return reports, exits


async def test_an_idle_device_is_left_alone() -> None:
    assert await watched(None) == ([], [])


async def test_a_slow_step_is_left_alone() -> None:
    assert await watched(0.04) == ([], [])


async def test_a_hung_device_is_reported_as_the_hosts_fault_and_the_process_ends() -> None:
    reports, exits = await watched(1.0)
    assert [(r.attempt, r.kind, r.error) for r in reports] == [(ATTEMPT, "host", "device_hung")]
    assert exits == [watchdog.EXIT_CODE]


async def test_a_broken_device_ends_the_process_and_its_run_said_why() -> None:
    assert await watched(None, is_broken=True) == ([], [watchdog.EXIT_CODE])
