"""The watch over the device: quiet while it works or is idle, a report and the end of the process when it hangs."""

import asyncio
import contextlib
from typing import Literal

import pytest

from loaders import protocol, watchdog
from loaders.protocol import AttemptKey
from loaders.watchdog import Stall

ATTEMPT = AttemptKey("r1", 2)


class Engine:
    def __init__(self, *stalls: Stall, is_broken: bool = False) -> None:
        self._stalls = stalls
        self.is_broken = is_broken

    def stalled(self) -> tuple[Stall, ...]:
        return self._stalls


async def watched(*stalls: Stall, is_broken: bool = False) -> tuple[list[protocol.Failed], list[int]]:
    reports: list[protocol.Failed] = []
    exits: list[int] = []
    watch = watchdog.watch(
        Engine(*stalls, is_broken=is_broken),
        report=reports.append,
        leave=exits.append,
        hung_seconds=0.05,
        check_seconds=0.01,
    )
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(watch, 0.3)
    return reports, exits


async def test_an_idle_device_is_left_alone() -> None:
    assert await watched() == ([], [])


async def test_a_slow_step_is_left_alone() -> None:
    assert await watched(Stall("device", ATTEMPT, 0.04), Stall("mover", None, 0.04)) == ([], [])


@pytest.mark.parametrize(("where", "error"), [("device", "device_hung"), ("mover", "mover_hung")])
async def test_what_hangs_is_reported_as_the_hosts_fault_and_the_process_ends(
    where: Literal["device", "mover"], error: str
) -> None:
    reports, exits = await watched(Stall("device", AttemptKey("r2", 1), 0.0), Stall(where, ATTEMPT, 1.0))
    assert [(r.attempt, r.kind, r.error) for r in reports] == [(ATTEMPT, "host", error)]
    assert exits == [watchdog.EXIT_CODE]


async def test_a_prewarm_that_hangs_ends_the_process_without_a_report() -> None:
    assert await watched(Stall("mover", None, 1.0)) == ([], [watchdog.EXIT_CODE])


async def test_a_broken_device_ends_the_process_and_its_run_said_why() -> None:
    assert await watched(is_broken=True) == ([], [watchdog.EXIT_CODE])
