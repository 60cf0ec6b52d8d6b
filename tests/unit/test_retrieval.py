"""Files from addresses that callers choose: what is fetched, what is refused, and that nothing private is reached."""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loaders.errors import InputError
from loaders.retrieval import Retrieval
from registry import outside
from registry.outside import is_public

PICTURE = b"\x89PNG and the rest"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UPLOADED = f"20261126-{'0' * 32}.png"


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path in {"/files/picture", f"/files/{UPLOADED}"}:
            self._answer(200, PICTURE)
        elif self.path == "/files/large":
            self._answer(200, b"x" * 5000, declared=False)
        elif self.path == "/files/moved":
            self._answer(302, b"", location="/files/picture")
        elif self.path == "/files/inside":
            self._answer(302, b"", location="/metrics")
        elif self.path == "/files/round":
            self._answer(302, b"", location="/files/round")
        elif self.path == "/metrics":
            self._answer(200, b"secret")
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes, *, location: str = "", declared: bool = True) -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        if declared:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_routers_own_files_are_fetched_from_a_private_address(origin: str) -> None:
    retrieval = Retrieval(trusted=[f"{origin}/files/"])
    assert retrieval.get(f"{origin}/files/picture", "image_url") == PICTURE
    assert retrieval.get(f"{origin}/files/moved", "image_url") == PICTURE


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/metrics", "private address"),
        ("/files/inside", "private address"),  # by a redirect
        ("/files/../metrics", "private address"),
        ("/files/%2e%2E/metrics", "private address"),
        ("/files/none", "404"),
        ("/files/round", "redirects"),
        ("/files/large", "larger"),
    ],
)
def test_what_is_refused_names_its_field_and_reason(origin: str, path: str, says: str) -> None:
    retrieval = Retrieval(trusted=[f"{origin}/files/"], max_bytes=1000)
    with pytest.raises(InputError, match=says) as caught:
        retrieval.get(origin + path, "image_url")
    assert caught.value.location == ("image_url",)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://[::1]:1/",
        "http://2130706433:1/",  # 127.0.0.1 as one number
        "http://0:1/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://name:word@example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://x",
        "http://",
        "http://x:99999/",
        "picture.png",
        "",
    ],
)
def test_no_address_of_a_private_network_and_no_other_scheme(url: str) -> None:
    with pytest.raises(InputError):
        Retrieval().get(url, "image_url")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("192.168.1.1", False),
        ("100.64.0.1", False),  # carriers' own
        ("224.0.0.1", False),  # many at once
        ("::ffff:192.168.1.1", False),
        ("64:ff9b::a00:1", False),  # 10.0.0.1 behind a translator
        ("2002:a00:1::", False),  # 10.0.0.1 in a tunnel
        ("fe80::1", False),
        ("fd00::1", False),
    ],
)
def test_public_means_reachable_by_everybody(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("uri", "data"),
    [
        ("data:image/png;base64,iVBORw==", b"\x89PNG"),
        ("data:image/png;base64,iVBORw%3D%3D", b"\x89PNG"),
        ("data:text/plain,a%20b", b"a b"),
    ],
)
def test_data_uris_hold_their_bytes(uri: str, data: bytes) -> None:
    assert Retrieval().get(uri, "image_url") == data


@pytest.mark.parametrize("uri", ["data:image/png;base64,%%%", "data:image/png", "data:;base64," + "A" * 2000])
def test_damaged_and_large_data_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError):
        Retrieval(max_bytes=1000).get(uri, "image_url")


def test_a_file_of_the_router_is_found_by_whatever_name_the_caller_knew_it(origin: str) -> None:
    retrieval = Retrieval(trusted=[f"{origin}/files/"])
    assert retrieval.get(f"http://marquee.example/files/{UPLOADED}", "image_url") == PICTURE
    with pytest.raises(InputError, match="private"):  # no file of ours: asked there, where it may not be
        retrieval.get(f"http://127.0.0.2:9/files/{UPLOADED.replace('0' * 32, '1' * 32)}", "image_url")


@pytest.mark.parametrize(
    "sent", [b"HTTP/1.1 200 OK\r\n" + b"X-Header: 1\r\n" * 99, CHUNKED + b"5;" + b"0" * 999]
)
def test_who_answers_by_a_byte_now_and_then_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a header, or in the length of a chunk: nothing of the body ever comes, and each pause is a short one."""
    monkeypatch.setattr(outside, "SLACK_SECONDS", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection = listener.accept()[0]
        with contextlib.suppress(OSError), connection:
            for byte in sent:
                connection.sendall(bytes([byte]))
                time.sleep(0.01)

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(InputError, match=r"slowly|timed out"):
        Retrieval(allow_private=True).get(f"http://127.0.0.1:{listener.getsockname()[1]}/", "image_url")
    listener.close()
    thread.join()
