"""What an engine has to outlive: strangers' configs, kills between two steps, disks that are full or refuse."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loaders import assembly, decoding, descriptions, host, intake, items, protocol, reader
from loaders.descriptions import Descriptions
from loaders.device import Device
from loaders.engine import Engine
from loaders.errors import HostError, InputError
from loaders.interest import Interest
from loaders.pipelines import built
from loaders.retrieval import Retrieval
from loaders.store import Store
from registry import folders
from registry.catalog import Digest, FileRef, Manifest
from registry.settings import Settings
from tests import architectures
from tests.architectures.calls import picture_uri
from tests.bench import Bench, in_place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return folders.read_pipeline(architectures.write(tmp_path_factory.mktemp("tiny") / "model", "flux"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home", 1 << 30)
    yield made
    made.engine.close()
    made.engine.check_integrity()


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    """With another first component."""
    first, *rest = manifest.components
    return msgspec.structs.replace(manifest, components=(msgspec.structs.replace(first, **changes), *rest))


def test_a_prewarm_of_what_cannot_be_built_leaves_the_next_request_alone(
    bench: Bench, model: Manifest
) -> None:
    bad = Path(model.source.location) / "bad.json"
    bad.write_bytes(b"{")
    config = FileRef(path=bad.name, size_bytes=1, sha256=hashlib.sha256(b"{").hexdigest())
    broken = changed(model, config=config)
    bench.engine.describe(protocol.DescribeVersion(digest=broken.digest, manifest=broken))
    bench.engine.stage(protocol.Stage(version=broken.digest))
    bench.submit(model)
    assert isinstance(bench.events.get(timeout=60), protocol.Started)


def test_a_warm_up_that_fails_leaves_the_next_request_alone(
    bench: Bench, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError("no accelerate")

    monkeypatch.setattr(assembly, "warm_up", missing)
    bench.engine.warm_up()
    bench.submit(model)
    assert isinstance(bench.events.get(timeout=60), protocol.Started)


def test_a_library_that_would_end_the_process_fails_only_its_request(
    bench: Bench, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that ends leaves a host which accepts requests for ever and runs none."""

    def leave(*args: Any, **kwargs: Any) -> None:
        raise SystemExit(2)

    for owner, step in ((intake, "take_in"), (built, "run")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, leave)
            bench.submit(model)
            outcome = bench.outcome()
            assert isinstance(outcome, protocol.Failed)
            assert (outcome.kind, outcome.error) == ("model", "pipeline_failed")
    assert len(bench.run(model).outputs) == 1


def test_a_device_that_was_idle_for_long_has_not_stalled_when_a_run_begins(
    bench: Bench, model: Manifest
) -> None:
    engine = bench.engine
    engine._last_sign -= 10_000
    attempt = bench.submit(model)
    job = engine._jobs[attempt]
    job.started_at = job.submitted_at
    assert max(stall.seconds for stall in engine.stalled()) < 1000


def assembled(home: Path, store: Store, device: Device, manifest: Manifest) -> assembly.Assembly:
    made = assembly.Assembly(home, store, device)
    made.fetch(manifest, Interest())
    return made


def test_a_folder_of_assets_that_a_kill_left_half_done_is_made_anew(tmp_path: Path, model: Manifest) -> None:
    """In a container, the process that comes after it has its number too."""
    device, store = Device("cpu"), Store(tmp_path)
    first = assembled(tmp_path, store, device, model)._assets(model)
    content = (first / "model_index.json").read_bytes()
    half = first.with_name(f"{first.name}.{os.getpid()}")
    first.rename(half)
    again = assembly.Assembly(tmp_path, store, device)._assets(model)
    assert (again, (again / "model_index.json").read_bytes()) == (first, content)


def test_a_folder_of_assets_that_is_right_is_not_touched(tmp_path: Path, model: Manifest) -> None:
    """Another process of this home may be reading it."""
    device, store = Device("cpu"), Store(tmp_path)
    first = assembled(tmp_path, store, device, model)._assets(model)
    before = first.stat().st_ino
    assembly.Assembly(tmp_path, store, device)._assets(model)
    assert first.stat().st_ino == before
    (first / "model_index.json").unlink()
    again = assembly.Assembly(tmp_path, store, device)._assets(model)
    assert (again / "model_index.json").is_file()


# The disk tier


Uploaded = Callable[[Manifest], Manifest]


@pytest.fixture
def uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploaded:
    """The manifest as if its files had to be fetched, from a source that has what lies in its folder."""

    def downloaded(store: Store, file: FileRef, source: Any, interest: Interest) -> Path:
        origin = Path(source.location) / file.path
        if not origin.exists():
            raise HostError(f"no {file.path}")
        partial = store._reserved(file, Interest())
        partial.write(0, origin.read_bytes())
        blob = store._blob(file.sha256)
        partial.publish(blob)
        partial.close()
        store._verified(blob, file, interest)
        return blob

    monkeypatch.setattr(Store, "_downloaded", downloaded)
    return lambda manifest: msgspec.structs.replace(
        manifest, source=msgspec.structs.replace(manifest.source, kind="upload")
    )


def staged(one: Engine, version: Digest) -> None:
    """When it is over."""
    in_place(one._prewarmed(protocol.Stage(version=version), Interest()))


def engine(home: Path, store: Store, disk_bytes: int) -> Engine:
    return Engine(home, device=Device("cpu"), store=store, budgets={"device": 1 << 30, "disk": disk_bytes})


def test_a_component_that_never_came_whole_holds_no_room(
    tmp_path: Path, model: Manifest, uploaded: Uploaded
) -> None:
    (weights,) = model.components[0].weights
    missing = msgspec.structs.replace(weights, path="nowhere.safetensors", sha256="0" * 64)
    broken = uploaded(changed(model, weights=(weights, missing)))
    store = Store(tmp_path / "home", budget_bytes=1 << 30)
    one = engine(tmp_path / "home", store, 1 << 30)
    try:
        one.describe(protocol.DescribeVersion(digest=broken.digest, manifest=broken))
        staged(one, broken.digest)
        assert store.locate(weights.sha256) is not None
        assert store._evict(weights.sha256) == weights.size_bytes
    finally:
        one.close()


def test_a_component_of_another_dtype_leaves_the_disk_with_its_files(
    tmp_path: Path, model: Manifest, uploaded: Uploaded
) -> None:
    manifest = uploaded(model)
    store = Store(tmp_path / "home")
    one = engine(tmp_path / "home", store, 1 << 30)
    try:
        one.describe(
            protocol.DescribeVersion(
                digest=manifest.digest, manifest=manifest, defaults={"dtype": "bfloat16"}
            )
        )
        staged(one, manifest.digest)
        files = [file for component in manifest.components for file in component.weights]
        assert all(store.locate(file.sha256) for file in files)
        with one._shelf._changed:
            for digest in tuple(one._shelf.tiers["disk"]):
                one._shelf._leave(digest, "disk")
        assert [file.path for file in files if store.locate(file.sha256)] == []
    finally:
        one.close()


def test_weights_under_two_configs_leave_the_disk_with_the_second(
    tmp_path: Path, model: Manifest, uploaded: Uploaded
) -> None:
    other_config = model.components[1].config
    twin = uploaded(changed(model, config=other_config))
    store = Store(tmp_path / "home")
    one = engine(tmp_path / "home", store, 1 << 30)
    try:
        for manifest in (twin, uploaded(model)):
            one.describe(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
        staged(one, uploaded(model).digest)
        (weights,) = model.components[0].weights
        with one._shelf._changed:
            one._shelf._leave(model.components[0].digest, "disk")
        assert store.locate(weights.sha256) is None
    finally:
        one.close()


def test_a_file_that_cannot_be_deleted_leaves_the_accounts_right(
    tmp_path: Path, model: Manifest, uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(store: Store, sha256: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    manifest = uploaded(model)
    one = engine(tmp_path / "home", Store(tmp_path / "home"), manifest.size_bytes)
    try:
        one.describe(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
        staged(one, manifest.digest)
        first = manifest.components[0].digest
        monkeypatch.setattr(Store, "drop", refused)
        with one._shelf._changed, pytest.raises(OSError, match="Read-only"):
            one._shelf._leave(first, "disk")
        one.check_integrity()
        assert first not in {held.digest for held in one.held() if held.tier == "disk"}
    finally:
        one.close()


def test_a_restart_does_not_take_what_is_stored_for_a_full_disk(
    tmp_path: Path, model: Manifest, uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free now is beside what an earlier process left; the budget is of both."""
    manifest = uploaded(model)
    home = tmp_path / "home"
    one = engine(home, Store(home), 1 << 30)
    one.describe(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
    staged(one, manifest.digest)
    one.close()
    store = Store(home)
    free = type("Usage", (), {"free": store.used_bytes() // 4})
    monkeypatch.setattr(host.shutil, "disk_usage", lambda folder: free)
    budgets = host.budgets_for(Device("cpu"), home, Settings(home=home), stored_bytes=store.used_bytes())
    two = engine(home, store, budgets["disk"])
    two.close()
    held = {held.digest for held in two.held()}
    assert held == {component.digest for component in manifest.components}


def test_a_description_that_finds_no_room_on_disk_is_believed_all_the_same(
    bench: Bench, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link would be closed over it, again and again."""

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        bench.engine.describe(protocol.DescribeVersion(digest=model.digest, manifest=model))
    assert bench.engine.known() == (model.digest,)
    assert len(bench.run(model).outputs) == 1


def test_versions_and_their_tokenizers_are_kept_while_they_are_used(
    tmp_path: Path, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No budget counts them, and a host serves more variants than it has memory for tokenizers."""
    monkeypatch.setattr(built, "KEPT_PIPELINES", 1)
    monkeypatch.setattr(assembly, "KEPT_VERSIONS", 1)
    one = assembled(tmp_path, Store(tmp_path), Device("cpu"), model)
    (Path(model.source.location) / "scheduler/note.json").write_bytes(b"{}")
    note = FileRef(path="scheduler/note.json", size_bytes=2, sha256=hashlib.sha256(b"{}").hexdigest())
    other = msgspec.structs.replace(model, assets=(*model.assets, note))
    first = one.ready(model, {})
    assert one.ready(model, {}) is first
    pipeline = first.built.pipeline(first.assets)
    one.fetch(other, Interest())
    second = one.ready(other, {})
    assert (second.built is first.built, list(one._ready)) == (True, [(other.digest, items.Form())])
    assert first.built.pipeline(first.assets) is not pipeline


def test_many_pictures_of_one_request_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one = picture_uri()
    size = decoding.picture(Retrieval().get(one, "image_urls"), "image_urls").size
    monkeypatch.setattr(intake, "MAX_PIXELS", 3 * size[0] * size[1])
    assert len(intake.gather({"image_urls": [one] * 3}, Retrieval())["image"]) == 3
    with pytest.raises(InputError, match="together") as raised:
        intake.gather({"image_urls": [one] * 4}, Retrieval())
    assert raised.value.location == ("image_urls",)


NONSENSE = [
    pytest.param("sha256:../../../outside", id="a path"),
    pytest.param("", id="nothing"),
    pytest.param("sha256:" + "0" * 64, id="another's"),
]


@pytest.mark.parametrize("digest", NONSENSE)
def test_a_description_under_a_name_that_is_not_its_own_is_passed_over(
    tmp_path: Path, model: Manifest, digest: str
) -> None:
    home = tmp_path / "deep/in/home"
    described = Descriptions(home)
    described.add(protocol.DescribeVersion(digest=Digest(digest), manifest=model))
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.msgpack")]
    assert (described.known(), written) == ((), [])
    described.add(protocol.DescribeVersion(digest=model.digest, manifest=model))
    assert described.known() == (model.digest,)


def test_a_host_that_cannot_write_down_who_it_is_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    first = host._identity(tmp_path)
    assert host._identity(tmp_path) == first
    (tmp_path / "host.json").write_bytes(b"")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HostError, match="No space left"):
        host._identity(tmp_path)


def test_files_that_something_else_is_made_of_stay_when_one_leaves(tmp_path: Path, model: Manifest) -> None:
    """Looked up, not searched for: among 10,000 LoRAs each eviction cost 65 ms under the shelf's lock."""
    described = Descriptions(tmp_path)
    twin = changed(model, config=model.components[1].config)
    for manifest in (model, twin):
        described.add(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
    first, other = model.components[0], twin.components[0]
    assert list(described.files_of(first.digest, {other.digest})) == []
    assert list(described.files_of(first.digest, set())) == list(first.weights)
    assert list(described.files_of(Digest("unknown"), set())) == []
    assert dict(Descriptions(tmp_path).weight_files()) == dict(described.weight_files())


def test_a_restart_remembers_what_was_used_longest_ago_and_holds_it_all(
    tmp_path: Path, model: Manifest, uploaded: Uploaded
) -> None:
    manifest, home = uploaded(model), tmp_path / "home"
    one = engine(home, Store(home), 1 << 30)
    one.describe(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
    staged(one, manifest.digest)
    one.close()
    one._store.close()
    order = sorted(manifest.components, key=lambda component: component.digest[::-1])
    for age, component in enumerate(reversed(order)):
        for file in component.weights:
            os.utime(home / "verified" / file.sha256, (1e9 - age, 1e9 - age))
    two = engine(home, Store(home), 1 << 30)
    two.close()
    assert list(two._shelf.tiers["disk"]) == [component.digest for component in order]
    files = [file for component in order for file in component.weights]
    assert [Store(home)._evict(file.sha256) for file in files] == [0] * len(files)


def test_what_a_restart_has_no_room_for_stays_for_others_of_its_home(
    tmp_path: Path, model: Manifest, uploaded: Uploaded
) -> None:
    """Hosts of a machine that begins again were all told of the same files, and each has a part of the disk: each deleted
    all but its part.
    """
    manifest, home = uploaded(model), tmp_path / "home"
    one = engine(home, Store(home), 1 << 30)
    one.describe(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
    staged(one, manifest.digest)
    one.close()
    one._store.close()
    latest, *others = sorted(manifest.components, key=lambda component: -component.size_bytes)
    for age, component in enumerate((latest, *others)):
        for file in component.weights:
            os.utime(home / "verified" / file.sha256, (1e9 - age, 1e9 - age))
    two = engine(home, Store(home), sum(file.size_bytes for file in latest.weights))
    two.close()
    assert list(two._shelf.tiers["disk"]) == [latest.digest]
    files = [file for component in (latest, *others) for file in component.weights]
    left = [Store(home)._evict(file.sha256) for file in files]
    held = len(latest.weights)
    assert left == [0] * held + [file.size_bytes for file in files[held:]]


def test_a_disk_that_fails_under_the_reader_is_named(
    bench: Bench, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*call: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(reader, "_fill", broken)
        bench.submit(model)
        outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error) == ("host", "disk_failed")
    assert len(bench.run(model).outputs) == 1


def test_descriptions_that_were_not_used_for_longest_are_forgotten_at_a_start(
    tmp_path: Path, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Customers bring LoRAs for ever, and each host was told of all it ever ran."""
    monkeypatch.setattr(descriptions, "MOST_KEPT", 2)
    first = Descriptions(tmp_path)
    made = [changed(model, config=component.config) for component in model.components[1:4]]
    for age, manifest in enumerate(made):
        first.add(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
        os.utime(first._path(manifest.digest), (1e9 - age, 1e9 - age))
    first.version(made[2].digest)  # used just now
    again = Descriptions(tmp_path)
    assert set(again.known()) == {made[0].digest, made[2].digest}
    assert len(list(tmp_path.rglob("*.msgpack"))) == 2


def test_folders_that_a_kill_left_half_made_are_removed_at_a_start(tmp_path: Path, model: Manifest) -> None:
    device, store = Device("cpu"), Store(tmp_path)
    assembled(tmp_path, store, device, model)
    left, fresh = tmp_path / "assets/new-left", tmp_path / "assets/new-fresh"
    left.mkdir()
    fresh.mkdir()
    os.utime(left, (1e9, 1e9))
    assembly.Assembly(tmp_path, store, device)
    assert (left.exists(), fresh.exists()) == (False, True)  # another process may be at it


def test_libraries_that_do_not_load_are_the_hosts_fault(
    bench: Bench, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose installation is broken must not fail everybody's requests for good: it says so and gives up."""

    def broken() -> None:
        raise ModuleNotFoundError("No module named 'diffusers'")

    monkeypatch.setattr(assembly, "warm_up", broken)
    bench.engine.warm_up()
    bench.submit(model)
    outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error, bench.engine.is_broken) == ("host", "libraries_broken", True)
    assert outcome.message == "this host's libraries do not load: No module named 'diffusers'"
