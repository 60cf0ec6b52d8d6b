"""One provider's HTTP: a pooled client with the operator's key, bounded answers, and failures by their names. IO.

It tells the breaker what it sees. The key goes to the configured address only: redirects are not followed.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import httpx
import msgspec
import structlog

from registry.settings import PartnerAccount
from router.partners import patience, refusals
from router.partners.breaker import Breaker
from router.partners.errors import BusyError, RefusedError, UnreachableError

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0  # of silence
WHOLE_SECONDS = 60.0  # beyond that, until an answer is whole: a byte now and then would hold us for ever
ANSWER_BYTES = 64 << 20  # pictures may come inside it
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)

log = structlog.get_logger("marquee.partners")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes

    @property
    def json(self) -> Any:
        """None where it is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None

    @property
    def object(self) -> Mapping[str, Any]:
        """Empty where it is none."""
        shape = self.json
        return shape if isinstance(shape, Mapping) else {}


class Wire:
    """Made once per provider and process; `close` at the end."""

    def __init__(self, account: PartnerAccount, scheme: str, breaker: Breaker) -> None:
        self._account = account
        self.breaker = breaker
        self._client = httpx.AsyncClient(
            headers={"authorization": f"{scheme} {account.key}", "user-agent": "marquee"},
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(
                max_connections=2 * account.at_once + 8, max_keepalive_connections=account.at_once
            ),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> Answer:
        """Whatever it answers. Raises `UnreachableError`."""
        sent = dict(headers or {})
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            sent["content-type"] = "application/json"
        timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        try:
            async with (
                asyncio.timeout(read_seconds + WHOLE_SECONDS),
                self._client.stream(
                    method, self._account.url + path, content=content, headers=sent, timeout=timeout
                ) as response,
            ):
                return Answer(
                    status=response.status_code,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    body=await self._read(response),
                )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = str(error) or type(error).__name__
            raise self._unreachable(reason, sent=not isinstance(error, NEVER_SENT)) from error

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > ANSWER_BYTES:
                raise self._unreachable(f"its answer is larger than {ANSWER_BYTES >> 20} MiB", sent=True)
        return bytes(body)

    def _unreachable(self, reason: str, *, sent: bool, after: float | None = None) -> UnreachableError:
        said = self.scrubbed(reason)
        self.breaker.failed(said, monotonic())
        return UnreachableError(said, sent=sent, retry_after_seconds=after)

    def checked(self, answer: Answer) -> Answer:
        """Only what says something of the request itself. Raises `BusyError`, `UnreachableError`, `RefusedError`."""
        after = patience.retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
        if answer.status == 408 or answer.status >= 500:
            said = f"it answers {answer.status}"
            raise self._unreachable(said, sent=answer.status in {502, 504}, after=after)
        self.breaker.succeeded()
        if answer.status == 429:
            raise BusyError("it answers 429", after)
        if answer.status in refusals.ACCOUNT_CODES:
            text = self.scrubbed(answer.body[:500].decode(errors="replace"))
            log.error(
                "a partner refuses our key", partner=self._account.provider, status=answer.status, said=text
            )
            raise RefusedError(refusals.of_account(self._account.provider))
        return answer

    def scrubbed(self, text: str) -> str:
        """Without the key, should somebody quote it."""
        return text.replace(self._account.key, "…")
