"""One attempt at a partner that is slow, odd or cancelled in the middle: what it costs, and what becomes of it."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loaders.protocol import AttemptKey, Timings
from registry.catalog import Digest, OrganizationName, Partner, Slug
from router.attempts import Attempt
from router.partners import errand, patience, wire
from router.partners.breaker import Breaker
from router.partners.connections import Connection
from router.partners.errand import Errand
from router.partners.errors import UnreachableError
from router.requests import Outcome, Request, RequestId, State
from router.rows import Acceptance, Entry
from router.waiting import Work
from tests.contract.test_partners import CALL, account, connected
from tests.fake_partner import CUT, Answer

ONCE = OrganizationName("customer")


class Queue:
    """Where the partner's name of the request is written down."""

    def __init__(self) -> None:
        self.accepted: list[Acceptance] = []

    async def accept(self, item: Acceptance) -> None:
        self.accepted.append(item)


def errand_of(connection: Connection, queue: Any = None) -> Errand:
    request = Request(
        id=RequestId("r"),
        organization=ONCE,
        key_id="k",
        slug=Slug("far/dev"),
        version=Digest("v"),
        input={"prompt": "a"},
        created_at=datetime.now(UTC),
    )
    work = Work(
        id=request.id, organization=ONCE, version=request.version, adapters=(), units=1.0, arrived_at=0.0
    )
    attempt = Attempt(Entry(request=request), AttemptKey("r", 1), "partner:x", work, 0.0, time.time())
    partner = Partner(provider=connection.account.provider, endpoint="owner/name")
    return Errand(
        attempt,
        partner,
        connection,
        Queue() if queue is None else queue,
        told=lambda: None,
        answered=lambda: None,
    )


async def ended(run: Errand) -> Outcome:
    outcome = await run.run()
    assert outcome is not None
    return outcome


async def test_a_job_that_is_named_long_after_its_cancellation_is_called_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would run, and be paid, for nobody."""
    monkeypatch.setattr(errand, "CANCEL_SECONDS", 0.2)
    async with connected("fal", tmp_path) as (connection, server):
        server.trouble = [0.6]
        run = errand_of(connection)
        running = asyncio.create_task(run.run())
        while not server.asked:
            await asyncio.sleep(0.01)
        run.stop()
        assert await running is None
        assert server.cancelled == ["job-1"]


async def test_a_cancellation_that_stumbles_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.01)
    async with connected("fal", tmp_path) as (connection, server):
        server.released, server.on = False, lambda asked: asked.path.endswith("/cancel")
        server.trouble = [Answer(503, b"nginx"), CUT, Answer(429, {})]
        run = errand_of(connection)
        running = asyncio.create_task(run.run())
        while not server.count("GET", "/status"):
            await asyncio.sleep(0.01)
        run.stop()
        await running
        assert server.cancelled == ["job-1"]


async def test_an_answer_that_comes_by_a_byte_now_and_then_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No silence is ever long, and it never ends."""
    monkeypatch.setattr(wire, "WHOLE_SECONDS", 0.1)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.02)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as slow:
        url = f"http://127.0.0.1:{slow.sockets[0].getsockname()[1]}"
        partner = wire.Wire(account("fal", url), "Key", Breaker())
        async with contextlib.AsyncExitStack() as stack, asyncio.timeout(10):
            stack.push_async_callback(partner.close)
            with pytest.raises(UnreachableError):
                await partner.ask("GET", "/status", read_seconds=0.2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(200, b"<html>sign in</html>"), "its answer has no pictures"),
        (Answer(200, {"error": {"message": "try later"}}), "try later"),
        (Answer(200, {"data": [{"url": 5}, {"b64_json": None}, "x"]}), "its answer has no pictures"),
    ],
    ids=["page", "error", "odd"],
)
async def test_an_error_that_openai_sends_as_a_success_is_no_success(
    answer: Answer, says: str, tmp_path: Path
) -> None:
    """It would be billed."""
    async with connected("openai", tmp_path) as (connection, server):
        server.refusal = answer
        outcome = await ended(errand_of(connection))
        assert outcome.failure is not None
        assert (outcome.state, outcome.failure.kind, outcome.failure.message) == (
            State.FAILED,
            "host",
            f"partner openai: {says}",
        )


async def test_an_answer_of_openais_that_a_restart_lost_is_not_paid_again(tmp_path: Path) -> None:
    async with connected("openai", tmp_path) as (connection, server):
        outcome = await errand_of(connection).run(is_resumed=True)
        assert outcome is not None
        assert outcome.failure is not None
        assert (outcome.failure.error, server.asked) == ("partner_unavailable", [])


async def test_a_models_own_404_is_its_last_word(tmp_path: Path) -> None:
    """Not a job that was forgotten: that is submitted, and paid, again."""
    async with connected("fal", tmp_path) as (connection, server):
        server.result = lambda sent: Answer(404, {"detail": "no such voice"})
        outcome = await ended(errand_of(connection))
        assert outcome.failure is not None
        assert (outcome.failure.kind, outcome.failure.message) == ("model", "partner fal: no such voice")


async def test_seconds_that_cannot_have_passed_are_not_believed(tmp_path: Path) -> None:
    """They would be billed."""
    async with connected("fal", tmp_path) as (connection, _):
        run = errand_of(connection)
        assert run._timings(1e300).run < 2.0
        assert run._timings(-5.0) == Timings(wait=pytest.approx(0.0, abs=1.0), run=0.0)


async def test_a_retry_after_that_is_no_date_fails_nothing(tmp_path: Path) -> None:
    async with connected("fal", tmp_path) as (connection, server):
        ticket: Any = await connection.api.submit(CALL)
        server.trouble = [Answer(429, {}, {"retry-after": f"Mon, 01 Jan 2024 00:00:00 +{'9' * 20}"})]
        with pytest.raises(errand.BusyError):
            await connection.api.look("owner/name", ticket.id)
