"""Several gateways on one database: one dispatches, the others stand by, accept, wait and take over."""

import asyncio
from pathlib import Path

import pytest

from router import dispatcher, foresight
from tests import connections
from tests.live import furnish, serving
from tests.silent_proxy import SilentProxy

PROMPT = {"prompt": "a red circle on white", "seed": 7}


async def test_a_new_gateway_process_takes_over_what_runs_and_what_waits(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens) as live:
        host = live.host(slots=1)
        async with host.linked():
            host.release.clear()
            running = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
            await live.until(running["status_url"], "IN_PROGRESS")
            await host.hears(assigned=1)
            waiting = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
            await live.until(waiting["status_url"], "IN_QUEUE")
    async with serving(dsn, tmp_path, tokens) as live:
        host.url = live.host().url
        async with host.linked():
            host.release.set()
            for job in (running, waiting):
                await live.until(f"/fal/queue/acme/toys/requests/{job['request_id']}/status", "COMPLETED")
    assert [assign.attempt.number for assign in host.assigned] == [1, 1]


async def test_a_term_that_knows_too_much_begins_anew_and_loses_nothing(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "OVERGROWN_CELLS", 0)
    monkeypatch.setattr(dispatcher, "CHECK_SECONDS", 0.1)
    async with serving(dsn, tmp_path, await furnish(dsn)) as live:
        first, host = live.gateway.dispatcher.term, live.host(slots=1)
        async with host.linked():
            host.release.clear()
            jobs = [(await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json() for _ in range(2)]
            await host.hears(assigned=1)
            async with asyncio.timeout(20):
                while live.gateway.dispatcher.term in (None, first):
                    await asyncio.sleep(0.01)
        async with host.linked():
            host.release.set()
            for job in jobs:
                await live.until(job["status_url"], "COMPLETED")
    assert [assign.attempt.number for assign in host.assigned] == [1, 1]


async def test_the_kernel_probes_a_host_so_that_a_busy_one_keeps_its_link(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens) as live:
        before = connections.probed()
        async with live.host().linked():
            assert (before, connections.probed()) == (0, 1)


async def test_a_standby_gateway_accepts_waits_and_cancels(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with (
        serving(dsn, tmp_path / "a", tokens) as active,
        serving(dsn, tmp_path / "b", tokens, standby=True) as other,
    ):
        assert (await other.client.get("/healthz")).json()["dispatcher"] == "standing by"
        async with active.host(slots=1).linked() as host:
            answer = await other.client.post("/fal/run/acme/toys", json=PROMPT)
            assert answer.status_code == 200
            host.release.clear()
            running = (await other.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
            await other.until(running["status_url"], "IN_PROGRESS")
            waiting = (await other.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
            await active.until(f"/fal/queue/acme/toys/requests/{waiting['request_id']}/status", "IN_QUEUE")
            for job, code in ((waiting, 200), (running, 202)):
                assert (await other.client.put(job["cancel_url"])).status_code == code
                await other.until(job["status_url"], "COMPLETED")
            while not host.cancelled:
                await asyncio.sleep(0.01)
            host.release.set()
            assert (await other.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
            assert len(host.assigned) == 3, "what was cancelled while it waited never ran"


async def test_a_standby_takes_over_within_seconds_and_runs_nothing_twice(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with asyncio.timeout(60):
        first = serving(dsn, tmp_path / "a", tokens)
        active = await first.__aenter__()
        async with serving(dsn, tmp_path / "b", tokens, standby=True) as other:
            host = active.host(slots=1)
            async with host.linked():
                host.release.clear()
                jobs = [
                    (await other.client.post("/fal/queue/acme/toys", json=PROMPT)).json() for _ in range(3)
                ]
                await other.until(jobs[0]["status_url"], "IN_PROGRESS")
                await first.__aexit__(None, None, None)
            while other.gateway.dispatcher.hub is None:
                await asyncio.sleep(0.01)
            host.url = other.host().url
            async with host.linked():
                host.release.set()
                for job in jobs:
                    await other.until(job["status_url"], "COMPLETED")
            assert [assign.attempt.number for assign in host.assigned] == [1, 1, 1]


async def test_a_dispatcher_whose_database_is_silent_decides_no_more(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(foresight, "LOOK_SECONDS", 0.001)  # whatever waits for the database meanwhile
    monkeypatch.setattr(foresight, "EXPECT_SECONDS", 0.0)
    tokens = await furnish(dsn)
    async with SilentProxy(dsn).listening() as proxy, serving(proxy.dsn, tmp_path, tokens) as live:
        monkeypatch.setattr(dispatcher, "SILENT_SECONDS", 0.3)
        term = live.gateway.dispatcher.term
        await asyncio.sleep(0.2)  # until it asks
        proxy.fall_silent()
        async with asyncio.timeout(5):
            while not term.closed:
                await asyncio.sleep(0.01)
        assert live.gateway.dispatcher.hub is None, "hosts are sent elsewhere"
        proxy.talk_again()
        async with asyncio.timeout(20):
            while live.gateway.dispatcher.hub is None:
                await asyncio.sleep(0.01)


async def test_what_memory_lost_is_found_in_the_tables(dsn: str, tmp_path: Path) -> None:
    async with serving(dsn, tmp_path, await furnish(dsn)) as live:
        jobs = [(await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json() for _ in range(2)]
        dispatcher = live.gateway.dispatcher
        assert await dispatcher.hub.reconcile(0.0) == frozenset()
        for job in jobs:
            dispatcher.term.drop(job["request_id"])
        assert await dispatcher.hub.reconcile(0.0) == frozenset(), "once may be a move under way"
        assert await dispatcher.hub.reconcile(0.0) == {job["request_id"] for job in jobs}
        async with live.host().linked():
            for job in jobs:
                await live.until(job["status_url"], "COMPLETED")
