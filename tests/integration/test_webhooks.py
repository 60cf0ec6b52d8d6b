"""A finished request's webhook arrives signed, is repeated until it is taken, and never knocks on private doors."""

import asyncio
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
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
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


async def test_failures_are_told_and_private_addresses_are_not_called(
    dsn: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with serving(dsn, tmp_path, await furnish(dsn)) as live, live.host().linked() as host:
        host.fail_with = {"kind": "model", "error": "weights_missing", "message": "no file"}
        await _submit(live, receiver.url.replace("127.0.0.1", "localhost"))
        async with asyncio.timeout(20), live.gateway.db.pool.connection() as connection:
            while True:
                rows = await connection.execute("SELECT tries, last_error FROM webhooks")
                row = await rows.fetchone()
                if row is not None and row["last_error"]:
                    break
                await asyncio.sleep(0.05)
    assert row["last_error"].startswith("PrivateAddressError")
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
