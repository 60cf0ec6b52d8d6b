"""Every origin of bytes keeps one contract: ranges, and the same names for the same troubles. Loopback only."""

import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from loaders import buckets as loaders_buckets
from loaders import errors, fetch
from loaders.download import Terms
from loaders.peers import BlobServer
from loaders.store import Store
from registry.catalog import FileRef, Source
from tests.bucket import Buckets
from tests.hub import Hub, Repository

WEIGHTS = os.urandom(1 << 20)
NAME = "unet/model.safetensors"
FILE = FileRef(path=NAME, size_bytes=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
MISSING = FileRef(path="nothing.safetensors", size_bytes=len(WEIGHTS), sha256="0" * 64)
GROWN = FileRef(path=NAME, size_bytes=len(WEIGHTS) + 1, sha256=FILE.sha256)
TERMS = Terms(block_bytes=1 << 16, segment_bytes=1 << 18, connections=3, attempts=3, backoff_seconds=0.01)
KINDS = ["hub", "url", "bucket", "router"]

Place = tuple[fetch.Remote, Source]


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub({"lab/open": Repository({NAME: WEIGHTS})}).start()
    yield server
    server.stop()


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    server = Buckets({f"weights/models/a/{NAME}": WEIGHTS}).start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[BlobServer]:
    """A host that has the blob."""
    (tmp_path / "folder/unet").mkdir(parents=True)
    (tmp_path / "folder" / NAME).write_bytes(WEIGHTS)
    store = Store(tmp_path / "peer")
    store.ensure(FILE, Source(kind="path", location=str(tmp_path / "folder")))
    server = BlobServer(store.locate, "mq_key")
    yield server
    server.close()
    store.close()


@pytest.fixture
def place(hub: Hub, buckets: Buckets, peer: BlobServer) -> Callable[[str], Place]:
    address = f"http://127.0.0.1:{peer.port}"
    token = fetch.peer_token(
        "mq_key"
    )  # the router's door takes the key itself; bytes and ranges are the same
    return {
        "hub": (fetch.Remote(hub_endpoint=hub.endpoint), Source(kind="hub", location="lab/open")),
        "url": (
            fetch.Remote(allow_private=True),
            Source(kind="url", location=f"{hub.endpoint}/cdn/lab/open/resolve/main"),
        ),
        "bucket": (fetch.Remote(), Source(kind="url", location="s3://weights/models/a")),
        "router": (
            fetch.Remote(router_url=address, host_key=token),
            Source(kind="upload", location="upload-1"),
        ),
    }.__getitem__


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "stop"), [(0, len(WEIGHTS)), (100, 70_000), (len(WEIGHTS) - 1, len(WEIGHTS))]
)
def test_a_range_is_given_exactly(place: Callable[[str], Place], kind: str, start: int, stop: int) -> None:
    remote, source = place(kind)
    with fetch.origins(remote, source, FILE) as (origin,), origin.open(start, stop) as opened:
        assert opened.offset == start
        assert b"".join(opened.chunks) == WEIGHTS[start:stop]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(place: Callable[[str], Place], kind: str) -> None:
    remote, source = place(kind)
    with (
        fetch.origins(remote, source, MISSING) as (origin,),
        pytest.raises(errors.WeightsMissingError),
        origin.open(0, 10),
    ):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_size_is_refused_before_it_is_read(
    place: Callable[[str], Place], kind: str
) -> None:
    remote, source = place(kind)
    with (
        fetch.origins(remote, source, GROWN) as (origin,),
        pytest.raises(errors.WeightsDamagedError, match="announced"),
        origin.open(0, 10),
    ):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_takes_it(place: Callable[[str], Place], kind: str, tmp_path: Path) -> None:
    remote, source = place(kind)
    store = Store(tmp_path / "home", remote=remote, terms=TERMS)
    assert store.ensure(FILE, source).read_bytes() == WEIGHTS
    store.close()


def test_a_bucket_that_refuses_or_is_busy_is_named(
    place: Callable[[str], Place], buckets: Buckets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote, source = place("bucket")
    store = Store(tmp_path / "home", remote=remote, terms=TERMS)
    buckets.failures = 99
    with pytest.raises(errors.SourceDownError):
        store.ensure(FILE, source)
    buckets.failures = 2
    assert store.ensure(FILE, source).read_bytes() == WEIGHTS
    store.drop(FILE.sha256)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKSTRANGER")
    with pytest.raises(errors.WeightsGatedError):
        store.ensure(FILE, source)
    store.close()


def test_a_peer_that_has_the_bytes_is_asked_first(
    place: Callable[[str], Place], peer: BlobServer, hub: Hub, tmp_path: Path
) -> None:
    _, source = place("hub")
    remote = fetch.Remote(hub_endpoint=hub.endpoint, host_key="mq_key")
    store = Store(tmp_path / "home", remote=remote, terms=TERMS)
    store.know_peers(["http://127.0.0.1:9", f"http://127.0.0.1:{peer.port}"])
    assert store.ensure(FILE, source).read_bytes() == WEIGHTS
    assert hub.requests == []
    store.close()


@pytest.mark.parametrize("key", ["mq_other", None])
def test_a_peer_gives_nothing_to_strangers_and_the_source_helps(
    place: Callable[[str], Place], peer: BlobServer, hub: Hub, tmp_path: Path, key: str | None
) -> None:
    _, source = place("hub")
    address = (f"http://127.0.0.1:{peer.port}",)
    remote = fetch.Remote(hub_endpoint=hub.endpoint, host_key=key, peers=address)
    store = Store(tmp_path / "home", remote=remote, terms=TERMS)
    assert store.ensure(FILE, source).read_bytes() == WEIGHTS
    assert hub.gets(NAME) > 0
    store.close()


def test_a_peer_that_is_gone_costs_one_try_and_no_pauses(
    place: Callable[[str], Place], tmp_path: Path
) -> None:
    """Eight of them, asked as stubbornly as a source is, cost minutes before the source was asked."""
    tries: list[int] = []

    class Gone(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tries.append(1)
            self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gone) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        remote, source = place("hub")
        remote = msgspec.structs.replace(remote, peers=(f"http://127.0.0.1:{server.server_address[1]}",))
        store = Store(tmp_path / "home", remote=remote, terms=TERMS)
        assert store.ensure(FILE, source).read_bytes() == WEIGHTS
        store.close()
        server.shutdown()
    assert 1 <= len(tries) <= TERMS.connections


def test_a_peer_with_wrong_bytes_is_not_believed(
    place: Callable[[str], Place], hub: Hub, tmp_path: Path
) -> None:
    _, source = place("hub")
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes(len(WEIGHTS)))
    liar = BlobServer(lambda _: wrong, "mq_key")
    remote = fetch.Remote(
        hub_endpoint=hub.endpoint, host_key="mq_key", peers=(f"http://127.0.0.1:{liar.port}",)
    )
    store = Store(tmp_path / "home", remote=remote, terms=TERMS)
    assert store.ensure(FILE, source).read_bytes() == WEIGHTS
    store.close()
    liar.close()


def test_a_blob_that_was_evicted_at_that_moment_is_not_there(tmp_path: Path) -> None:
    server = BlobServer(lambda _: tmp_path / "gone", "mq_key")
    token = fetch.peer_token("mq_key")  # asked as a router is, but with a peer's token
    remote = fetch.Remote(router_url=f"http://127.0.0.1:{server.port}", host_key=token)
    store = Store(tmp_path / "home", remote=remote, terms=TERMS)
    with pytest.raises(errors.WeightsMissingError):
        store.ensure(FILE, Source(kind="upload", location="1"))
    store.close()
    server.close()


def test_a_bucket_behind_a_slow_line_delivers_and_a_silent_one_is_named(
    buckets: Buckets, place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit was the whole request's: a cap or a slow line had each one cut, and five times later it was given up."""
    monkeypatch.setattr(loaders_buckets, "SILENT_SECONDS", 0.4)
    remote, source = place("bucket")
    buckets.drips, buckets.pause_seconds = 6, 0.1
    with fetch.origins(remote, source, FILE) as (origin,), origin.open(0, len(WEIGHTS)) as opened:
        assert b"".join(opened.chunks) == WEIGHTS
    buckets.drips, buckets.pause_seconds = 2, 1.0
    with (
        pytest.raises(errors.SourceDownError),
        fetch.origins(remote, source, FILE) as (origin,),
        origin.open(0, len(WEIGHTS)) as opened,
    ):
        b"".join(opened.chunks)
