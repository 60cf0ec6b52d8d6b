"""The engine on tiny random pipelines: right weights, exact swaps, nothing left behind. No database, no network."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from loaders import adapters, items, protocol
from loaders.interest import Interest
from loaders.running import Finished
from registry import folders
from tests import architectures
from tests.bench import Bench, in_place


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(device_bytes: int = 1 << 30) -> Bench:
        made.append(Bench(tmp_path / f"home{len(made)}", device_bytes))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()
        one.engine.check_integrity()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("tiny")
    base = folders.read_pipeline(architectures.write(root / "base", "flux", seed=1))
    other = folders.read_pipeline(architectures.write(root / "other", "flux", seed=2))
    lora = architectures.write_lora(root / "lora.safetensors", root / "base", seed=5)
    pairs = load_file(lora)
    touched = sum(
        pairs[name].shape[1] * pairs[name.replace("lora_A", "lora_B")].shape[0] * 4
        for name in pairs
        if "lora_A" in name
    )
    foreign_base = folders.read_pipeline(architectures.write(root / "sd15", "sd15"))
    foreign = architectures.write_lora(root / "foreign.safetensors", root / "sd15")
    return {
        "base": base,
        "other": other,
        "lora": adapters.describe(lora, architecture=base.architecture),
        "touched_bytes": touched,
        "foreign": adapters.describe(foreign, architecture=foreign_base.architecture),
        "sd15": foreign_base,
    }


def test_base_lora_other_base_is_exact(bench: Callable[..., Bench], models: dict[str, Any]) -> None:
    engine = bench()
    first = engine.picture(models["base"])
    with_lora = engine.picture(models["base"], {models["lora"]: 1.0})
    other = engine.picture(models["other"])
    assert engine.picture(models["base"]) == first
    assert len({first, with_lora, other}) == 3
    assert bench().picture(models["base"]) == first


def test_a_budget_for_one_model_changes_no_bits(bench: Callable[..., Bench], models: dict[str, Any]) -> None:
    roomy, tight = bench(), bench(int(models["base"].size_bytes * 1.5))
    for _ in range(2):
        for name in ("base", "other"):
            assert roomy.picture(models[name]) == tight.picture(models[name])
    tight.engine.check_integrity()


def test_a_local_model_needs_no_room_on_the_homes_disk(tmp_path: Path, models: dict[str, Any]) -> None:
    engine = Bench(tmp_path, 1 << 30, disk_bytes=1 << 10)
    engine.picture(models["base"], {models["lora"]: 1.0})
    digests = {component.digest for component in models["base"].components} | {models["lora"].digest}
    on_disk = {held.digest: held.size_bytes for held in engine.engine.held() if held.tier == "disk"}
    engine.engine.close()
    engine.engine.check_integrity()
    assert on_disk == dict.fromkeys(digests, 0)
    again = Bench(tmp_path, 1 << 30, disk_bytes=1 << 10)  # a restart remembers it in the same way
    remembered = {held.digest: held.size_bytes for held in again.engine.held()}
    again.engine.close()
    assert remembered == on_disk


def test_what_leaves_the_device_leaves_memory_at_once(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    """Runs leave cycles behind; where those held weights, budgets were passed until the collector came."""
    engine = bench()
    gc.collect()
    gc.disable()
    try:
        engine.picture(models["base"], {models["lora"]: 1.0})
        engine.picture(models["sd15"])
        shelf = engine.engine._shelf
        arenas = [
            weakref.ref(payload.arena)
            for payload in shelf._payloads["device"].values()
            if isinstance(payload, items.Bound)
        ]
        for _ in range(100):  # the run's last lines come after its report
            shelf.evict_idle()
            if not any(arena() for arena in arenas):
                break
            time.sleep(0.02)
        assert (len(arenas) > 5, [arena() for arena in arenas if arena()]) == (True, [])
    finally:
        gc.enable()


def test_weights_of_a_launch_are_kept_until_its_time(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    one = bench()
    base, lora = models["base"], models["lora"]
    one.engine.describe(protocol.DescribeVersion(digest=base.digest, manifest=base))
    one.engine.describe(protocol.DescribeAdapter(digest=lora.digest, manifest=lora))
    order = protocol.Stage(version=base.digest, adapters=(lora.digest,), pin_until=time.time() + 500)
    in_place(one.engine._prewarmed(order, Interest()))
    cache = one.engine._shelf.tiers["device"]
    assert cache.pinned == frozenset()
    assert set(cache._kept) == {component.digest for component in base.components} | {lora.digest}
    assert {round(until - time.monotonic(), -1) for until in cache._kept.values()} == {500}


def test_a_lora_for_another_architecture_is_refused(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    engine = bench()
    engine.submit(models["base"], {models["foreign"]: 1.0})
    outcome = engine.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error, outcome.location) == ("input", "adapter_incompatible", ("loras",))


def test_without_room_for_merged_copies_a_lora_runs_all_the_same(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    roomy = bench()
    base = roomy.picture(models["base"])
    kept = [roomy.run(models["base"], {models["lora"]: scale}) for scale in (1.0, -0.5)]
    in_use = sum(held.size_bytes for held in roomy.engine.held() if held.tier == "device")
    tight = bench(in_use + models["touched_bytes"] - 1)
    streamed = [tight.run(models["base"], {models["lora"]: scale}) for scale in (1.0, -0.5)]
    assert [one.outputs for one in streamed] == [one.outputs for one in kept]
    assert [one.done.how["lora"].partition(" ")[0] for one in kept + streamed] == [
        "kept:",
        "kept:",
        "streamed:",
        "streamed:",
    ]
    assert tight.picture(models["base"]) == base


def test_a_lora_comes_while_the_request_before_runs(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    engine = bench()
    expected = engine.picture(models["base"], {models["lora"]: 1.0})
    other = bench()
    running = other.submit(models["base"], num_inference_steps=500)
    while not isinstance(other.events.get(timeout=60), protocol.Progress):
        pass
    other.submit(models["base"], {models["lora"]: 1.0})
    arrived: set[str] = set()
    while models["lora"].digest not in arrived:
        event = other.events.get(timeout=60)
        assert not isinstance(event, Finished | protocol.Failed)  # the long run is still on the device
        if isinstance(event, protocol.Residency):
            arrived |= {held.digest for held in event.added if held.tier == "device"}
    other.engine.cancel(running)
    assert isinstance(other.outcome(), protocol.Failed)
    outcome = other.outcome()
    assert isinstance(outcome, Finished)
    assert outcome.outputs[0] == expected


def test_a_cancelled_run_stops_and_the_next_is_exact(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    engine = bench()
    expected = engine.picture(models["base"])
    key = engine.submit(models["base"], num_inference_steps=500)
    while not isinstance(engine.events.get(timeout=60), protocol.Progress):
        pass
    engine.engine.cancel(key)
    outcome = engine.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert outcome.kind == "cancelled"
    assert engine.picture(models["base"]) == expected


def test_a_cancel_of_what_waits_for_the_device_does_not_wait(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    engine = bench()
    expected = engine.picture(models["base"])
    long = engine.submit(models["base"], num_inference_steps=500)
    next_one = engine.submit(models["base"])
    job = engine.engine._jobs[next_one]
    while job.ready_at is None:
        time.sleep(0.01)
    engine.engine.cancel(next_one)
    engine.engine.cancel(next_one)
    outcome = engine.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.attempt, outcome.kind, engine.engine.running()) == (next_one, "cancelled", (long,))
    engine.engine.cancel(long)
    assert isinstance(engine.outcome(), protocol.Failed)
    assert engine.picture(models["base"]) == expected


def test_a_cancel_in_the_middle_of_a_step_lets_no_other_begin(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    engine = bench()
    engine.picture(models["base"])
    built = engine.engine._assembly.ready(models["base"], {}).built
    steps: list[int] = []

    def cancel_in_the_third(*call: Any) -> None:
        steps.append(len(steps) + 1)
        if steps[-1] == 3:
            engine.engine.cancel(*engine.engine.running())

    hook = built.slots["transformer"].module.register_forward_pre_hook(cancel_in_the_third)
    engine.submit(models["base"], num_inference_steps=9)
    outcome = engine.outcome()
    hook.remove()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, steps) == ("cancelled", [1, 2, 3])


def test_an_argument_the_model_does_not_take_is_named(
    bench: Callable[..., Bench], models: dict[str, Any]
) -> None:
    engine = bench()
    engine.submit(models["base"], strength=0.5)
    outcome = engine.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error, outcome.location) == ("input", "invalid_input", ("strength",))
