"""Labs' addresses are asked from inside our network: none that is private, by whatever way it is named. Loopback only."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from loaders import errors, fetch
from loaders.download import Terms
from loaders.store import Store
from registry import outside
from registry.catalog import FileRef, Source

OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"  # for these tests the first counts as public
WEIGHTS = os.urandom(1 << 18)
FILE = FileRef(path="w.safetensors", size_bytes=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
TERMS = Terms(block_bytes=1 << 16, segment_bytes=1 << 16, connections=1, attempts=2, backoff_seconds=0.01)
Answers = dict[str, tuple[int, str]]  # path -> status and Location


class Site:
    """One server at both addresses; remembers at which it was asked for what."""

    def __init__(self, answers: Answers) -> None:
        self.asked: list[tuple[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.connection.getsockname()[0], self.path))
                status, location = answers.get(self.path, (206, ""))
                begin, end = self.headers["Range"].removeprefix("bytes=").split("-")
                body = WEIGHTS[int(begin) : int(end) + 1] if status == 206 else b""
                self.send_response(status)
                self.send_header("Content-Range", f"bytes {begin}-{end}/{len(WEIGHTS)}")
                self.send_header("Content-Length", str(len(body)))
                if location:
                    self.send_header("Location", location.replace("PORT", str(site.port)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(outside, "is_public", lambda address: str(address) == OUTSIDE)
    server = Site(
        {
            "/moved/w.safetensors": (302, "/other/w.safetensors"),
            "/inside/w.safetensors": (307, f"http://{INSIDE}:PORT/other/w.safetensors"),
            "/file/w.safetensors": (302, "file:///etc/passwd"),
            "/round/w.safetensors": (302, "/round/w.safetensors"),
        }
    )
    yield server
    server.stop()


@pytest.fixture
def bring(site: Site, tmp_path: Path) -> Callable[..., bytes]:
    def bring(location: str, **remote: Any) -> bytes:
        store = Store(tmp_path / "home", remote=fetch.Remote(**remote), terms=TERMS)
        source = Source(kind="url", location=location.replace("PORT", str(site.port)))
        try:
            return store.ensure(FILE, source).read_bytes()
        finally:
            store.close()

    return bring


@pytest.mark.parametrize("path", ["plain", "moved"])
def test_a_public_address_is_fetched_also_behind_a_redirect(bring: Callable[..., bytes], path: str) -> None:
    assert bring(f"http://{OUTSIDE}:PORT/{path}") == WEIGHTS


@pytest.mark.parametrize(
    ("location", "says"),
    [
        (f"http://{INSIDE}:PORT/plain", "private"),
        ("http://localhost:PORT/plain", "private"),
        ("http://2130706433:PORT/plain", "private"),  # 127.0.0.1 as one number
        ("http://[::ffff:127.0.0.1]:PORT/plain", "private"),
        (f"http://{OUTSIDE}:PORT/inside", "private"),  # by a redirect
        (f"http://{OUTSIDE}:PORT/file", "http://"),
        (f"http://{OUTSIDE}:PORT/round", "redirects"),
        (f"http://name:word@{OUTSIDE}:PORT/plain", "password"),
        ("ftp://example.com/plain", "http://"),
    ],
)
def test_a_private_address_is_refused_by_name_and_never_asked(
    bring: Callable[..., bytes], site: Site, location: str, says: str
) -> None:
    with pytest.raises(errors.WeightsMissingError, match=says):
        bring(location)
    assert [path for address, path in site.asked if address == INSIDE] == []


def test_a_name_that_turns_private_between_two_ranges_is_not_followed(
    bring: Callable[..., bytes], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the very address that was checked, so an answer cannot change in between."""
    real, told = socket.getaddrinfo, iter([OUTSIDE, OUTSIDE, INSIDE])
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *args, **kw: real(
            next(told) if host == "weights.example" else host, port, *args, **kw
        ),
    )
    with pytest.raises(errors.WeightsMissingError, match="private"):
        bring("http://weights.example:PORT/plain")
    assert site.asked == [(OUTSIDE, "/plain/w.safetensors")] * 2


def test_an_operator_may_allow_it(bring: Callable[..., bytes]) -> None:
    assert bring(f"http://{INSIDE}:PORT/plain", allow_private=True) == WEIGHTS


def test_a_site_that_does_not_answer_is_down(bring: Callable[..., bytes], site: Site) -> None:
    site.stop()
    with pytest.raises(errors.SourceDownError, match="does not deliver"):
        bring(f"http://{OUTSIDE}:PORT/plain")


def test_an_errors_text_holds_no_signature(bring: Callable[..., bytes], site: Site) -> None:
    """It travels to whoever called the model."""
    site.stop()
    with pytest.raises(errors.SourceDownError) as raised:
        bring(f"http://{OUTSIDE}:PORT/plain/w.safetensors?X-Signature=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("header", [f"bytes 0-1/{'9' * 5000}", f"bytes {'9' * 5000}-1/*", "bytes ٣-1/٣"])
def test_a_number_that_is_none_says_nothing(header: str) -> None:
    """Python refuses numbers of so many digits; a hostile server's answer must not look like a fault of ours."""
    headers = httpx.Headers([(b"content-range", header.encode())])
    assert (fetch._offset(206, headers), fetch._total_bytes(206, headers)) == (0, None)
