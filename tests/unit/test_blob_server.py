"""What a host gives to others, when its port is open to more than them: strangers get little and not for long."""

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loaders import peers
from loaders.fetch import peer_token
from loaders.peers import BlobServer

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
HEADERS = {"Authorization": f"Bearer {peer_token('mq_key')}"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServer]:
    monkeypatch.setattr(peers, "MOST_STRANGERS", 2)
    monkeypatch.setattr(peers, "STRANGER_SECONDS", 0.3)
    (tmp_path / SHA256).write_bytes(DATA)
    made = BlobServer(lambda sha256: tmp_path / sha256, "mq_key")
    yield made
    made.close()


def stranger(server: BlobServer) -> socket.socket:
    """Begins a request and never ends it."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    made.sendall(b"GET /blobs/")
    return made


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def get(server: BlobServer, client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    return client.get(f"http://127.0.0.1:{server.port}/blobs/{SHA256}", headers=headers)


def test_strangers_get_few_connections_and_who_drips_is_cut_off(server: BlobServer) -> None:
    first, second, third = (stranger(server) for _ in range(3))
    assert is_cut(third)
    assert is_cut(first)
    assert is_cut(second)
    with httpx.Client() as client:
        assert get(server, client, HEADERS).content == DATA
    for one in (first, second, third):
        one.close()


def test_who_has_shown_the_token_may_stay(server: BlobServer) -> None:
    with httpx.Client() as client:
        response = get(server, client, HEADERS)
        stream = response.extensions["network_stream"]
        time.sleep(0.6)
        again = get(server, client, HEADERS)
        assert (again.content, again.extensions["network_stream"]) == (DATA, stream)


def test_a_wrong_token_ends_the_connection(server: BlobServer) -> None:
    with httpx.Client() as client:
        refused = get(server, client, {"Authorization": "Bearer mq_key"})
        assert (refused.status_code, refused.content, refused.headers["connection"]) == (401, b"", "close")


def test_beyond_all_connections_even_hosts_are_hung_up(
    server: BlobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with httpx.Client() as one, httpx.Client() as other:
        assert get(server, one, HEADERS).content == DATA
        monkeypatch.setattr(peers, "MOST_CONNECTIONS", 1)
        with pytest.raises(httpx.TransportError):
            get(server, other, HEADERS)
        assert get(server, one, HEADERS).content == DATA
