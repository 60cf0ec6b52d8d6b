"""What customers feel of others and of deaths: a batch of 10,000 before a single call, a dispatcher killed with -9."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.fake_host import FakeHost
from tests.live import Live, furnish, serving

PROMPT = {"prompt": "a red circle on white", "seed": 7}
BATCH = 10_000
TAKEOVER_SECONDS = 5.0  # promised


async def flood(live: Live, key: str) -> None:
    """So many calls at once, by the core that all doors share."""
    core = live.gateway.house.core
    caller = core.catalogue.now.caller(key, "run")
    await asyncio.gather(*[core.submit(caller, "acme/toys", PROMPT) for _ in range(BATCH)])


async def test_a_batch_of_10_000_delays_another_customer_by_what_runs(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens) as live, live.host(slots=1).linked() as host:
        host.release.clear()
        await flood(live, live.key)
        await host.hears(assigned=1)
        async with live.visit(live.stranger) as stranger:
            single = (await stranger.post("/fal/queue/acme/toys", json=PROMPT)).json()["request_id"]
            host.release.set()
            await host.hears(assigned=3)
        assert [assign.attempt.request_id == single for assign in host.assigned[:3]] == [False, True, False]


class Gateway:
    """A gateway's process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, key: str) -> None:
        self.process, self.url = process, url
        self.client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Key {key}"}, timeout=20.0, trust_env=False
        )

    async def is_(self, state: str) -> None:
        """Returns once its dispatcher is `active` or `standing by`."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await self.client.get("/healthz")).json()["dispatcher"] == state:
                        return
                await asyncio.sleep(0.02)

    async def completes(self, request_id: str) -> None:
        async with asyncio.timeout(30):
            while True:
                url = f"/fal/queue/acme/toys/requests/{request_id}/status"
                if (await self.client.get(url)).json()["status"] == "COMPLETED":
                    return
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def process(dsn: str, home: Path, key: str) -> AsyncIterator[Gateway]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    others = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
    ours = {"MARQUEE_HOME": str(home), "MARQUEE_DATABASE_URL": dsn, "MARQUEE_PORT": str(port)}
    command = (sys.executable, "-m", "router.gateway")
    made = await asyncio.create_subprocess_exec(*command, env=others | ours)
    gateway = Gateway(made, f"http://127.0.0.1:{port}", key)
    try:
        yield gateway
    finally:
        await gateway.client.aclose()
        with contextlib.suppress(ProcessLookupError):
            made.terminate()
        await asyncio.wait_for(made.wait(), 20)


async def test_a_standby_replaces_a_killed_dispatcher_in_5_seconds(dsn: str, tmp_path: Path) -> None:
    """Nothing is lost, and what its host still runs is not run again."""
    key, _, host_key = await furnish(dsn)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(process(dsn, tmp_path / "a", key))
        await first.is_("active")
        second = await stack.enter_async_context(process(dsn, tmp_path / "b", key))
        await second.is_("standing by")
        host = FakeHost(first.url, host_key, slots=1)
        async with host.linked():
            host.release.clear()
            answers = [await second.client.post("/fal/queue/acme/toys", json=PROMPT) for _ in range(3)]
            jobs = [answer.json()["request_id"] for answer in answers]
            await host.hears(assigned=1)
            first.process.send_signal(signal.SIGKILL)
            killed_at = time.monotonic()
            await second.is_("active")
            took = time.monotonic() - killed_at
        host.url = second.url.replace("http", "ws", 1) + "/hosts/link"
        async with host.linked():
            host.release.set()
            for job in jobs:
                await second.completes(job)
    assert took < TAKEOVER_SECONDS
    assert [assign.attempt.number for assign in host.assigned] == [1, 1, 1]
    assert {assign.attempt.request_id for assign in host.assigned} == set(jobs)
