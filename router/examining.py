"""Keeps a `loaders.examiner` process at hand: started by the first question, ended when it has been idle. IO.

One question at a time; whoever takes too long or dies over a question refuses what it was asked about, because a
config that breaks a builder would break hosts too.
"""

import asyncio
import contextlib
import importlib.util
import sys
from typing import Self

import msgspec
import structlog

from registry import examination
from registry.examination import Question, Verdict

START_SECONDS = 600.0  # importing torch takes minutes on a busy machine
ANSWER_SECONDS = 120.0
IDLE_SECONDS = 60.0
VERDICT_BYTES = 1 << 20
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")

log = structlog.get_logger("marquee.examiner")


class Examiner:
    def __init__(self, answer_seconds: float = ANSWER_SECONDS, idle_seconds: float = IDLE_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._idle_seconds = idle_seconds
        self._lock = asyncio.Lock()
        self._process: _Process | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def __call__(self, question: Question) -> Verdict:
        if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
            return await examination.nobody(question)
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                process = await self._started()
            except (TimeoutError, OSError, EOFError) as error:
                log.warning("the examiner does not start", error=repr(error))
                self._kill()
                return await examination.nobody(question)
            try:
                async with asyncio.timeout(self._answer_seconds):
                    process.write(msgspec.json.encode(question))
                    return msgspec.json.decode(await process.line(), type=Verdict)
            except (TimeoutError, OSError, EOFError, msgspec.DecodeError) as error:
                log.warning("an examination failed", error=repr(error))
                self._kill()
                message = "its configs cannot be built in the memory and time that an examination has"
                return Verdict(error="ExaminationError", message=message)
            except BaseException:
                self._kill()  # cancelled in mid-question: the answer would be taken for the next one's
                raise
            finally:
                self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._kill)

    async def _started(self) -> "_Process":
        if self._process is None or self._process.has_ended:
            self._process = await _Process.start()
            async with asyncio.timeout(START_SECONDS):
                await self._process.line()
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._process = None

    async def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        process = self._process
        self._kill()
        if process is not None:
            await process.wait()


class _Process:
    """`loaders.examiner`, a line each way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout

    @classmethod
    async def start(cls) -> Self:
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "loaders.examiner"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=VERDICT_BYTES,
            )
        )

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def write(self, line: bytes) -> None:
        self._in.write(line + b"\n")

    async def line(self) -> bytes:
        """The first says that it is ready. Raises `EOFError` when it died."""
        line = await self._out.readline()
        if not line:
            raise EOFError("the examiner died")
        return line

    def kill(self) -> None:
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait(self) -> None:
        await self._process.wait()
