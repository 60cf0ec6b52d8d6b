"""Every provider's API, spoken to a local server that speaks it: what is taken, asked for, made, refused, cancelled."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from registry.settings import PartnerAccount
from router.errors import Issue
from router.files import FileStore
from router.partners import connections
from router.partners.connections import Connection
from router.partners.errors import BusyError, ForgottenError, RefusedError, UnreachableError
from router.partners.records import Call, Made, Pending, Ticket
from router.requests import LogLine
from tests.fake_partner import CUT, Answer, FakeFal, FakeOpenAI, FakeReplicate, Server

SERVERS: dict[str, type[Server]] = {"fal": FakeFal, "replicate": FakeReplicate, "openai": FakeOpenAI}
CALL = Call(endpoint="owner/name/sub", input={"prompt": "a"})
EVERY = pytest.mark.parametrize("provider", ["fal", "replicate", "openai"])
QUEUES = pytest.mark.parametrize("provider", ["fal", "replicate"])


def account(provider: str, url: str, key: str = "partner-key") -> PartnerAccount:
    return PartnerAccount(
        provider=provider, key=key, url=url, at_once=2, longest_seconds=60.0, allow_private=False
    )


@contextlib.asynccontextmanager
async def connected(
    provider: str, home: Path, key: str = "partner-key"
) -> AsyncIterator[tuple[Connection, Any]]:
    async with SERVERS[provider]().running() as server:
        accounts = {provider: account(provider, server.url, key)}
        async with connections.opened(accounts, FileStore(home)) as opened:
            yield opened[provider], server


@EVERY
async def test_a_picture_from_call_to_file(provider: str, tmp_path: Path) -> None:
    async with connected(provider, tmp_path) as (connection, _):
        answer: Ticket | Made | Pending = await connection.api.submit(CALL)
        ticket = answer.id if isinstance(answer, Ticket) else ""
        while not isinstance(answer, Made):
            answer = await connection.api.look(CALL.endpoint, ticket)
        brought = await connection.media.bring(answer.result, 1e9)
        (file,) = brought.files
        assert (file.content_type, file.width) == (
            "image/png",
            {"fal": 48, "replicate": 40, "openai": 24}[provider],
        )
        assert len(brought.places) == 1
        assert connection.breaker.is_on_probation is False


@EVERY
async def test_a_wrong_key_is_the_operators_business_and_never_repeated(
    provider: str, tmp_path: Path
) -> None:
    async with connected(provider, tmp_path, key="secret-word") as (connection, _):
        with pytest.raises(RefusedError) as caught:
            await connection.api.submit(CALL)
        failure = caught.value.failure
        assert (failure.kind, failure.error) == ("host", "partner_account_refused")
        assert f"MARQUEE_PARTNER_{provider.upper()}_KEY" in failure.message
        assert "secret-word" not in str(caught.value)


@EVERY
@pytest.mark.parametrize(
    ("trouble", "error", "after"),
    [
        (Answer(429, {}, {"retry-after": "7"}), BusyError, 7.0),
        (Answer(503, b"nginx", {"retry-after": "3"}), UnreachableError, 3.0),
        (CUT, UnreachableError, None),
    ],
    ids=["429", "503", "cut"],
)
async def test_what_may_pass_has_its_name(
    provider: str,
    trouble: Any,
    error: type[BusyError | UnreachableError],
    after: float | None,
    tmp_path: Path,
) -> None:
    async with connected(provider, tmp_path) as (connection, server):
        server.trouble = [trouble]
        with pytest.raises(error) as caught:
            await connection.api.submit(CALL)
        assert caught.value.retry_after_seconds == after


@EVERY
async def test_a_partner_that_is_not_there_surely_took_nothing(provider: str, tmp_path: Path) -> None:
    async with SERVERS[provider]().running() as server:
        url = server.url
    accounts = {provider: account(provider, url)}
    async with connections.opened(accounts, FileStore(tmp_path)) as opened:
        with pytest.raises(UnreachableError) as caught:
            await opened[provider].api.submit(CALL)
        assert caught.value.sent is False


@pytest.mark.parametrize(
    ("provider", "refusal", "issue"),
    [
        (
            "fal",
            Answer(422, {"detail": [{"loc": ["body", "a", 0], "msg": "no", "type": "t", "input": 3}]}),
            Issue(location=("body", "a", 0), message="no", kind="t", input=3),
        ),
        (
            "fal",
            Answer(422, {"detail": "plainly no"}),
            Issue(location=("body",), message="plainly no", kind="value_error"),
        ),
        (
            "replicate",
            Answer(
                422,
                {
                    "title": "Input validation failed",
                    "detail": "- input.prompt: too long\n",
                    "invalid_fields": [{"type": "max", "field": "input.prompt", "description": "too long"}],
                },
            ),
            Issue(location=("body", "prompt"), message="too long", kind="max"),
        ),
        (
            "openai",
            Answer(400, {"error": {"message": "bad size", "param": "size", "code": "invalid_value"}}),
            Issue(location=("body", "size"), message="bad size", kind="invalid_value"),
        ),
    ],
)
async def test_a_refused_input_says_where(
    provider: str, refusal: Answer, issue: Issue, tmp_path: Path
) -> None:
    async with connected(provider, tmp_path) as (connection, server):
        server.trouble = [refusal]
        with pytest.raises(RefusedError) as caught:
            await connection.api.submit(CALL)
        failure = caught.value.failure
        assert (failure.kind, failure.issues) == ("input", (issue,))


@QUEUES
async def test_a_request_that_is_not_known_there(provider: str, tmp_path: Path) -> None:
    async with connected(provider, tmp_path) as (connection, server):
        server.trouble = [Answer(404, {"detail": "who?"})]
        with pytest.raises(ForgottenError):
            await connection.api.look(CALL.endpoint, "job-9")


@QUEUES
async def test_cancelling_names_the_job_and_only_the_job(provider: str, tmp_path: Path) -> None:
    async with connected(provider, tmp_path) as (connection, server):
        ticket = await connection.api.submit(CALL)
        assert isinstance(ticket, Ticket)
        await connection.api.cancel(CALL.endpoint, ticket.id)
        assert server.cancelled == [ticket.id]


async def test_fal_tells_position_and_logs_and_gets_the_deadline(tmp_path: Path) -> None:
    async with connected("fal", tmp_path) as (connection, server):
        server.position, server.released = 3, False
        call = Call(
            endpoint="o/a/sub/path", input={}, priority="low", start_within_seconds=9.0, traceparent="00-1"
        )
        ticket = await connection.api.submit(call)
        assert isinstance(ticket, Ticket)
        sent = server.asked[0].headers
        assert (sent["x-fal-queue-priority"], sent["x-fal-request-start-timeout"], sent["traceparent"]) == (
            "low",
            "9.0",
            "00-1",
        )
        assert await connection.api.look(call.endpoint, ticket.id) == Pending(position=3)
        server.position, server.logs = None, [{"message": "hi", "level": "WARN", "timestamp": "t"}]
        logs = (LogLine(message="hi", level="WARN", timestamp="t"),)
        assert await connection.api.look(call.endpoint, ticket.id) == Pending(logs=logs)
        assert server.asked[-1].path == f"/o/a/requests/{ticket.id}/status?logs=1"


async def test_fal_never_goes_where_an_answer_points(tmp_path: Path) -> None:
    """The key would go there too."""
    async with connected("fal", tmp_path) as (connection, server):
        server.trouble = [Answer(307, {}, {"location": "http://127.0.0.1:9/"})]
        with pytest.raises(RefusedError) as caught:
            await connection.api.submit(CALL)
        assert caught.value.failure.error == "partner_refused"
        server.trouble = [Answer(200, {"request_id": "../../other"})]
        with pytest.raises(RefusedError):
            await connection.api.submit(CALL)


@pytest.mark.parametrize(
    ("endpoint", "path", "body"),
    [
        ("owner/name", "/v1/models/owner/name/predictions", {"input": {"prompt": "a"}}),
        ("owner/name:abc", "/v1/predictions", {"input": {"prompt": "a"}, "version": "abc"}),
        ("abc", "/v1/predictions", {"input": {"prompt": "a"}, "version": "abc"}),
    ],
)
async def test_replicate_by_model_or_version(
    endpoint: str, path: str, body: dict[str, Any], tmp_path: Path
) -> None:
    async with connected("replicate", tmp_path) as (connection, server):
        await connection.api.submit(Call(endpoint=endpoint, input={"prompt": "a"}))
        assert (server.asked[0].path, server.asked[0].body) == (path, body)


@pytest.mark.parametrize(
    ("output", "result", "is_whole"),
    [
        ("https://h/x.mp4", ["https://h/x.mp4"], False),
        (["https://h/x.png"], ["https://h/x.png"], False),
        ("once upon a time", {"output": "once upon a time"}, True),
        ({"mask": "https://h/x.png", "n": 1}, {"output": {"mask": "https://h/x.png", "n": 1}}, True),
        (None, {"output": None}, True),
    ],
)
async def test_replicate_outputs_are_files_or_told_whole(
    output: Any,
    result: Any,
    is_whole: bool,  # noqa: FBT001  a case
    tmp_path: Path,
) -> None:
    async with connected("replicate", tmp_path) as (connection, server):
        server.outcome = {"output": output}
        ticket = await connection.api.submit(CALL)
        assert isinstance(ticket, Ticket)
        assert await connection.api.look(CALL.endpoint, ticket.id) == Pending(
            logs=(LogLine(message="one"), LogLine(message="two"))
        )
        made = await connection.api.look(CALL.endpoint, ticket.id)
        assert isinstance(made, Made)
        assert (made.result, made.is_whole, made.run_seconds) == (result, is_whole, 1.5)
        server.outcome = {"status": "failed", "error": "CUDA out of luck"}
        with pytest.raises(RefusedError) as caught:
            await connection.api.look(CALL.endpoint, ticket.id)
        assert caught.value.failure.message == "partner replicate: CUDA out of luck"


async def test_openai_hears_its_own_words(tmp_path: Path) -> None:
    async with connected("openai", tmp_path) as (connection, server):
        values = {"prompt": "a", "num_images": 2, "image_size": {"width": 10, "height": 20}, "quality": "low"}
        made = await connection.api.submit(Call(endpoint="gpt-image-9", input=values))
        assert server.asked[0].body == {
            "model": "gpt-image-9", "prompt": "a", "n": 2, "size": "10x20", "quality": "low",
        }  # fmt: skip
        assert isinstance(made, Made)
        assert len(made.result) == 2
        server.refusal = Answer(404, {"error": {"code": "model_not_found", "message": "?"}})
        with pytest.raises(RefusedError) as caught:
            await connection.api.submit(Call(endpoint="gpt-image-9", input=values))
        assert caught.value.failure.error == "partner_endpoint_unknown"
