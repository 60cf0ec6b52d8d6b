"""An engine whose sources are slow, silent or gone: others' requests go on, and nothing is fetched for nobody."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loaders import protocol, reader
from loaders.blocks import Block, Piece
from loaders.download import Terms
from loaders.fetch import Remote
from loaders.preparing import ASIDES
from loaders.protocol import AttemptKey
from loaders.running import Finished
from loaders.store import Store
from registry import folders
from registry.catalog import FileRef, Manifest, Source
from tests import architectures
from tests.architectures.calls import picture_uri
from tests.bench import Bench
from tests.hub import Fault, Hub, Repository

TERMS = Terms(block_bytes=1 << 16, segment_bytes=1 << 18, connections=2, attempts=2, backoff_seconds=0.01)
REPOSITORY = "lab/far"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    root = tmp_path_factory.mktemp("tiny")
    near, far = (architectures.write(root / name, "flux", seed=n) for n, name in enumerate(("near", "far")))
    return folders.read_pipeline(near), folders.read_pipeline(far)


@pytest.fixture
def near(models: tuple[Manifest, Manifest]) -> Manifest:
    return models[0]


@pytest.fixture
def far(models: tuple[Manifest, Manifest]) -> Manifest:
    """On the Hub."""
    return msgspec.structs.replace(models[1], source=Source(kind="hub", location=REPOSITORY))


@pytest.fixture
def hub(models: tuple[Manifest, Manifest]) -> Iterator[Hub]:
    folder = Path(models[1].source.location)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    server = Hub({REPOSITORY: Repository(files)}).start()
    yield server
    server.stop()


@pytest.fixture
def bench(tmp_path: Path, hub: Hub) -> Iterator[Bench]:
    home = tmp_path / "home"
    made = Bench(home, 1 << 30, store=Store(home, remote=Remote(hub_endpoint=hub.endpoint), terms=TERMS))
    yield made
    hub.hangs.set()
    made.engine.close()
    made.engine.check_integrity()


def weights(manifest: Manifest) -> FileRef:
    """The largest file, which comes in several ranges."""
    files = [file for component in manifest.components for file in component.weights]
    return max(files, key=lambda file: file.size_bytes)


def hang(hub: Hub, manifest: Manifest, times: int = 2) -> None:
    hub.fail(weights(manifest).path, Fault("hang", after_bytes=TERMS.block_bytes, times=times))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def arrived(bench: Bench, manifest: Manifest) -> int:
    """Blocks of its largest file."""
    try:
        return (bench.home / "partial" / f"{weights(manifest).sha256}.blocks").read_bytes().count(1)
    except FileNotFoundError:
        return 0


def outcomes(bench: Bench, count: int) -> dict[AttemptKey, Any]:
    found = [bench.outcome() for _ in range(count)]
    return {one.attempt: one for one in found}


def failure(outcome: Any) -> tuple[str, str]:
    assert isinstance(outcome, protocol.Failed), outcome
    return outcome.kind, outcome.error


def test_a_silent_source_holds_up_nobody_else(bench: Bench, hub: Hub, near: Manifest, far: Manifest) -> None:
    hang(hub, far)
    cold = bench.submit(far)
    until(lambda: arrived(bench, far) > 0)
    assert isinstance(bench.run(near), Finished)
    bench.engine.stage(protocol.Stage(version=near.digest))
    assert isinstance(bench.run(near), Finished)
    hub.hangs.set()
    outcome = bench.outcome()
    assert (outcome.attempt, isinstance(outcome, Finished)) == (cold, True)


def test_a_cancel_ends_the_wait_at_once_and_what_arrived_is_kept(
    bench: Bench, hub: Hub, far: Manifest
) -> None:
    hang(hub, far)
    cold = bench.submit(far)
    until(lambda: arrived(bench, far) >= 2)
    began = time.monotonic()
    bench.engine.cancel(cold)
    assert failure(bench.outcome()) == ("cancelled", "cancelled")
    assert time.monotonic() - began < 5  # the source hangs for a minute
    kept = arrived(bench, far)
    hub.hangs.set()
    asked = len(hub.requests)
    time.sleep(0.2)
    assert (arrived(bench, far) - kept <= TERMS.connections, len(hub.requests)) == (True, asked)
    assert isinstance(bench.run(far), Finished)
    ranges = [
        asked.removeprefix("bytes=").split("-")
        for _, path, asked in hub.requests[asked:]
        if asked and path.endswith(weights(far).path)
    ]
    assert min(int(start) for start, _ in ranges) >= TERMS.block_bytes


def test_a_download_that_another_request_wants_goes_on_when_the_first_is_cancelled(
    bench: Bench, hub: Hub, far: Manifest
) -> None:
    hang(hub, far)
    first, second = bench.submit(far), bench.submit(far)
    until(lambda: arrived(bench, far) >= 2)
    bench.engine.cancel(first)
    hub.hangs.set()
    found = outcomes(bench, 2)
    assert failure(found[first]) == ("cancelled", "cancelled")
    assert isinstance(found[second], Finished)


def test_what_is_handed_back_is_not_fetched_any_more(bench: Bench, hub: Hub, far: Manifest) -> None:
    hang(hub, far)
    cold = bench.submit(far)
    bench.engine.stage(protocol.Stage(version=far.digest))
    until(lambda: arrived(bench, far) >= 2)
    assert bench.engine.drain() == (cold,)
    hub.hangs.set()
    until(lambda: not bench.engine._mover._open)
    asked = len(hub.requests)
    until(lambda: not bench.engine._shelf.tiers["disk"].pinned)
    assert (len(hub.requests), bench.engine.running()) == (asked, ())
    bench.engine.check_integrity()


def test_a_source_that_is_silent_for_too_long_is_named(
    bench: Bench, hub: Hub, far: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang(hub, far, times=20)
    bench.engine._mover._look_seconds = 0.1
    cold = bench.submit(far)
    until(lambda: arrived(bench, far) >= 2)
    bench.engine._mover._silent_seconds = 0.3
    outcome = bench.outcome()
    assert (outcome.attempt, failure(outcome)) == (cold, ("host", "source_down"))


def test_a_weight_file_that_vanished_is_fetched_and_the_picture_is_the_same(
    bench: Bench, hub: Hub, near: Manifest, far: Manifest
) -> None:
    expected = bench.picture(far)
    bench.engine._shelf.evict_idle()
    for blob in (bench.home / "blobs/sha256").glob("*/*"):
        blob.unlink()
    assert bench.picture(far) == expected
    bench.engine.check_integrity()


def test_an_input_that_is_not_decodable_costs_no_download(bench: Bench, hub: Hub, far: Manifest) -> None:
    bench.submit(far, image_url=picture_uri()[:-200])
    kind, error = failure(bench.outcome())
    assert (kind, error) == ("input", "invalid_input")
    assert hub.gets(weights(far).path) == 0


def test_a_mover_that_hangs_is_seen(bench: Bench, near: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that never returns: of a mount that is gone."""

    def never(*call: Any, **named: Any) -> Any:
        time.sleep(2)
        raise OSError("at last")

    monkeypatch.setattr(reader, "read", never)
    key = bench.submit(near)
    until(lambda: any(s.where == "mover" and s.seconds > 0.5 for s in bench.engine.stalled()))
    (stall,) = bench.engine.stalled()
    assert (stall.where, stall.attempt) == ("mover", key)
    assert failure(bench.outcome())[0] == "host"


@pytest.mark.parametrize("requests", [1, ASIDES + 2])
def test_a_prewarm_that_is_read_lets_requests_go_first_but_not_for_ever(
    bench: Bench,
    near: Manifest,
    models: tuple[Manifest, Manifest],
    monkeypatch: pytest.MonkeyPatch,
    requests: int,
) -> None:
    """The mover reads one thing at a time: a prewarm of 30 GB kept a request with warm weights for half a minute."""
    other, read = models[1], reader.read
    bench.picture(near)
    begun, may_go_on = [], threading.Event()

    def slowly(*call: Any, on_block: Callable[[Block], None], **named: Any) -> Any:
        begun.append(1)
        for _ in range(1000):
            if may_go_on.wait(0.01):
                break
            on_block(Block(0, (Piece(0, 0, 0),)))
        return read(*call, on_block=on_block, **named)

    monkeypatch.setattr(reader, "read", slowly)
    bench.engine.describe(protocol.DescribeVersion(digest=other.digest, manifest=other))
    bench.engine.stage(protocol.Stage(version=other.digest))
    for number in range(min(requests, ASIDES)):
        until(lambda number=number: len(begun) > number)
        assert isinstance(bench.run(near), Finished)
    until(lambda: len(begun) > min(requests, ASIDES))
    late = [bench.submit(near) for _ in range(requests - ASIDES)]
    may_go_on.set()
    assert set(outcomes(bench, len(late))) == set(late)
    on_device = {component.digest for component in other.components}
    until(lambda: on_device <= {held.digest for held in bench.engine.held() if held.tier == "device"})
