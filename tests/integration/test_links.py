"""Hosts' links that go wrong: hosts that dial anew before their loss is noticed, hellos nobody can use, a full disk here."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import psycopg
import pytest

from loaders.protocol import PROTOCOL_VERSION, Hello
from router.files import Draft, FileStore
from router.hub import Hub
from tests.fake_host import FakeHost
from tests.live import Live

PROMPT = {"prompt": "a red circle on white", "seed": 7}
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _run(live: Live) -> dict[str, Any]:
    """A request that a host has begun."""
    submitted: dict[str, Any] = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
    await live.until(submitted["status_url"], "IN_PROGRESS")
    return submitted


async def _ends(live: Live, submitted: dict[str, Any]) -> list[dict[str, Any]]:
    """Its attempts, once it has ended."""
    await live.until(submitted["status_url"], "COMPLETED")
    attempts: list[dict[str, Any]] = (
        await live.client.get(f"/v1/requests/{submitted['request_id']}?explain")
    ).json()["attempts"]
    return attempts


@pytest.mark.parametrize("finished", [False, True], ids=["it still runs", "it has finished meanwhile"])
async def test_a_host_that_dials_anew_before_its_loss_is_noticed_goes_on(
    live: Live, *, finished: bool
) -> None:
    before, after = live.host(), live.host()
    async with before.linked():
        before.release.clear()
        submitted = await _run(live)
        await before.hears(assigned=1)
        key = before.assigned[0].attempt
        after.running = dict(before.running)
        if finished:
            after.finish(before.running[key])
        async with after.linked():
            attempts = await _ends(live, submitted)
            assert (after.assigned, after.abandoned) == ([], [])
            assert [(attempt["number"], attempt.get("ended")) for attempt in attempts] == [(1, None)]
            async with asyncio.timeout(10):
                while after.unsettled:
                    await asyncio.sleep(0.01)


async def test_what_a_host_that_dials_anew_knows_nothing_of_runs_again(live: Live) -> None:
    before, after = live.host(), live.host()
    async with before.linked():
        before.release.clear()
        submitted = await _run(live)
        await before.hears(assigned=1)
        async with after.linked():
            attempts = await _ends(live, submitted)
            assert [attempt["number"] for attempt in attempts] == [1, 2]
            assert [assign.attempt.number for assign in after.assigned] == [2]


async def test_a_host_that_comes_back_while_its_loss_is_written_down_goes_on(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, returns = live.host(), live.host(), live.gateway.dispatcher.term.queue._returns
    write, written = returns._flush, asyncio.Event()

    async def late(items: Any) -> Any:
        await written.wait()
        return await write(items)

    monkeypatch.setattr(returns, "_flush", late)
    async with before.linked():
        before.release.clear()
        submitted = await _run(live)
        await before.hears(assigned=1)
    after.running = dict(before.running)
    after.release.clear()
    async with asyncio.timeout(10):
        while not live.gateway.dispatcher.term.ends.returning:
            await asyncio.sleep(0.01)
    async with after.linked():
        after.release.set()
        written.set()
        attempts = await _ends(live, submitted)
    assert (before.assigned[1:], after.assigned, after.abandoned) == ([], [], [])
    assert [(attempt["number"], attempt.get("ended")) for attempt in attempts] == [(1, None)]


async def test_only_its_own_fault_is_forgiven_to_a_host_that_comes_back(live: Live) -> None:
    """Else a request that kills hosts would go on and on."""
    term = live.gateway.dispatcher.term
    async with live.host("one").linked() as one:
        one.release.clear()
        submitted = await _run(live)
        async with asyncio.timeout(10):
            while term.attempts[submitted["request_id"]].phase is None:
                await asyncio.sleep(0.01)
    before, after = live.host("two", slots=1), live.host("two", slots=1)
    async with before.linked():
        before.release.clear()
        await live.until(submitted["status_url"], "IN_PROGRESS")
        term.attempts[submitted["request_id"]].phase = None  # as if it was only staged
        after.running = dict(before.running)
    after.release.clear()
    async with after.linked():
        async with asyncio.timeout(10):
            while submitted["request_id"] not in term.attempts:
                await asyncio.sleep(0.01)
        assert term.attempts[submitted["request_id"]].entry.host_faults == 1
        after.release.set()
        await _ends(live, submitted)


async def test_what_is_cancelled_while_it_is_adopted_stops_there(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, adoptions = live.host(), live.host(), live.gateway.dispatcher.term.queue._adoptions
    write, written = adoptions._flush, asyncio.Event()

    async def late(items: Any) -> Any:
        result = await write(items)
        await written.wait()
        return result

    monkeypatch.setattr(adoptions, "_flush", late)
    async with before.linked():
        before.release.clear()
        submitted = await _run(live)
        await before.hears(assigned=1)
    after.running = dict(before.running)
    await live.until(submitted["status_url"], "IN_QUEUE")
    after.release.clear()
    async with after.linked():
        assert (await live.client.put(submitted["cancel_url"])).status_code in {200, 202}
        written.set()
        await after.hears(cancelled=1)


class Odd(FakeHost):
    """Says something that no host should."""

    def __init__(self, url: str, key: str, says: dict[str, Any]) -> None:
        super().__init__(url, key)
        self.says = says

    def hello(self) -> Hello:
        return msgspec.structs.replace(super().hello(), **self.says)


async def test_a_host_of_another_protocol_is_told_both_numbers(live: Live) -> None:
    host = Odd(live.url, live.host_key, {"protocol": PROTOCOL_VERSION + 1})
    async with asyncio.timeout(10), host.linked():
        while host.close_code is None:
            await asyncio.sleep(0.01)
    assert (host.close_code, host.close_reason) == (
        1008,
        f"this router speaks protocol {PROTOCOL_VERSION}, this host {PROTOCOL_VERSION + 1}: upgrade the older one",
    )


@pytest.mark.parametrize(
    "says", [{"speed": 0.0}, {"speed": float("nan")}, {"slots": 0}], ids=["no speed", "no number", "no slots"]
)
async def test_a_hello_that_nobody_could_price_is_refused(live: Live, says: dict[str, Any]) -> None:
    host = Odd(live.url, live.host_key, says)
    async with asyncio.timeout(10), host.linked():
        while host.close_code is None:
            await asyncio.sleep(0.01)
    assert (host.close_code, live.gateway.dispatcher.hosts) == (1008, 0)


async def test_a_host_whose_joining_fails_has_not_joined(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody thought of this")

    with monkeypatch.context() as patched:
        patched.setattr(Hub, "_introduce", fail)
        host = live.host()
        async with asyncio.timeout(10), host.linked():
            while host.close_code is None:
                await asyncio.sleep(0.01)
    assert live.gateway.dispatcher.hosts == 0
    async with live.host().linked():
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200


class Full(Draft):
    """Its file is the device that is always full."""

    def write(self, content: bytes) -> None:
        if self._file is None:
            self._path.symlink_to("/dev/full")
        super().write(content)


async def test_a_full_disk_fails_the_request_and_leaves_its_host_at_work(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draft(store: FileStore) -> Draft:
        return Full(store, store._drafts / f"full-{os.urandom(4).hex()}")

    async with live.host().linked() as host:
        with monkeypatch.context() as patched:
            patched.setattr(FileStore, "draft", draft)
            answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        assert (answer.status_code, answer.json()["error_type"]) == (500, "not_stored")
        assert os.strerror(errno.ENOSPC) in answer.text
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
        assert [assign.attempt.number for assign in host.assigned] == [1, 1]
        assert host.close_code is None
        async with asyncio.timeout(10):
            while host.unsettled:
                await asyncio.sleep(0.01)
    drafts: Path = live.gateway.house.files._drafts
    assert list(drafts.iterdir()) == []


async def test_an_attempt_whose_row_is_refused_holds_no_room(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> NoReturn:
        raise psycopg.DataError("nobody thought of this")

    hub, term = live.gateway.dispatcher.hub, live.gateway.dispatcher.term
    async with live.host(slots=1).linked():
        with monkeypatch.context() as patched:
            patched.setattr(term.queue._assigns, "_flush", refuse)
            submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
            async with asyncio.timeout(10):
                while submitted["request_id"] in {*term.waiting, *term.attempts}:
                    await asyncio.sleep(0.01)
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
        assert [await hub.reconcile(0.0) for _ in range(2)] == [frozenset(), {submitted["request_id"]}]
        await live.until(submitted["status_url"], "COMPLETED")


@pytest.mark.parametrize("kind", ["host", "model"])
async def test_what_ran_in_vain_is_no_share_of_its_customers(live: Live, kind: str) -> None:
    """A model's own error at once, and hosts' faults: the estimates that were booked are given back."""
    fairness = live.gateway.dispatcher.term.placement.fairness
    before = fairness.peek("customer")
    async with live.host("one").linked() as one, live.host("two").linked() as two:
        for host in (one, two):
            host.fail_with = {"kind": kind, "error": "out_of_memory", "message": "no room"}
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code >= 400
    assert fairness.peek("customer") == pytest.approx(before, abs=0.1)


async def test_what_is_cancelled_while_it_runs_counts_as_far_as_it_ran(live: Live) -> None:
    fairness = live.gateway.dispatcher.term.placement.fairness
    before = fairness.peek("customer")
    async with live.host().linked() as host:
        host.release.clear()
        submitted = await _run(live)
        await host.hears(assigned=1)
        await asyncio.sleep(0.3)
        await live.client.put(submitted["cancel_url"])
        await host.hears(cancelled=1)
        async with asyncio.timeout(10):
            while live.gateway.dispatcher.term.attempts:
                await asyncio.sleep(0.01)
    assert 0.2 < fairness.peek("customer") - before < 3.0
