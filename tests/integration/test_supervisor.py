"""Children are started, restarted and stopped; processes of strangers are left alone. Real processes."""

import asyncio
import os
import subprocess
import sys

import pytest

from loaders import supervisor
from router import up

MARKER = "SUPERVISED_BY_A_TEST=yes"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def make_child(tmp_path):
    made = []

    def make(code, changes=None):
        child = supervisor.Child(
            name="child",
            command=[sys.executable, "-c", code],
            environment={**os.environ, **dict([MARKER.split("=")])},
            log_path=tmp_path / "logs" / "child.log",
            on_change=lambda name, pid: changes.append(pid) if changes is not None else None,
        )
        made.append(child)
        return child

    yield make
    for child in made:
        if child.pid is not None and child.exit_code is None:
            supervisor.kill_session(child.pid)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_child_that_dies_is_started_again_and_its_new_pid_told(make_child):
    pids = []
    child = make_child("import time; time.sleep(60)", pids)
    await child.start()
    keeper = asyncio.create_task(child.keep_running())
    os.kill(pids[0], 9)
    await until(lambda: len(pids) == 2)
    keeper.cancel()
    assert child.restarts == 1
    assert pids[1] == child.pid != pids[0]
    await child.stop(grace_seconds=5)


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(make_child):
    child = make_child(STUBBORN)
    await child.start()
    await until(lambda: "up" in child.log_tail())
    await child.stop(grace_seconds=0.2)
    assert child.exit_code == -9


async def test_output_of_every_start_is_kept(make_child):
    child = make_child("print('hello')")
    await child.start()
    await child.stop(grace_seconds=5)
    await until(lambda: child.exit_code is not None)
    await child.start()
    await until(lambda: child.exit_code is not None)
    assert child.log_tail().splitlines().count("hello") >= 1


async def test_leftovers_are_ended_and_strangers_are_not(make_child):
    leftover = make_child("import time; time.sleep(60)")
    await leftover.start()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        await until(lambda: supervisor.is_ours(leftover.pid, MARKER))
        await asyncio.to_thread(supervisor.end_leftovers, [leftover.pid, stranger.pid], MARKER)
        await until(lambda: leftover.exit_code is not None)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_start_that_fails_is_tried_again(make_child, monkeypatch):
    pids = []
    child = make_child("import time; time.sleep(60)", pids)
    await child.start()

    def full_disk(name, pid):
        monkeypatch.setattr(child, "_on_change", lambda name, pid: pids.append(pid))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(child, "_on_change", full_disk)
    keeper = asyncio.create_task(child.keep_running())
    os.kill(pids[0], 9)
    await until(lambda: child.restarts == 1 and child.pid != pids[0] and not keeper.done())
    await until(lambda: child.exit_code is None)
    os.kill(child.pid, 9)
    await until(lambda: len(pids) == 2)
    keeper.cancel()
    await child.stop(grace_seconds=5)


async def test_postgres_is_started_again_until_it_starts(tmp_path, monkeypatch):
    tries = []

    def ensure(home):
        tries.append(home)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(up, "WATCH_POSTGRES_SECONDS", 0.01)
    monkeypatch.setattr(up.postgres, "pid", lambda home: None if len(tries) < 2 else 7)
    monkeypatch.setattr(up.postgres, "ensure", ensure)
    watching = asyncio.create_task(up.watch_postgres(tmp_path))
    await until(lambda: len(tries) == 2)
    watching.cancel()
