"""Child processes of `marquee up` and of hosts on several devices: started in sessions of their own, watched, restarted, stopped within a bound. IO."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

FIRST_PAUSE_SECONDS = 0.2  # before a restart; doubles while the child keeps dying young
LONGEST_PAUSE_SECONDS = 5.0
HEALTHY_AFTER_SECONDS = 10.0  # a child that lived this long starts over with the first pause
LOG_LIMIT_BYTES = 64 << 20  # a longer log is moved to `*.log.1` when its process starts

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent() -> None:
    """On Linux a child is told to end when its parent is killed, so that kill -9 leaves no orphans."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One supervised process. Its output goes to `log_path`, or to ours; `on_change` is called with every new pid."""

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path | None = None,
        on_change: Callable[[str, int], None] = lambda name, pid: None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.restarts = 0
        self._command = tuple(command)
        self._environment = dict(environment)
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        with _opened(self.log_path) as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops children in order
                preexec_fn=_die_with_parent,
            )
        self._on_change(self.name, self._process.pid)

    async def keep_running(self) -> None:
        """Restarts the process whenever it ends; returns only by cancellation."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_SECONDS
        while True:
            assert self._process is not None, "start() comes first"
            began = loop.time()
            await self._process.wait()
            pause = FIRST_PAUSE_SECONDS if loop.time() - began > HEALTHY_AFTER_SECONDS else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            self.restarts += 1
            try:
                await self.start()
            except OSError as error:  # a full disk, say: it may pass, and nobody else would start it again
                print(f"marquee: the {self.name} cannot be started: {error}", file=sys.stderr)  # noqa: T201

    def tell(self, signal_number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal_number)

    async def stop(self, *, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL to the whole session when the grace is over."""
        if self._process is None or self._process.returncode is not None:
            return
        self.tell(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), grace_seconds)
        except TimeoutError:
            kill_session(self._process.pid)
            await self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        if self.log_path is None or not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with path.open("ab") as log:
        yield log


def kill_session(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def is_ours(pid: int, marker: str) -> bool:
    """Whether a process that an earlier run noted still lives and still carries `marker` in its environment."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return marker.encode() in environment.split(b"\0")


def end_leftovers(pids: Sequence[int], marker: str, *, grace_seconds: float = 5.0) -> None:
    """Ends processes that a killed `marquee up` left behind. Blocks. Pids that were reused by strangers are left alone."""
    leftovers = [pid for pid in pids if is_ours(pid, marker)]
    for pid in leftovers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while any(is_ours(pid, marker) for pid in leftovers) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in leftovers:
        if is_ours(pid, marker):
            kill_session(pid)
