"""The disk tier against a local Hub: each of its answers, as it passes or stays. Loopback only.

Another digest (ETag) or size, ranges and servers without them, redirects and where a token goes, 401, 403, 404, 416,
429, 503, a connection cut in the middle, no server at all: resumed, verified, or named.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from loaders import errors
from loaders.download import Terms
from registry.catalog import Source
from tests.hub import Fault, Hub
from tests.stores import NAME, OPEN, TERMS, WEIGHTS, Stores, local_hub, ref


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as server:
        yield server


@pytest.fixture
def open_store(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    stores = Stores(tmp_path, hub)
    yield stores
    stores.close()


def test_a_blob_is_fetched_once_in_ranges(open_store: Stores, hub: Hub, tmp_path: Path) -> None:
    store = open_store()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS
    asked = [range_ for method, path, range_ in hub.requests if method == "GET" and path.endswith(NAME)]
    assert sorted(asked, key=str) == sorted(
        [f"bytes={start}-{start + (1 << 18) - 1}" for start in range(0, 1 << 20, 1 << 18)]
    )
    store.ensure(ref(WEIGHTS), OPEN)
    assert hub.gets(NAME) == len(asked)
    assert list((tmp_path / "home/partial").iterdir()) == []


def test_small_and_empty_files_arrive_too(open_store: Stores) -> None:
    store = open_store()
    assert store.ensure(ref(b"{}", "config.json"), OPEN).read_bytes() == b"{}"
    assert store.ensure(ref(b"", "empty.txt"), OPEN).read_bytes() == b""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault("cut", after_bytes=5000), "a connection cut in the middle is continued"),
        (Fault("cut", after_bytes=100_000, times=6), "cut again and again, each time with progress"),
        (Fault("truncate", after_bytes=1000), "a short answer that looks whole is continued"),
        (Fault("corrupt"), "wrong bytes are fetched again"),
        (Fault("status", status=503), "overloaded: tried again"),
        (Fault("status", status=429), "too many requests: tried again when it says"),
        (Fault("status", status=403), "a signed address that expired is asked for again"),
        (Fault("status", status=404), "a redirect to where the file is not any more: asked for again"),
        (Fault("status", status=503, on_head=True), "overloaded when asked where the file is"),
        (Fault("status", status=429, on_head=True), "too many such questions"),
    ],
)
def test_a_fault_that_passes_costs_a_retry(open_store: Stores, hub: Hub, fault: Fault, why: str) -> None:
    hub.fail(NAME, fault)
    assert open_store().ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS, why


def test_a_server_without_ranges_is_read_in_one_stream(open_store: Stores, hub: Hub) -> None:
    hub.ranges = False
    hub.fail(NAME, Fault("cut", after_bytes=700_000))
    assert open_store().ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("source", "path", "error", "says"),
    [
        (Source(kind="hub", location="lab/nothing"), NAME, errors.WeightsMissingError, "lab/nothing"),
        (Source(kind="hub", location="lab/private"), NAME, errors.WeightsMissingError, "private"),
        (Source(kind="hub", location="no repo name!"), NAME, errors.WeightsMissingError, "no repo name!"),
        (
            Source(kind="hub", location="lab/gated"),
            NAME,
            errors.WeightsGatedError,
            "lab/gated is gated: accept its licence",
        ),
        (OPEN, "nothing.safetensors", errors.WeightsMissingError, "nothing.safetensors"),
        (
            Source(kind="hub", location="lab/open", revision="0" * 40),
            NAME,
            errors.WeightsMissingError,
            "revision",
        ),
        (Source(kind="hub", location="lab/open"), "other.safetensors", errors.WeightsDamagedError, "another"),
        (Source(kind="hub", location="lab/open"), "config.json", errors.WeightsDamagedError, "2 bytes"),
        (Source(kind="path", location="/nowhere"), NAME, errors.WeightsMissingError, "no router"),
        (Source(kind="path", location="/nowhere"), "../x", errors.WeightsMissingError, "leads out"),
        (Source(kind="url", location="not a url"), NAME, errors.WeightsMissingError, "not a url"),
        (Source(kind="url", location="http://127.0.0.1:9"), NAME, errors.SourceDownError, "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_had_is_named_and_leaves_nothing(
    open_store: Stores, source: Source, path: str, error: type[Exception], says: str
) -> None:
    store = open_store()
    file = ref(WEIGHTS, path)
    with pytest.raises(error, match=says):
        store.ensure(file, source)
    assert store.locate(file.sha256) is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("corrupt", times=99), errors.WeightsDamagedError),
        (Fault("status", status=500, times=99), errors.SourceDownError),
        (Fault("truncate", after_bytes=10, times=99), errors.SourceDownError),
        (Fault("cut", after_bytes=0, times=99), errors.SourceDownError),
        (Fault("status", status=416, times=99), errors.WeightsDamagedError),
        (Fault("status", status=429, times=99), errors.SourceDownError),
        (Fault("status", status=403, times=99), errors.SourceDownError),
        (Fault("status", status=404, times=99), errors.SourceDownError),
        (Fault("status", status=503, on_head=True, times=99), errors.SourceDownError),
        (Fault("status", status=404, on_head=True, times=99), errors.SourceDownError),
        (Fault("status", status=403, on_head=True, times=99), errors.WeightsGatedError),
        (Fault("status", status=401, on_head=True, times=99), errors.WeightsGatedError),
    ],
)
def test_a_fault_that_stays_is_named(
    open_store: Stores, hub: Hub, fault: Fault, error: type[Exception]
) -> None:
    hub.fail(NAME, fault)
    store = open_store()
    with pytest.raises(error):
        store.ensure(ref(WEIGHTS), OPEN)
    assert store.locate(ref(WEIGHTS).sha256) is None
    hub.faults.clear()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_a_hub_that_is_down_is_named_and_what_came_is_kept(open_store: Stores, hub: Hub) -> None:
    hub.fail(NAME, Fault("cut", after_bytes=200_000))
    hub.fail(NAME, Fault("status", status=503, times=99))
    store = open_store(terms=Terms(**(vars_of(TERMS) | {"connections": 1})))
    with pytest.raises(errors.SourceDownError):
        store.ensure(ref(WEIGHTS), OPEN)
    hub.faults.clear()
    hub.requests.clear()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS
    starts = [int(asked.split("=")[1].split("-")[0]) for _, _, asked in hub.requests if asked]
    assert min(starts) == 3 << 16  # the three blocks that had arrived are not asked for again


def vars_of(terms: Terms) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in terms.__struct_fields__}


def test_a_hub_that_is_not_there_is_named(open_store: Stores, hub: Hub) -> None:
    hub.stop()
    with pytest.raises(errors.SourceDownError, match="cannot be reached for lab/open"):
        open_store().ensure(ref(WEIGHTS), OPEN)


def test_a_token_does_not_follow_a_redirect_to_another_origin(open_store: Stores, hub: Hub) -> None:
    hub.cdn = hub.endpoint.replace("127.0.0.1", "localhost")
    gated = Source(kind="hub", location="lab/gated")
    assert open_store(token="hf_in").ensure(ref(WEIGHTS), gated).read_bytes() == WEIGHTS
    assert {(path.startswith("/cdn/"), sent) for path, sent in hub.tokens} == {(False, "Bearer hf_in")}


@pytest.mark.parametrize("repository", ["lab/gated", "lab/private"])
def test_a_token_opens_what_strangers_may_not_read(open_store: Stores, repository: str) -> None:
    source = Source(kind="hub", location=repository)
    assert open_store(token="hf_in").ensure(ref(WEIGHTS), source).read_bytes() == WEIGHTS


def test_an_address_may_be_a_folder_or_the_file(open_store: Stores, hub: Hub) -> None:
    folder = f"{hub.endpoint}/cdn/lab/open/resolve/main"
    for home, location in (("a", folder), ("b", f"{folder}/{NAME}?signed=yes")):
        source = Source(kind="url", location=location)
        assert open_store(home).ensure(ref(WEIGHTS), source).read_bytes() == WEIGHTS


def test_threads_that_want_one_blob_fetch_it_once(open_store: Stores, hub: Hub) -> None:
    store = open_store()
    threads = [threading.Thread(target=store.ensure, args=(ref(WEIGHTS), OPEN)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.gets(NAME) == 4  # one per segment


def test_a_hosts_log_says_what_it_fetches_and_what_it_could_not(
    open_store: Stores, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that fetched 24 GB for twenty minutes looked like one that did nothing."""
    monkeypatch.setattr("loaders.download.LOGGED_FROM_BYTES", 0)
    store = open_store()
    with capture_logs() as lines:
        hub.fail(NAME, Fault("status", status=503, times=99))
        with pytest.raises(errors.SourceDownError):
            store.ensure(ref(WEIGHTS), OPEN)
        hub.faults.clear()
        store.ensure(ref(WEIGHTS), OPEN)
    told = [(line["event"], line["file"], line["source"]) for line in lines]
    words = ("fetching", "not fetched", "fetching", "fetched")
    assert told == [(word, NAME, "lab/open on the Hub") for word in words]
