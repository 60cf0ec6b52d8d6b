"""Work that goes on beside the calls for as long as a process lives: none of it ends in silence. IO by proxy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

PAUSE_SECONDS = 1.0  # before what failed begins anew

log = structlog.get_logger("marquee.gateway")

Work = Callable[[], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def going_on(*work: Work) -> AsyncIterator[None]:
    """Each in a task of its own until the exit. What fails all the same is told, and begins anew."""
    tasks = [asyncio.create_task(_again_and_again(item)) for item in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _again_and_again(work: Work) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("work beside the calls failed and begins anew", work=repr(work))
        await asyncio.sleep(PAUSE_SECONDS)
