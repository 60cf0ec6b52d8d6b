"""A client of the admin API: signs requests, repeats them safely, turns refusals into one line. Process edge."""

import secrets
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import click
import httpx

CHUNK_BYTES = 16 << 20
TRIES = 5
VARIANTS = "/variants/"
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class Client:
    """`account` gives address and key; it is asked at the first call, so that `--help` needs no server."""

    def __init__(self, account: Callable[[], tuple[str, str]]) -> None:
        self._account = account

    @cached_property
    def _http(self) -> httpx.Client:
        url, key = self._account()
        headers = {"authorization": f"Key {key}"}
        return httpx.Client(base_url=f"{url.rstrip('/')}/v1/admin", headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_http" in vars(self):
            self._http.close()

    @staticmethod
    def address(slug: str) -> str:
        return slug.replace("/", "~")

    def place(self, goods: str, slug: str) -> str:
        """A variant's or an adapter's address."""
        return f"/{goods}/{self.address(slug)}"

    def get(self, path: str, **query: str) -> Any:
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> Any:
        return self._ask("POST", path, json=body if body is not None else {})

    def patch(self, path: str, body: Any) -> Any:
        """As of what is there now: an edit that somebody makes meanwhile is not overwritten."""
        answer = self._send("GET", path, {})
        self._result(answer)
        tag = answer.headers["etag"]
        return self._result(self._send("PATCH", path, {"if-match": tag}, json=body))

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def send(self, upload_id: str, file: dict[str, Any], source: Path) -> Iterator[int]:
        """Sends what is missing of a file, chunk by chunk; yields how many bytes each had. Resumes by itself."""
        if source.stat().st_size != file["size_bytes"]:
            raise click.ClickException(f"{source} changed since it was announced")
        offset = 0 if file["verified"] else file["received_bytes"]
        with source.open("rb") as stream:
            while not file["verified"]:
                stream.seek(offset)
                try:
                    file = self._put(upload_id, file["path"], offset, stream.read(CHUNK_BYTES))
                except click.ClickException as refusal:
                    raise click.ClickException(f"{source}: {refusal.message}") from refusal
                yield file["received_bytes"] - offset
                offset = file["received_bytes"]

    def _put(self, upload_id: str, path: str, offset: int, chunk: bytes) -> dict[str, Any]:
        """The file's progress. A lost connection may have left a part of the chunk there, or still be at it."""
        query = {"path": path, "offset": str(offset)}
        for attempt in range(TRIES):
            answer = self._send("PUT", f"/uploads/{upload_id}/files", {}, params=query, content=chunk)
            if answer.status_code != httpx.codes.CONFLICT:
                break
            files: list[dict[str, Any]] = self.get(f"/uploads/{upload_id}")["files"]
            known = next(file for file in files if file["path"] == path)
            if known["received_bytes"] != offset:
                return known
            time.sleep(0.2 * 2**attempt)
        found: dict[str, Any] = self._result(answer)
        return found

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        answer = self._send(method, path, {}, **request)
        if answer.status_code == 404 and path.startswith(VARIANTS):
            name, _, _ = path.removeprefix(VARIANTS).partition("/")
            if self._send("GET", f"/adapters/{name}", {}).is_success:
                raise click.ClickException(f"{name.replace('~', '/')} is an adapter: say --adapter")
        return self._result(answer)

    def _send(self, method: str, path: str, headers: dict[str, str], **request: Any) -> httpx.Response:
        """The key makes a repeated write one write, so a lost connection is simply tried again."""
        headers = {"idempotency-key": secrets.token_hex(16), **headers}
        for attempt in range(TRIES):
            try:
                return self._http.request(method, path, headers=headers, **request)
            except httpx.TransportError as error:
                if attempt == TRIES - 1:
                    raise click.ClickException(f"{self._http.base_url} does not answer: {error}") from error
                time.sleep(0.2 * 2**attempt)
        raise AssertionError

    def _result(self, answer: httpx.Response) -> Any:
        """What is no answer of the admin API comes from something else that listens at this address."""
        found = _json(answer)
        if answer.is_success and found is not None:
            return found
        match found:
            case {"title": str(title), "detail": str(detail)} if title != detail:
                raise click.ClickException(f"{title}: {detail}{_request_id(answer)}")
            case _:
                raise click.ClickException(f"{self._http.base_url} answered {_strangely(answer)}")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _request_id(answer: httpx.Response) -> str:
    """Where the server's log says more than the answer does."""
    return f" ({answer.headers.get('x-request-id')})" if answer.is_server_error else ""


def _strangely(answer: httpx.Response) -> str:
    if answer.is_server_error:
        return str(answer.status_code)
    to = f" and points to {answer.headers['location']}" if answer.has_redirect_location else ""
    return f"{answer.status_code}{to}: is it a gateway's address (MARQUEE_URL or --url)?"
