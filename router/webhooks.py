"""Webhooks: owed in the outcome's transaction, delivered until the receiver says 2xx or two hours are over. IO.

A delivery may come twice, never not at all while the receiver answers in time. It follows no redirects and, unless
the settings allow it, calls no address inside a private network: a caller must not make us knock on our own doors.
Receivers are strangers: one that hangs, answers without an end or has an impossible name costs its own deliveries
and nobody else's.
"""

import asyncio
import contextlib
import ipaddress
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import structlog

from registry import outside
from registry.database import Connection, Database, load_queries
from router.errors import InvalidInputError, Issue
from router.requests import Request, RequestId, Status
from router.signatures import Signer

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
PAUSES_SECONDS = (5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 2400.0)  # then it is given up
TIMEOUT_SECONDS = 15.0  # for a whole delivery
ANSWER_BYTES = 64 << 10  # of a receiver's answer that are read, so that its connection can be used again
LEASE_SECONDS = 60.0
AT_ONCE = 50
AT_ONE_RECEIVER = 10  # about; claims are of so many
POLL_SECONDS = 1.0

Look = Callable[[RequestId], Awaitable[Status | None]]
Payload = Callable[[Status], Mapping[str, Any]]

log = structlog.get_logger("marquee.webhooks")


class PrivateAddressError(Exception):
    """The webhook's host is, or resolves to, an address that is not public."""


async def owe(connection: Connection, requests: Sequence[Request]) -> None:
    """Within the caller's transaction: whoever asked for a webhook is owed one."""
    rows = [{"request_id": r.id, "url": r.webhook_url} for r in requests if r.webhook_url is not None]
    if rows:
        await connection.execute(QUERIES["owe"], {"rows": msgspec.json.encode(rows).decode()})


class Deliverer:
    """Every gateway may run one; a delivery is in one's hands at a time."""

    def __init__(
        self, *, db: Database, look: Look, signer: Signer, payload: Payload, allow_private: bool
    ) -> None:
        self._db = db
        self._look = look
        self._signer = signer
        self._payload = payload
        self._allow_private = allow_private
        self._receivers: dict[asyncio.Task[None], str] = {}  # of deliveries under way

    async def run(self) -> None:
        """Until cancelled. Slots are filled as they become free, so that nobody waits for a slow receiver's."""
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # receivers share nothing
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False, cookies=cookies) as client:
            try:
                while True:
                    await self._begin(client)
            finally:
                for task in self._receivers:
                    task.cancel()
                await asyncio.gather(*self._receivers, return_exceptions=True)

    async def _begin(self, client: httpx.AsyncClient) -> None:
        """What is due and has a slot; returns when it is worth looking again."""
        due: Sequence[Mapping[str, Any]] = ()
        if room := min(AT_ONE_RECEIVER, AT_ONCE - len(self._receivers)):
            try:
                due = await self._claim(room)
            except psycopg.Error as error:
                log.warning("webhooks wait for the database", error=str(error).strip())
        for row in due:
            task = asyncio.create_task(self._deliver(client, row))
            self._receivers[task] = row["receiver"]
            task.add_done_callback(self._receivers.pop)
        if self._receivers and not (due and len(self._receivers) < AT_ONCE):
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait(self._receivers, timeout=POLL_SECONDS, return_when=first)
        elif not due:
            await asyncio.sleep(POLL_SECONDS)

    async def _claim(self, limit: int) -> Sequence[Mapping[str, Any]]:
        counts = Counter(self._receivers.values())
        busy = [receiver for receiver, count in counts.items() if count >= AT_ONE_RECEIVER]
        async with self._db.pool.connection() as connection:
            parameters = {"limit": limit, "lease_seconds": LEASE_SECONDS, "busy": busy}
            return await (await connection.execute(QUERIES["claim"], parameters)).fetchall()

    async def _deliver(self, client: httpx.AsyncClient, row: Mapping[str, Any]) -> None:
        trouble = await self._trouble(client, row["url"], RequestId(row["request_id"]))
        tries = int(row["tries"])
        pause = PAUSES_SECONDS[tries - 1] if tries <= len(PAUSES_SECONDS) else None
        if trouble is not None:
            log.info("webhook failed", request=row["request_id"], tries=tries, error=trouble)
        query = QUERIES["delivered" if trouble is None else "failed"]
        parameters = {"id": row["request_id"], "pause_seconds": pause, "error": trouble}
        try:
            async with self._db.pool.connection() as connection:
                await connection.execute(query, parameters)
        except psycopg.Error as error:  # it is due again when its lease is over
            log.warning("a webhook's end is not written down", error=str(error).strip())

    async def _trouble(self, client: httpx.AsyncClient, url: str, request_id: RequestId) -> str | None:
        """None when it was delivered. Never raises: libraries say what they like about a stranger's address."""
        try:
            status = await self._look(request_id)
            if status is None:
                return "the request is gone"
            body = msgspec.json.encode(self._payload(status))
            request = status.request
            sign = self._signer.shared_headers if request.door == "replicate" else self._signer.headers
            headers = sign(request_id, request.organization, body, int(time.time()))
            headers["content-type"] = "application/json"
            async with asyncio.timeout(TIMEOUT_SECONDS):
                code = await _answer(client, await self._request(client, url, headers, body))
        except Exception as error:  # noqa: BLE001  a failure of this one webhook, whatever it is
            return f"{type(error).__name__}: {error}".replace("\0", "")[:500]
        return None if 200 <= code < 300 else f"the receiver answered {code}"

    async def _request(
        self, client: httpx.AsyncClient, url: str, headers: dict[str, str], body: bytes
    ) -> httpx.Request:
        target = httpx.URL(url)
        if target.scheme not in {"http", "https"} or not target.host:
            raise PrivateAddressError("only http and https addresses are called")
        if self._allow_private:
            return client.build_request("POST", target, headers=headers, content=body)
        # The checked address itself is called, so that a second answer of the name server changes nothing.
        address = await public_address(target.host, target.port or (443 if target.scheme == "https" else 80))
        return client.build_request(
            "POST",
            target.copy_with(host=address),
            headers=headers | {"host": target.netloc.decode()},
            content=body,
            extensions={"sni_hostname": target.host},
        )


async def _answer(client: httpx.AsyncClient, request: httpx.Request) -> int:
    """The receiver's status; what it says beside is of no interest."""
    async with contextlib.aclosing(await client.send(request, stream=True)) as answer:
        size = 0
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            if size > ANSWER_BYTES:
                break
        return answer.status_code


def check(
    url: str | None, *, allow_private: bool, location: tuple[str, ...] = ("query", "fal_webhook")
) -> None:
    """What an address shows by itself is said at the call; names are looked up at each delivery.

    Raises `InvalidInputError`.
    """
    if url is None or (trouble := _unfit(url, allow_private=allow_private)) is None:
        return
    issue = Issue(location=location, message=trouble, kind="value_error", input=url[:200])
    raise InvalidInputError([issue])


def _unfit(url: str, *, allow_private: bool) -> str | None:
    try:
        target = httpx.URL(url)
        if target.scheme not in {"http", "https"} or not target.host:
            return "a webhook is an http or https address"
        target.host.encode("idna")  # as it is before a name server hears of it
        if allow_private or outside.is_public(ipaddress.ip_address(target.host)):
            return None
    except (httpx.InvalidURL, UnicodeError) as error:
        return f"no address: {error}"
    except ValueError:  # a name
        return None
    return (
        f"{target.host} is not a public address; the operator may allow it (MARQUEE_ALLOW_PRIVATE_WEBHOOKS)"
    )


async def public_address(host: str, port: int) -> str:
    """Raises `PrivateAddressError` unless every address of the host is public, `OSError` when it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
    addresses = [str(item[4][0]) for item in found]
    if not outside.are_public(addresses):
        raise PrivateAddressError(f"{host} is not a public address")
    return addresses[0]
