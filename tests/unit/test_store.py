"""The disk tier against a local Hub with faults, a disk without room, and files that change. Loopback only."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders import errors
from loaders.download import Terms
from loaders.fetch import Remote
from loaders.store import Store
from registry.catalog import FileRef, Source
from tests.hub import Fault, Hub, Repository

WEIGHTS = os.urandom(1 << 20)
OTHER = os.urandom(1 << 20)
NAME = "unet/model.safetensors"
TERMS = Terms(block_bytes=1 << 16, segment_bytes=1 << 18, connections=3, attempts=3, backoff_seconds=0.01)
OPEN = Source(kind="hub", location="lab/open")


def ref(data: bytes, path: str = NAME) -> FileRef:
    return FileRef(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {NAME: WEIGHTS, "other.safetensors": OTHER, "config.json": b"{}", "empty.txt": b""}
    server = Hub(
        {
            "lab/open": Repository(files),
            "lab/gated": Repository(files, gated=True, token="hf_in"),
            "lab/private": Repository(files, token="hf_in"),
        }
    ).start()
    yield server
    server.stop()


@pytest.fixture
def open_store(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Store]]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    made = []

    def make(home: str = "home", token: str | None = None, **options: Any) -> Store:
        remote = Remote(hub_endpoint=hub.endpoint, hub_token=token, allow_private=True)
        made.append(Store(tmp_path / home, remote=remote, **({"terms": TERMS} | options)))
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_a_blob_is_fetched_once_in_ranges(open_store: Callable[..., Store], hub: Hub, tmp_path: Path) -> None:
    store = open_store()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS
    asked = [range_ for method, path, range_ in hub.requests if method == "GET" and path.endswith(NAME)]
    assert sorted(asked, key=str) == sorted(
        [f"bytes={start}-{start + (1 << 18) - 1}" for start in range(0, 1 << 20, 1 << 18)]
    )
    store.ensure(ref(WEIGHTS), OPEN)
    assert hub.gets(NAME) == len(asked)
    assert list((tmp_path / "home/partial").iterdir()) == []


def test_small_and_empty_files_arrive_too(open_store: Callable[..., Store]) -> None:
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
        (Fault("status", status=503, on_head=True), "overloaded when asked where the file is"),
    ],
)
def test_a_fault_that_passes_costs_a_retry(
    open_store: Callable[..., Store], hub: Hub, fault: Fault, why: str
) -> None:
    hub.fail(NAME, fault)
    assert open_store().ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS, why


def test_a_server_without_ranges_is_read_in_one_stream(open_store: Callable[..., Store], hub: Hub) -> None:
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
    open_store: Callable[..., Store], source: Source, path: str, error: type[Exception], says: str
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
        (Fault("status", status=403, on_head=True, times=99), errors.WeightsGatedError),
        (Fault("status", status=401, on_head=True, times=99), errors.WeightsGatedError),
    ],
)
def test_a_fault_that_stays_is_named(
    open_store: Callable[..., Store], hub: Hub, fault: Fault, error: type[Exception]
) -> None:
    hub.fail(NAME, fault)
    store = open_store()
    with pytest.raises(error):
        store.ensure(ref(WEIGHTS), OPEN)
    assert store.locate(ref(WEIGHTS).sha256) is None
    hub.faults.clear()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_a_hub_that_is_down_is_named_and_what_came_is_kept(
    open_store: Callable[..., Store], hub: Hub
) -> None:
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


@pytest.mark.parametrize("repository", ["lab/gated", "lab/private"])
def test_a_token_opens_what_strangers_may_not_read(open_store: Callable[..., Store], repository: str) -> None:
    source = Source(kind="hub", location=repository)
    assert open_store(token="hf_in").ensure(ref(WEIGHTS), source).read_bytes() == WEIGHTS


def test_an_address_may_be_a_folder_or_the_file(open_store: Callable[..., Store], hub: Hub) -> None:
    folder = f"{hub.endpoint}/cdn/lab/open/resolve/main"
    for home, location in (("a", folder), ("b", f"{folder}/{NAME}?signed=yes")):
        source = Source(kind="url", location=location)
        assert open_store(home).ensure(ref(WEIGHTS), source).read_bytes() == WEIGHTS


def test_threads_that_want_one_blob_fetch_it_once(open_store: Callable[..., Store], hub: Hub) -> None:
    store = open_store()
    threads = [threading.Thread(target=store.ensure, args=(ref(WEIGHTS), OPEN)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.gets(NAME) == 4  # one per segment


def test_a_local_file_is_adopted_and_a_change_is_seen(
    open_store: Callable[..., Store], tmp_path: Path
) -> None:
    store, source = open_store(), Source(kind="path", location=str(tmp_path))
    path = tmp_path / NAME
    path.parent.mkdir()
    path.write_bytes(WEIGHTS)
    assert store.ensure(ref(WEIGHTS), source) == path
    assert store.used_bytes() == 0
    path.write_bytes(OTHER)
    assert store.locate(ref(WEIGHTS).sha256) is None
    with pytest.raises(errors.WeightsDamagedError):
        store.ensure(ref(WEIGHTS), source)
    path.write_bytes(WEIGHTS[:-1])
    with pytest.raises(errors.WeightsDamagedError, match="announced"):
        store.ensure(ref(WEIGHTS), source)


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(OTHER), lambda path: path.unlink()])
def test_a_blob_that_was_harmed_is_fetched_again(
    open_store: Callable[..., Store], harm: Callable[[Path], Any]
) -> None:
    store = open_store()
    harm(store.ensure(ref(WEIGHTS), OPEN))
    assert store.locate(ref(WEIGHTS).sha256) is None
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_a_blob_without_its_note_is_verified_and_kept(
    open_store: Callable[..., Store], hub: Hub, tmp_path: Path
) -> None:
    store = open_store()
    store.ensure(ref(WEIGHTS), OPEN)
    (tmp_path / "home/verified" / ref(WEIGHTS).sha256).unlink()
    gets = hub.gets(NAME)
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS
    assert hub.gets(NAME) == gets


def test_the_longest_unwanted_blob_makes_room_and_what_is_held_stays(
    open_store: Callable[..., Store], hub: Hub
) -> None:
    third = os.urandom(1 << 20)
    hub.repositories["lab/open"] = Repository({NAME: WEIGHTS, "other.safetensors": OTHER, "third": third})
    store = open_store(budget_bytes=2 << 20)
    first, second = ref(WEIGHTS), ref(OTHER, "other.safetensors")
    store.ensure(first, OPEN)
    store.ensure(second, OPEN)
    with pytest.raises(errors.DiskFullError, match="in use"):
        store.ensure(ref(third, "third"), OPEN)
    store.release(first.sha256)
    store.release(second.sha256)
    store.ensure(first, OPEN)  # wanted again: now `second` is the older one
    store.ensure(ref(third, "third"), OPEN)
    assert [store.locate(file.sha256) is not None for file in (first, second)] == [True, False]
    assert store.used_bytes() == 2 << 20


def test_another_process_keeps_what_it_holds(open_store: Callable[..., Store]) -> None:
    ours, theirs = open_store(), open_store()  # two stores of one home lock each other as processes do
    path = theirs.ensure(ref(WEIGHTS), OPEN)
    ours.ensure(ref(WEIGHTS), OPEN)
    ours.drop(ref(WEIGHTS).sha256)
    assert path.exists()
    theirs.drop(ref(WEIGHTS).sha256)
    assert not path.exists()


def test_a_full_disk_is_named_before_anything_is_asked_for(
    open_store: Callable[..., Store], hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(descriptor: int, start: int, size_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = open_store()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(errors.DiskFullError, match=NAME):
        store.ensure(ref(WEIGHTS), OPEN)
    assert hub.gets(NAME) == 0
    assert list((tmp_path / "home/partial").iterdir()) == []
    monkeypatch.undo()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_a_disk_that_fills_up_on_the_way_is_named_and_keeps_nothing(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write, written = os.pwrite, [0]

    def filling(descriptor: int, data: Any, position: int) -> int:
        written[0] += len(data)
        if written[0] > 300_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, position)

    store = open_store()
    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(errors.DiskFullError, match=NAME):
        store.ensure(ref(WEIGHTS), OPEN)
    assert list((tmp_path / "home/partial").iterdir()) == []
    monkeypatch.undo()
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_a_full_disk_makes_room_from_what_nobody_holds(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No budget is set: the disk itself is the limit, as when something else filled it."""
    store = open_store()
    first = ref(WEIGHTS)
    store.ensure(first, OPEN)
    store.release(first.sha256)

    def full_until_evicted(descriptor: int, start: int, size_bytes: int) -> None:
        if store.locate(first.sha256) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full_until_evicted)
    assert store.ensure(ref(OTHER, "other.safetensors"), OPEN).read_bytes() == OTHER
    assert store.locate(first.sha256) is None


def test_a_disk_that_fails_is_named(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = open_store()
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(errors.DiskFailedError, match="Input/output error"):
        store.ensure(ref(WEIGHTS), OPEN)
    assert store.locate(ref(WEIGHTS).sha256) is None
