"""A watch over device and mover: a run, or a move of weights, that gives no sign for far too long takes its process with
it, and so does a broken GPU.

Nothing inside a process can end a thread that is stuck in a driver or a mount, so the host says what happened and exits;
whoever supervises it starts a fresh one, and the router tries the request elsewhere. Asyncio, no IO of its own.
"""

import asyncio
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import structlog

from loaders import protocol
from loaders.errors import HostError, HungError, MoverHungError
from loaders.protocol import AttemptKey

log = structlog.get_logger("marquee.watchdog")

HUNG_SECONDS = 900.0  # longer than a step of the slowest video model, a first compilation included
CHECK_SECONDS = 5.0
FAREWELL_SECONDS = 2.0  # for the report to leave
EXIT_CODE = 70  # EX_SOFTWARE


class Stall(NamedTuple):
    """How long something has given no sign, and whose attempt it is; none's where it is a prewarm."""

    where: Literal["device", "mover"]
    attempt: AttemptKey | None
    seconds: float

    def error(self) -> HostError:
        if self.where == "device":
            return HungError(f"no sign of life from the device for {self.seconds:.0f} seconds")
        return MoverHungError(f"weights have not moved for {self.seconds:.0f} seconds: a disk or mount hangs")


class Watched(Protocol):
    """`loaders.engine.Engine`."""

    @property
    def is_broken(self) -> bool: ...
    def stalled(self) -> tuple[Stall, ...]: ...


async def watch(
    engine: Watched,
    *,
    report: Callable[[protocol.Failed], None],
    leave: Callable[[int], object],
    hung_seconds: float = HUNG_SECONDS,
    check_seconds: float = CHECK_SECONDS,
) -> None:
    """Until cancelled, or until something hangs: reports it as the host's fault and calls `leave`, `os._exit` in a host.

    A device that is broken has been reported by its run.
    """
    while True:
        await asyncio.sleep(check_seconds)
        hung = [stall for stall in engine.stalled() if stall.seconds >= hung_seconds]
        if not engine.is_broken and not hung:
            continue
        if engine.is_broken:
            log.error("broken")
        for stall in hung:
            _tell(stall, report)
        await asyncio.sleep(min(FAREWELL_SECONDS, hung_seconds))
        leave(EXIT_CODE)
        return


def _tell(stall: Stall, report: Callable[[protocol.Failed], None]) -> None:
    error, attempt = stall.error(), stall.attempt
    log.error("hung", where=stall.where, attempt=attempt, error=str(error))
    if attempt is not None:
        report(protocol.Failed(attempt=attempt, kind="host", error=error.name, message=str(error)))
