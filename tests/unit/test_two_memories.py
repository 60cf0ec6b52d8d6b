"""A device with memory of its own, from the mover's copies to what the router hears, without there being one."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loaders import merging, protocol
from loaders.pipelines import built
from loaders.running import Finished
from registry import folders
from registry.catalog import AdapterManifest, Manifest
from tests import architectures, pretend
from tests.bench import Bench
from tests.pretend import Pretend, PretendDevice
from tests.sequences import Zoo

Reported = set[tuple[str, str]]  # tier, digest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    root = tmp_path_factory.mktemp("tiny")
    return [
        folders.read_pipeline(architectures.write(root / str(seed), "flux", seed=seed)) for seed in (1, 2, 3)
    ]


@pytest.fixture(scope="module")
def pictures(models: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """As a CPU makes them, whose memory is the device's."""
    bench = Bench(tmp_path_factory.mktemp("home"), 1 << 30)
    found = [bench.picture(model) for model in models]
    bench.engine.close()
    return found


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretend]:
    pretend.patched(monkeypatch.setattr)
    made = Pretend()
    yield made
    assert made.violations == []


Made = Callable[[int, int], Bench]


@pytest.fixture
def make(accelerator: Pretend, tmp_path: Path) -> Iterator[Made]:
    """An engine with so much room on the device and in memory."""
    made: list[Bench] = []

    def bench(device_bytes: int, memory_bytes: int) -> Bench:
        device = PretendDevice(accelerator)
        made.append(Bench(tmp_path / "home", device_bytes, memory_bytes=memory_bytes, device=device))
        return made[-1]

    yield bench
    for one in made:
        one.engine.close()
        one.engine.check_integrity()


def size(bench: Bench, model: Manifest) -> int:
    """Of a model on the device, once it has run."""
    own = {component.digest for component in model.components}
    return sum(
        held.size_bytes for held in bench.engine.held() if held.tier == "device" and held.digest in own
    )


def where(bench: Bench, model: Manifest) -> set[str]:
    own = {component.digest for component in model.components}
    return {held.tier for held in bench.engine.held() if held.digest in own}


def test_weights_go_down_tier_by_tier_and_come_back_exactly(
    make: Made, models: list[Manifest], pictures: list[bytes]
) -> None:
    first = make(1 << 30, 1 << 30)
    assert first.picture(models[0]) == pictures[0]
    one = size(first, models[0])
    first.engine.close()
    bench = make(int(one * 1.2), int(one * 2.2))
    believed: Reported = set()
    outcomes = []
    tell = bench.engine._listener

    def listen(event: Any) -> None:
        if isinstance(event, protocol.Residency):
            believed.difference_update((held.tier, held.digest) for held in event.removed)
            believed.update((held.tier, held.digest) for held in event.added)
        tell(event)

    bench.engine.listen(listen)
    believed |= {(held.tier, held.digest) for held in bench.engine.held()}
    for turn in (0, 1, 2, 0):
        assert bench.picture(models[turn]) == pictures[turn]
        outcomes.append([where(bench, model) for model in models])
        assert believed == {(held.tier, held.digest) for held in bench.engine.held()}
    disk, memory, device = {"disk"}, {"disk", "memory"}, {"disk", "memory", "device"}
    assert outcomes == [
        [device, set(), set()],
        [memory, device, set()],
        [disk, memory, device],
        [device, disk, memory],
    ]
    assert {tier: cache.used_bytes <= cache.budget_bytes for tier, cache in bench.engine._shelf.tiers.items()} == {
        "disk": True, "memory": True, "device": True,
    }  # fmt: skip


def test_what_is_in_memory_is_copied_and_not_read(
    make: Made,
    accelerator: Pretend,
    models: list[Manifest],
    pictures: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = make(1 << 30, 1 << 30)
    bench.picture(models[0])
    one = accelerator.sent_bytes
    bench.engine._shelf.evict_idle()
    monkeypatch.setattr("loaders.reader.read", None)
    assert bench.picture(models[0]) == pictures[0]
    assert accelerator.sent_bytes == 2 * one
    assert accelerator.entered == [("mover", True), ("device", False)]


def test_next_weights_are_on_the_device_before_the_present_run_is_over(
    make: Made,
    accelerator: Pretend,
    models: list[Manifest],
    pictures: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of it waits for the stream that computes, nor the other way round."""
    bench = make(1 << 30, 1 << 30)
    bench.picture(models[0])
    one, real = accelerator.sent_bytes, built.run

    def run(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        key = bench.submit(models[1])
        while not bench.engine._jobs[key].waits_for_device:
            pass
        assert accelerator.sent_bytes == 2 * one
        assert not accelerator._under_way[-1].has_landed, "it comes when its own run waits for it"
        monkeypatch.setattr(built, "run", real)
        return result

    monkeypatch.setattr(built, "run", run)
    assert bench.picture(models[0]) == pictures[0]
    outcome = bench.outcome()
    assert isinstance(outcome, Finished)
    assert outcome.outputs[0] == pictures[1]


@pytest.mark.parametrize("way", ["kept", "streamed"])
def test_loras_cross_like_weights(
    make: Made, accelerator: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    zoo = Zoo(tmp_path / "models")
    uses: dict[AdapterManifest, float] = {zoo.loras[0][0]: 1.0, zoo.loras[0][2]: 0.5}
    plain = Bench(tmp_path / "plain", 1 << 30)
    expected = plain.picture(zoo.variants[0], uses), plain.picture(zoo.variants[0])
    plain.engine.close()
    monkeypatch.setattr(
        merging.ways, "choose", lambda *_: merging.ways.Choice(way=way, reason="told", seconds={})
    )  # type: ignore[arg-type]
    bench = make(1 << 30, 1 << 30)
    for _ in range(2):
        assert (bench.picture(zoo.variants[0], uses), bench.picture(zoo.variants[0])) == expected
        bench.engine._shelf.evict_idle()


def test_eight_bit_weights_cross_like_weights(make: Made, models: list[Manifest], tmp_path: Path) -> None:
    pictures = []
    for bench in (Bench(tmp_path / "plain", 1 << 30), make(1 << 30, 1 << 30)):
        bench.defaults = {"storage": "float8_e4m3fn"}
        pictures.append(bench.picture(models[0]))
        bench.engine.close()
    assert pictures[0] == pictures[1]


def test_a_full_device_is_emptied_and_tried_once_more(
    make: Made, accelerator: Pretend, models: list[Manifest], pictures: list[bytes]
) -> None:
    """Somebody else took memory that the budget counts on."""
    bench = make(1 << 30, 1 << 30)
    bench.picture(models[0])
    accelerator.capacity_bytes = int(sum(accelerator.taken.values()) * 1.5)
    assert bench.picture(models[1]) == pictures[1]
    assert (where(bench, models[0]), where(bench, models[1])) == (
        {"disk", "memory"},
        {"disk", "memory", "device"},
    )
    accelerator.capacity_bytes = 1000
    bench.submit(models[2])
    outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error, bench.engine.is_broken) == ("host", "out_of_memory", False)
    accelerator.capacity_bytes = 1 << 40
    assert bench.picture(models[2]) == pictures[2]


def test_full_host_memory_is_made_room_in_and_not_on_the_device(
    make: Made,
    accelerator: Pretend,
    models: list[Manifest],
    pictures: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = make(1 << 30, 1 << 30)
    bench.picture(models[0])
    real, failures = accelerator.pin, [1]

    def pin(address: int, size_bytes: int) -> None:
        if failures:
            failures.pop()
            raise MemoryError
        real(address, size_bytes)

    monkeypatch.setattr(accelerator, "pin", pin)
    assert bench.picture(models[1]) == pictures[1]
    assert (where(bench, models[0]), failures) == ({"disk", "device"}, [])


def test_activations_are_measured_on_the_device_and_their_room_is_kept_free(
    make: Made, accelerator: Pretend, models: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, real = make(1 << 30, 1 << 30), built.run
    reserved: list[int] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        reserved.append(bench.engine._shelf.tiers["device"].reserved_bytes)
        accelerator.room(12345)
        return real(*args, **kwargs)

    monkeypatch.setattr(built, "run", run)
    bench.picture(models[0])
    bench.picture(models[0])
    assert reserved[1] == 12345 != reserved[0]


def test_a_run_in_which_weights_leave_teaches_nothing(
    make: Made, accelerator: Pretend, models: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken before it is less by them, so the peak would seem lower than it is."""
    bench, real = make(1 << 30, 1 << 30), built.run
    bench.picture(models[1])

    def run(*args: Any, **kwargs: Any) -> Any:
        bench.engine._shelf.evict_idle()
        accelerator.room(12345)
        return real(*args, **kwargs)

    monkeypatch.setattr(built, "run", run)
    known = bench.engine._headroom._peaks[models[0].architecture]
    bench.picture(models[0])
    assert bench.engine._headroom._peaks == {models[0].architecture: known}


BROKEN = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        pytest.param(BROKEN, BROKEN, ("host", "device_broken", True), id="found by CUDA"),
        pytest.param(
            RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"),
            BROKEN,
            ("host", "device_broken", True),
            id="by a library",
        ),
        pytest.param(
            torch.AcceleratorError("CUDA error: invalid configuration argument"),
            None,
            ("model", "pipeline_failed", False),
            id="a kernel was launched wrongly, and the next one works",
        ),
        pytest.param(
            RuntimeError("shapes"), None, ("model", "pipeline_failed", False), id="an ordinary error"
        ),
    ],
)
def test_a_device_is_broken_when_it_takes_no_more_work(
    make: Made,
    accelerator: Pretend,
    models: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
    first: Exception,
    then: Exception | None,
    expected: tuple[str, str, bool],
) -> None:
    bench = make(1 << 30, 1 << 30)

    def run(*args: Any, **kwargs: Any) -> Any:
        accelerator.error = then
        raise first

    monkeypatch.setattr(built, "run", run)
    bench.submit(models[0])
    outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error, bench.engine.is_broken) == expected
    accelerator.error = None


def test_a_copy_that_fails_late_is_the_devices_fault(
    make: Made, accelerator: Pretend, models: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, real = make(1 << 30, 1 << 30), accelerator.send

    def send(source: torch.Tensor, target: torch.Tensor) -> Any:
        mark = real(source, target)
        accelerator.error = BROKEN
        return mark

    monkeypatch.setattr(accelerator, "send", send)
    bench.submit(models[0])
    outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error, bench.engine.is_broken) == ("host", "device_broken", True)
    accelerator.error = None


def test_a_prewarm_that_meets_a_broken_device_says_so_too(
    make: Made, accelerator: Pretend, models: list[Manifest]
) -> None:
    bench = make(1 << 30, 1 << 30)
    bench.picture(models[0])
    described = protocol.DescribeVersion(digest=models[1].digest, manifest=models[1], defaults={})
    bench.engine.describe(described)
    accelerator.error = BROKEN
    bench.engine.stage(protocol.Stage(version=models[1].digest))
    deadline = time.monotonic() + 30
    while not bench.engine.is_broken:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    accelerator.error = None


def test_weights_stay_until_kernels_that_read_them_are_done(
    make: Made,
    accelerator: Pretend,
    models: list[Manifest],
    pictures: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a run ends in the middle: Python is far ahead of a GPU then."""
    bench, real = make(1 << 30, 1 << 30), built.run

    def run(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(built, "run", run)
    bench.submit(models[0])
    bench.outcome()
    bench.engine._shelf.evict_idle()
    monkeypatch.setattr(built, "run", real)
    assert bench.picture(models[0]) == pictures[0]
    assert accelerator._read == set()
