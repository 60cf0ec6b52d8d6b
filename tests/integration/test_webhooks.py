"""A finished request's webhook arrives signed, is repeated until it is taken, and never knocks on private doors."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from router import webhooks
from router.errors import InvalidInputError
from tests.live import Live, furnish, serving

PROMPT = {"prompt": "a red circle on white", "seed": 7}


class Receiver:
    """A customer's server: answers what it is told to, keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.heard = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append((headers, body))
        status = self.answers.pop(0) if self.answers else 200
        head = f"HTTP/1.1 {status} x\r\nset-cookie: mine=1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        writer.close()
        if status == 200:
            self.heard.set()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    async with server:
        yield made


async def _submit(live: Live, url: str, **arguments: Any) -> dict[str, Any]:
    answer = await live.client.post(
        "/fal/queue/acme/toys", params={"fal_webhook": url}, json=PROMPT | arguments
    )
    return dict(answer.json())


def _verify(jwks: Any, headers: dict[str, str], body: bytes) -> None:
    import base64

    x = jwks["keys"][0]["x"]
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))
    parts = [headers[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
    signed = "\n".join([*parts, hashlib.sha256(body).hexdigest()]).encode()
    key.verify(bytes.fromhex(headers["x-fal-webhook-signature"]), signed)


async def test_webhook_arrives_signed_and_is_repeated_until_taken(
    dsn: str, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PAUSES_SECONDS", (0.1, 0.1))
    receiver.answers = [503]
    async with serving(dsn, tmp_path, await furnish(dsn), allow_private_webhooks=True) as live:
        async with live.host().linked():
            submitted = await _submit(live, receiver.url)
            await asyncio.wait_for(receiver.heard.wait(), 20)
        jwks = (await live.client.get("/fal/rest/.well-known/jwks.json")).json()
    assert len(receiver.got) == 2
    headers, body = receiver.got[1]
    _verify(jwks, headers, body)
    told = msgspec.json.decode(body)
    assert (told["request_id"], told["status"]) == (submitted["request_id"], "OK")
    picture = httpx.URL(told["payload"]["images"][0]["url"]).path
    assert picture.startswith("/files/")


class Drip:
    """A receiver that begins to answer and never ends."""

    def __init__(self) -> None:
        self.called = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.called += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.05)


async def test_a_strangers_odd_receiver_holds_up_nobody_elses(
    dsn: str, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 60.0)
    drip = Drip()
    server = await asyncio.start_server(drip.serve, "127.0.0.1", 0)
    hanging = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    tokens = await furnish(dsn)
    async with server, serving(dsn, tmp_path, tokens, allow_private_webhooks=True) as live:
        async with live.host().linked():
            for number in range(webhooks.AT_ONCE):
                await _submit(live, hanging, seed=number)
            async with asyncio.timeout(20):
                while drip.called < webhooks.AT_ONE_RECEIVER:
                    await asyncio.sleep(0.02)
            await _submit(live, receiver.url)
            await asyncio.wait_for(receiver.heard.wait(), 20)
            receiver.heard.clear()
            await _submit(live, receiver.url, seed=8)
            await asyncio.wait_for(receiver.heard.wait(), 20)
        server.close()
    assert drip.called < webhooks.AT_ONCE
    assert ["cookie" in headers for headers, _ in receiver.got] == [False, False]


async def test_a_receiver_that_never_ends_its_answer_is_given_up(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.5)
    server = await asyncio.start_server(Drip().serve, "127.0.0.1", 0)
    hanging = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    tokens = await furnish(dsn)
    gateway = serving(dsn, tmp_path, tokens, allow_private_webhooks=True)
    async with server, gateway as live, live.host().linked():
        await _submit(live, hanging)
        error = await _first_error(live)
    assert error == "TimeoutError: "


@pytest.mark.parametrize("host", [64 * "a" + ".com", "a..b", "xn--a"])
async def test_an_impossible_name_stops_no_other_webhook(
    host: str, dsn: str, tmp_path: Path, receiver: Receiver
) -> None:
    """One that was accepted before is only a failure of its own; now it is refused at the call."""
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens, allow_private_webhooks=True) as live, live.host().linked():
        job = await _submit(live, receiver.url)
        await asyncio.wait_for(receiver.heard.wait(), 20)
        receiver.heard.clear()
        await _owe_again(live, f"http://{host}/hook", job["request_id"])
        await _submit(live, receiver.url, seed=8)
        await asyncio.wait_for(receiver.heard.wait(), 20)
    with pytest.raises(InvalidInputError, match="no address"):
        webhooks.check(f"http://{host}/hook", allow_private=False)


async def _owe_again(live: Live, url: str, request_id: str) -> None:
    """A delivered webhook to another address."""
    async with asyncio.timeout(20), live.gateway.db.pool.connection() as connection:
        query = (
            "UPDATE webhooks SET url = %s, next_at = now() WHERE request_id = %s AND delivered_at IS NOT NULL"
        )
        while not (await connection.execute(query, [url, request_id])).rowcount:
            await asyncio.sleep(0.02)


async def _first_error(live: Live) -> str:
    async with asyncio.timeout(20), live.gateway.db.pool.connection() as connection:
        while True:
            rows = await connection.execute("SELECT last_error FROM webhooks WHERE last_error IS NOT NULL")
            if (row := await rows.fetchone()) is not None:
                return str(row["last_error"])
            await asyncio.sleep(0.05)


async def test_failures_are_told_and_private_addresses_are_not_called(
    dsn: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with serving(dsn, tmp_path, await furnish(dsn)) as live, live.host().linked() as host:
        host.fail_with = {"kind": "model", "error": "weights_missing", "message": "no file"}
        await _submit(live, receiver.url.replace("127.0.0.1", "localhost"))
        error = await _first_error(live)
    assert error.startswith("PrivateAddressError")
    assert receiver.got == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (None, None),
        ("https://example.com/heard", None),
        ("https://93.184.215.14/heard", None),
        ("ftp://example.com/heard", "query.fal_webhook: a webhook is an http or https address"),
        ("heard", "query.fal_webhook: a webhook is an http or https address"),
        (
            "http://10.1.2.3/heard",
            (
                "query.fal_webhook: 10.1.2.3 is not a public address;"
                " the operator may allow it (MARQUEE_ALLOW_PRIVATE_WEBHOOKS)"
            ),
        ),
    ],
    ids=["none", "name", "public", "scheme", "no address", "private"],
)
async def test_an_address_that_will_not_be_called_is_refused_at_the_call(
    url: str | None, said: str | None
) -> None:
    refused = None
    try:
        webhooks.check(url, allow_private=False)
    except InvalidInputError as error:
        refused = str(error)
    assert refused == said
    webhooks.check("http://10.1.2.3/heard", allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "::1", "0.0.0.0"])
async def test_private_addresses_are_refused(host: str) -> None:
    with pytest.raises((webhooks.PrivateAddressError, OSError)):
        await webhooks.public_address(host, 80)
