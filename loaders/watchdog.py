"""A watch over the device: a run that gives no sign for far too long takes its process with it, and so does a broken GPU.

Nothing inside a process can end a thread that is stuck in a driver, so the host says what happened and exits; whoever
supervises it starts a fresh one, and the router tries the request elsewhere. Asyncio, no IO of its own.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from loaders import protocol
from loaders.errors import HungError
from loaders.protocol import AttemptKey

log = structlog.get_logger("marquee.watchdog")

HUNG_SECONDS = 900.0  # longer than a step of the slowest video model, a first compilation included
CHECK_SECONDS = 5.0
FAREWELL_SECONDS = 2.0  # for the report to leave
EXIT_CODE = 70  # EX_SOFTWARE


class Watched(Protocol):
    """`loaders.engine.Engine`."""

    @property
    def is_broken(self) -> bool: ...
    def stalled(self) -> tuple[AttemptKey, float] | None: ...


async def watch(
    engine: Watched,
    *,
    report: Callable[[protocol.Failed], None],
    leave: Callable[[int], object],
    hung_seconds: float = HUNG_SECONDS,
    check_seconds: float = CHECK_SECONDS,
) -> None:
    """Until cancelled, or until a run hangs: reports it as the host's fault and calls `leave`, `os._exit` in a host.

    A device that is broken has been reported by its run.
    """
    while True:
        await asyncio.sleep(check_seconds)
        if engine.is_broken:
            log.error("broken")
            await asyncio.sleep(min(FAREWELL_SECONDS, hung_seconds))
            leave(EXIT_CODE)
            return
        stalled = engine.stalled()
        if stalled is None or stalled[1] < hung_seconds:
            continue
        attempt, seconds = stalled
        error = HungError(f"no sign of life from the device for {seconds:.0f} seconds")
        log.error("hung", request=attempt.request_id, seconds=seconds)
        report(protocol.Failed(attempt=attempt, kind="host", error=error.name, message=str(error)))
        await asyncio.sleep(min(FAREWELL_SECONDS, hung_seconds))
        leave(EXIT_CODE)
        return
