"""The disk tier and its disk: files adopted and harmed, room made and refused, disks full and broken. Loopback only."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders import digests, errors, host
from loaders import store as store_module
from loaders.interest import Interest
from registry.catalog import Source
from registry.settings import Settings
from tests.hub import Fault, Hub, Repository
from tests.stores import NAME, OPEN, OTHER, WEIGHTS, Stores, local_hub, ref


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


def test_a_local_file_is_adopted_and_a_change_is_seen(open_store: Stores, tmp_path: Path) -> None:
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


def test_what_is_read_where_it_lies_takes_no_room(open_store: Stores, tmp_path: Path) -> None:
    store, source, file = open_store(), Source(kind="path", location=str(tmp_path)), ref(WEIGHTS)
    absent = store.takes([file], source)
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(WEIGHTS)
    present = store.takes([file], source)
    store.ensure(file, source)
    assert (absent, present, store.kept_bytes([file])) == (len(WEIGHTS), 0, 0)
    store.drop(file.sha256)
    assert store.takes([file], OPEN) == len(WEIGHTS)
    (tmp_path / NAME).unlink()
    store.ensure(file, OPEN)
    assert store.kept_bytes([file]) == len(WEIGHTS)


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(OTHER), lambda path: path.unlink()])
def test_a_blob_that_was_harmed_is_fetched_again(open_store: Stores, harm: Callable[[Path], Any]) -> None:
    store = open_store()
    harm(store.ensure(ref(WEIGHTS), OPEN))
    assert store.locate(ref(WEIGHTS).sha256) is None
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_a_blob_without_its_note_is_verified_and_kept(open_store: Stores, hub: Hub, tmp_path: Path) -> None:
    store = open_store()
    store.ensure(ref(WEIGHTS), OPEN)
    (tmp_path / "home/verified" / ref(WEIGHTS).sha256).unlink()
    gets = hub.gets(NAME)
    assert store.ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS
    assert hub.gets(NAME) == gets


def test_the_longest_unwanted_blob_makes_room_and_what_is_held_stays(open_store: Stores, hub: Hub) -> None:
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


def test_another_process_keeps_what_it_holds(open_store: Stores) -> None:
    ours, theirs = open_store(), open_store()  # two stores of one home lock each other as processes do
    path = theirs.ensure(ref(WEIGHTS), OPEN)
    ours.ensure(ref(WEIGHTS), OPEN)
    ours.drop(ref(WEIGHTS).sha256)
    assert path.exists()
    theirs.drop(ref(WEIGHTS).sha256)
    assert not path.exists()


def test_a_full_disk_is_named_before_anything_is_asked_for(
    open_store: Stores, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    open_store: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
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


def test_a_disk_that_fails_is_named(open_store: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = open_store()
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(errors.DiskFailedError, match="Input/output error"):
        store.ensure(ref(WEIGHTS), OPEN)
    assert store.locate(ref(WEIGHTS).sha256) is None


def test_what_else_lies_among_the_blobs_is_left_alone(open_store: Stores, tmp_path: Path) -> None:
    """File systems of networks leave `.nfs…` there, people copies."""
    store = open_store(budget_bytes=1 << 20)
    stray = store.ensure(ref(WEIGHTS), OPEN).with_name(".nfs000001")
    stray.write_bytes(b"?")
    store.release(ref(WEIGHTS).sha256)
    assert store.ensure(ref(OTHER, "other.safetensors"), OPEN).read_bytes() == OTHER
    assert (stray.exists(), store.used_bytes()) == (True, 1 << 20)


def test_too_many_open_files_cost_no_blob(open_store: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(path: Path, interest: Interest) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    store = open_store()
    blob = store.ensure(ref(WEIGHTS), OPEN)
    os.utime(blob)  # so that it has to be verified again
    monkeypatch.setattr(digests, "digest_of_file", exhausted)
    with pytest.raises(errors.DiskFailedError, match="Too many open files"):
        store.ensure(ref(WEIGHTS), OPEN)
    assert blob.read_bytes() == WEIGHTS


def test_a_disk_that_only_reads_still_gives_what_it_has(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store = open_store()
    blob = store.ensure(ref(WEIGHTS), OPEN)
    monkeypatch.setattr(os, "utime", read_only)
    assert store.ensure(ref(WEIGHTS), OPEN) == blob


def test_a_store_with_room_is_not_looked_through_for_each_file(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version has dozens of small files, and a host thousands of LoRAs."""

    def looked(store: Any) -> Iterator[Any]:
        raise AssertionError("looked through")
        yield

    monkeypatch.setattr(store_module.Store, "_entries", looked)
    assert open_store().ensure(ref(WEIGHTS), OPEN).read_bytes() == WEIGHTS


def test_parts_that_nobody_wants_any_more_count_against_the_disks_share(
    open_store: Stores, hub: Hub, tmp_path: Path
) -> None:
    """Each cancelled download leaves its final size; a host that set no budget filled the disk with them."""
    store = open_store()
    hub.fail(NAME, Fault("status", status=503, times=99))
    with pytest.raises(errors.SourceDownError):
        store.ensure(ref(WEIGHTS), OPEN)
    assert store.used_bytes() == len(WEIGHTS)
    host.limit(store, Settings(home=tmp_path), {"disk": len(WEIGHTS)})
    assert store.ensure(ref(OTHER, "other.safetensors"), OPEN).read_bytes() == OTHER
    assert store.used_bytes() == len(OTHER)
    assert not (tmp_path / "home/partial" / ref(WEIGHTS).sha256).exists()


def test_a_limit_below_what_is_here_lets_go_of_what_nobody_holds(open_store: Stores, tmp_path: Path) -> None:
    """Longest unwanted first; what is held stays."""
    store = open_store()
    first, held, last = ref(WEIGHTS), ref(OTHER, "other.safetensors"), ref(b"{}", "config.json")
    for file in (first, held, last):
        store.ensure(file, OPEN)
    for age, file in enumerate((last, held, first)):
        os.utime(tmp_path / "home/verified" / file.sha256, (1e9 - age, 1e9 - age))
    store.release(first.sha256)
    store.release(last.sha256)
    store.limit(len(OTHER) + 2)
    assert [store.locate(file.sha256) is not None for file in (first, held, last)] == [False, True, True]
    store.limit(0)
    assert [store.locate(file.sha256) is not None for file in (first, held, last)] == [False, True, False]
